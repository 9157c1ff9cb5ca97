"""Checkpoints: from the name of weights to a model with these weights."""
