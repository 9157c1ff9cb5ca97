"""Masks and maps of images from the mask logits of queries."""
