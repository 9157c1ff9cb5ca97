"""From the name of weights to a model that has them."""
