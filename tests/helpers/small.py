"""Small models: the real backbone, a narrow transformer, small images."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_rules import Golden, tensor_by_name
from PIL import Image
from torch import Tensor, nn

from detrcli.architectures import architectures, detr
from detrcli.architectures.architecture import Architecture
from detrcli.architectures.deformable_detr import DeformableConfig
from detrcli.architectures.detr import DETRConfig
from detrcli.architectures.dino import DINOConfig
from detrcli.architectures.mask_heads import CONVOLUTIONAL
from detrcli.architectures.tiny import TinyConfig
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.config import LossConfig, ModelConfig, Preprocessing
from detrcli.data.make import make_shapes
from detrcli.resize import ShortestEdge
from detrcli.structures import Classes, Output, QueryGroup

CONFIG = DETRConfig(encoder_layers=1, decoder_layers=2, dim=32, heads=4, feed_forward=64, queries=9, classes=3)
TINY = TinyConfig(queries=9, classes=3)
BOTH = pytest.mark.parametrize("config", [CONFIG, TINY], ids=["detr", "detr-tiny"])
NARROW: dict[str, Any] = {
    "encoder_layers": 1, "decoder_layers": 2, "dim": 32, "heads": 4, "feed_forward": 64, "queries": 9, "classes": 3
}  # fmt: skip
DEFORMABLE = DeformableConfig(**NARROW)
TWO_STAGE = DeformableConfig(**NARROW, refine=True, two_stage=True, proposal_rows=3)
DINO_CONFIG = DINOConfig(**NARROW, denoising=6)


def architecture_of(config: ModelConfig) -> Architecture[Any]:
    """The architecture of a detector without a mask head, by the type of its config."""
    return next(a for a in architectures().values() if a.config is type(config) and a.detector is None)


@cache
def small_weights(config: ModelConfig = CONFIG, architecture: Architecture[Any] | None = None) -> Checkpoint:
    """Weights by the rules of the reference values, under our own names. Shared by tests: do not change them."""
    architecture = architecture or architecture_of(config)
    gains = {"cross_attention.out_proj": 6.0, "box_head": 2.0, "class_head": 2.0}
    return Checkpoint(
        "small",
        architecture,
        config,
        {
            name: tensor_by_name(name, list(value.shape), gains)
            if value.is_floating_point()
            else torch.zeros(value.shape, dtype=value.dtype)  # counters of batch norm
            for name, value in architecture.unfilled(config).state_dict().items()
        },
        Classes(ids=np.array([7, 1, 4_000_000_007][: config.classes]), names=np.array(["cat", "dog", "Żubr"])),
        Preprocessing(ShortestEdge(64, 106)),
        LossConfig(),
    )


def noise() -> Image.Image:
    """An image of 90 x 60 random pixels."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))


def add_proposals(monkeypatch: pytest.MonkeyPatch, model: nn.Module) -> None:
    """Let a model return the first seven queries of its first layer as a further group."""
    forward = type(model).forward

    def with_proposals(model: Any, batch: object, targets: object = None) -> Output:
        decoder = forward(model, batch, targets).decoder
        return Output(decoder, (QueryGroup("encoder", decoder.logits[:1, :, :7], decoder.boxes[:1, :, :7]),))

    monkeypatch.setattr(type(model), "forward", with_proposals)


def masked_weights() -> Checkpoint:
    """The small DETR with the mask head of its paper."""
    return small_weights(CONFIG, CONVOLUTIONAL)


def published_names(config: DETRConfig = CONFIG, *, masks: bool = False) -> dict[str, Tensor]:
    """The small model's tensors under the published names, by inverting the adapter on a model's own list."""
    architecture = CONVOLUTIONAL if masks else detr.ARCHITECTURE
    models = ["detr-r50-panoptic"] if masks else ["detr-r50-learned-prenorm", "detr-r50"]
    golden = [name for model in models for name in Golden(model).facts["state_dict"]]
    assert architecture.published is not None
    theirs = {ours: name for name in golden for ours in architecture.published.rename({name: torch.empty(0)})}
    return {theirs[name]: tensor for name, tensor in small_weights(config, architecture).tensors.items()}


def shapes_with_small_classes(folder: Path) -> None:
    """Write shapes under the class names of the small models. The last image of each split has no objects."""
    make_shapes(folder, images=30, size=64, classes=("circle", "square", "star"), objects=4)
    for split in ("train", "val"):
        path = folder / "annotations" / f"instances_{split}.json"
        document = json.loads(path.read_text())
        for category, name in zip(document["categories"], ("dog", "cat", "Żubr"), strict=True):
            category["name"] = name
        last = document["images"][-1]["id"]
        document["annotations"] = [entry for entry in document["annotations"] if entry["image_id"] != last]
        path.write_text(json.dumps(document))


def smooth_noise(seed: int, size: tuple[int, int]) -> Image.Image:
    """A smooth random image of (width, height)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
