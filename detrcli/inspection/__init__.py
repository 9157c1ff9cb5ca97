"""Attention, matching and errors of a model, as numbers. Nothing here draws."""
