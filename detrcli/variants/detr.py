"""DETR as published (arXiv 2005.12872)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from detrcli.config import LossConfig, MatchingConfig, Preprocessing
from detrcli.losses.criterion import ClassTerm, Criterion, GIoUTerm, L1Term
from detrcli.losses.matching import Matcher
from detrcli.model.backbone import NORMS, ResNet
from detrcli.model.detr import DETR
from detrcli.model.position import LearnedPosition, SinePosition
from detrcli.model.transformer import Decoder, Encoder
from detrcli.variants.variant import Kind, ModelConfig


@dataclass(frozen=True)
class DETRConfig(ModelConfig):
    """All numbers of the model."""

    backbone: Literal["resnet50", "resnet101"] = "resnet50"
    norm: Literal["frozen", "batch", "group"] = "frozen"
    dilated: bool = False  # DC5: the last stage keeps its resolution
    position: Literal["sine", "learned"] = "sine"
    pre_norm: bool = False
    encoder_layers: int = 6
    decoder_layers: int = 6
    dim: int = 256
    heads: int = 8
    feed_forward: int = 2048
    dropout: float = 0.1
    queries: int = 100
    classes: int = 91  # the highest COCO id + 1; "no object" comes on top


PRESETS = {
    "detr-r50": DETRConfig(),
    "detr-r50-dc5": DETRConfig(dilated=True),
    "detr-r101": DETRConfig(backbone="resnet101"),
    "detr-r101-dc5": DETRConfig(backbone="resnet101", dilated=True),
}


def build(config: DETRConfig) -> DETR:
    """The network, with the published random start. Frozen norms come with a frozen stem, as published."""
    c = config
    backbone = ResNet(c.backbone, norm=NORMS[c.norm], dilated=c.dilated)
    backbone.freeze("stem" if c.norm == "frozen" else "none")
    position: nn.Module = LearnedPosition(c.dim) if c.position == "learned" else SinePosition(c.dim)
    return DETR(
        backbone=backbone,
        position=position,
        encoder=Encoder(c.encoder_layers, c.dim, c.heads, c.feed_forward, c.dropout, pre_norm=c.pre_norm),
        decoder=Decoder(c.decoder_layers, c.dim, c.heads, c.feed_forward, c.dropout, pre_norm=c.pre_norm),
        dim=c.dim,
        queries=c.queries,
        classes=c.classes,
    )


KIND = Kind(
    name="detr",
    config=DETRConfig,
    build=build,
    preprocessing=Preprocessing(),
    per_query={"queries.weight": lambda c: torch.randn(c.queries, c.dim)},
)


def build_criterion(loss: LossConfig | None = None, matching: MatchingConfig | None = None) -> Criterion:
    """The set prediction loss, with the published weights unless told otherwise."""
    loss = loss or LossConfig()
    terms = (ClassTerm(loss.loss_class, loss.no_object), L1Term(loss.loss_l1), GIoUTerm(loss.loss_giou))
    return Criterion(Matcher(matching), terms)
