"""Datasets: layouts, checks, augmentation, preprocessing, and the built-in `shapes`."""
