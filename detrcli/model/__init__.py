"""The network, in the paper's nouns. It knows no config, no loss and no data."""
