"""A small RF-DETR with masks, with random weights, in the folder that transformers writes."""

from functools import cache
from pathlib import Path

from families import config_of, processor_of, root, saved
from transformers import AutoModelForInstanceSegmentation

# Scales of some weights, with which masks cover a part of the image.
LIVELY = {"segmentation_bias": 0.0, "query_features_proj": 6.0, "spatial_features_proj": 3.0}


@cache
def folder_of() -> Path:
    kind, config = AutoModelForInstanceSegmentation, config_of("rf")
    return saved(root() / "rf-masks", kind, config, processor_of("rf"), seed=0, scales=LIVELY)
