"""DETR as published (arXiv 2005.12872)."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from detrcli.config import Config, LossConfig, MatchingConfig
from detrcli.criterion import ClassTerm, Criterion, GIoUTerm, L1Term
from detrcli.matching import Matcher
from detrcli.model.backbone import Backbone
from detrcli.model.detr import DETR
from detrcli.model.position import LearnedPosition, SinePosition
from detrcli.model.transformer import Decoder, Encoder


@dataclass(frozen=True)
class DETRConfig(Config):
    """All numbers of the model."""

    backbone: Literal["resnet50", "resnet101"] = "resnet50"
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


def build(config: DETRConfig) -> DETR:
    """The network, with the published random start."""
    c = config
    position: nn.Module = LearnedPosition(c.dim) if c.position == "learned" else SinePosition(c.dim)
    return DETR(
        backbone=Backbone(c.backbone, dilated=c.dilated),
        position=position,
        encoder=Encoder(c.encoder_layers, c.dim, c.heads, c.feed_forward, c.dropout, pre_norm=c.pre_norm),
        decoder=Decoder(c.decoder_layers, c.dim, c.heads, c.feed_forward, c.dropout, pre_norm=c.pre_norm),
        dim=c.dim,
        queries=c.queries,
        classes=c.classes,
    )


def build_criterion(loss: LossConfig | None = None, matching: MatchingConfig | None = None) -> Criterion:
    """The set prediction loss, with the published weights unless told otherwise."""
    loss = loss or LossConfig()
    terms = (ClassTerm(loss.loss_class, loss.no_object), L1Term(loss.loss_l1), GIoUTerm(loss.loss_giou))
    return Criterion(Matcher(matching), terms)
