"""DETR, the detection transformer, to train, evaluate, predict with and look inside."""

__version__ = "0.1.0"
