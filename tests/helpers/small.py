"""A DETR small enough to be run often: the real backbone, a narrow transformer, small pictures."""

from functools import cache
from typing import Any

import numpy as np
import torch
from golden_rules import Golden, tensor_by_name
from torch import Tensor

from detrcli.architectures import architecture_of
from detrcli.architectures.deformable_detr import DeformableConfig
from detrcli.architectures.detr import DETRConfig
from detrcli.architectures.detr_masks import DETRMasksConfig
from detrcli.architectures.detr_names import PUBLISHED, masked_name, rename
from detrcli.architectures.dino import DINOConfig
from detrcli.architectures.tiny import TinyConfig
from detrcli.architectures.with_masks import DETECTOR
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.config import LossConfig, ModelConfig, Preprocessing
from detrcli.resize import ShortestEdge
from detrcli.structures import Classes

CONFIG = DETRConfig(encoder_layers=1, decoder_layers=2, dim=32, heads=4, feed_forward=64, queries=9, classes=3)
TINY = TinyConfig(queries=9, classes=3)
NARROW: dict[str, Any] = {
    "encoder_layers": 1, "decoder_layers": 2, "dim": 32, "heads": 4, "feed_forward": 64, "queries": 9, "classes": 3
}  # fmt: skip
MASKED = DETRMasksConfig(**NARROW)
DEFORMABLE = DeformableConfig(**NARROW)
TWO_STAGE = DeformableConfig(**NARROW, refine=True, two_stage=True, proposal_rows=3)
DINO_CONFIG = DINOConfig(**NARROW, denoising=6)


@cache
def small_weights(config: ModelConfig = CONFIG) -> Checkpoint:
    """Weights by the rules of the reference values, under our own names. Not to be changed: they are shared."""
    with torch.device("meta"):
        state = architecture_of(config).build(config).state_dict()
    gains = {"cross_attention.out_proj": 6.0, "box_head": 2.0, "class_head": 2.0}
    return Checkpoint(
        source="small",
        config=config,
        tensors={
            name: tensor_by_name(name, list(value.shape), gains)
            if value.is_floating_point()
            else torch.zeros(value.shape, dtype=value.dtype)  # what batch norm counts
            for name, value in state.items()
        },
        classes=Classes(ids=np.array([7, 1, 4_000_000_007][: config.classes]), names=np.array(["cat", "dog", "Żubr"])),
        preprocessing=Preprocessing(ShortestEdge(64, 106)),
        loss=LossConfig(),
    )


def published_names(config: DETRConfig = CONFIG) -> dict[str, Tensor]:
    """The small model's tensors under the published names, by inverting a model's own list."""
    small = small_weights(config).tensors
    if isinstance(config, DETRMasksConfig):
        golden = Golden("detr-r50-panoptic").facts["state_dict"]
        theirs = {masked_name(name, DETECTOR): name for name in golden}
        return {theirs[name]: tensor for name, tensor in small.items()}
    golden = Golden("detr-r50-learned-prenorm").facts["state_dict"] | Golden("detr-r50").facts["state_dict"]
    theirs = {rename(name, PUBLISHED): name for name in golden}
    return {theirs[name]: tensor for name, tensor in small.items()}
