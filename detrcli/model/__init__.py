"""The networks, in the terms of the papers, without configs, losses and data."""
