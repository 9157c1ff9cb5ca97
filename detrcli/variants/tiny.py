"""A small member that learns from scratch on a CPU: small pictures, few objects, boxes that layers refine."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn

from detrcli.config import Preprocessing
from detrcli.model.backbone import Norm
from detrcli.model.position import SinePosition
from detrcli.model.refinement import RefiningDETR, spread
from detrcli.model.tiny_backbone import TinyBackbone
from detrcli.model.transformer import Decoder, Encoder
from detrcli.variants.variant import Kind, ModelConfig


@dataclass(frozen=True)
class TinyConfig(ModelConfig):
    """All numbers of the model."""

    norm: Literal["batch", "group"] = "batch"  # none is frozen: nobody has trained this backbone before
    width: int = 24  # channels after the first convolution; the features have four times as many
    encoder_layers: int = 2
    decoder_layers: int = 3
    dim: int = 128
    heads: int = 4  # narrow heads are slow on a CPU
    feed_forward: int = 512
    dropout: float = 0.0
    queries: int = 25
    classes: int = 5  # those of `shapes`


# Eight groups, since not all of its channels can be shared out among ResNet's 32.
NORMS: dict[str, Norm] = {"batch": nn.BatchNorm2d, "group": partial(nn.GroupNorm, 8)}


def build(config: TinyConfig) -> RefiningDETR:
    """The network, with its random start."""
    c = config
    return RefiningDETR(
        backbone=TinyBackbone(c.width, norm=NORMS[c.norm]),
        position=SinePosition(c.dim, temperature=20, turns=4),  # sharp enough to tell neighbours apart
        encoder=Encoder(c.encoder_layers, c.dim, c.heads, c.feed_forward, c.dropout, pre_norm=False),
        decoder=Decoder(c.decoder_layers, c.dim, c.heads, c.feed_forward, c.dropout, pre_norm=False),
        dim=c.dim,
        queries=c.queries,
        classes=c.classes,
    )


KIND = Kind(
    name="detr-tiny",
    config=TinyConfig,
    build=build,
    preprocessing=Preprocessing(size=128, max_size=213),
    per_query={
        "queries.contents": lambda c: torch.randn(c.queries, c.dim),
        "queries.references": lambda c: spread(c.queries),
    },
)
