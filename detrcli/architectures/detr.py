"""DETR as published (arXiv 2005.12872)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from detrcli.architectures import detr_names
from detrcli.architectures.architecture import Architecture, TrainedBackbone
from detrcli.config import Count, Layers, LossConfig, ModelConfig, Preprocessing, Share, Width
from detrcli.errors import UsageError
from detrcli.losses.criterion import Criterion
from detrcli.losses.matching import HungarianMatcher
from detrcli.losses.scoring import Scoring, Softmax
from detrcli.losses.terms import LossTerm, class_cost, class_loss, giou_cost, giou_loss, l1_cost, l1_loss
from detrcli.model.backbone import NORMS, ResNet
from detrcli.model.dense_attention import DenseInspectable
from detrcli.model.detr import DETR
from detrcli.model.position import LearnedPosition, SinePosition
from detrcli.model.transformer import Decoder, Encoder


@dataclass(frozen=True)
class DETRConfig(ModelConfig):
    """All numbers of the model."""

    backbone: Literal["resnet50", "resnet101"] = "resnet50"
    norm: Literal["frozen", "batch", "group"] = "frozen"
    dilated: bool = False  # DC5: the last stage keeps its resolution
    position: Literal["sine", "learned"] = "sine"
    pre_norm: bool = False
    encoder_layers: Layers = 6
    decoder_layers: Layers = 6
    dim: Width = 256
    heads: Width = 8
    feed_forward: Width = 2048
    dropout: Share = 0.1
    queries: Count = 100
    classes: Count = 91  # the highest COCO id + 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.dim, self.heads)


def check_heads(dim: int, heads: int) -> None:
    """Heads share out the dimensions, and positions take them by four."""
    if dim % heads or dim % 4:
        raise UsageError(f"dim = {dim}: it is a multiple of 4 and of the {heads} heads.")


PRESETS = {
    "detr-r50": DETRConfig(),
    "detr-r50-dc5": DETRConfig(dilated=True),
    "detr-r101": DETRConfig(backbone="resnet101"),
    "detr-r101-dc5": DETRConfig(backbone="resnet101", dilated=True),
}


EVERY_STAGE = (1, 2, 3, 4)  # of a ResNet


def build(config: DETRConfig, *, finer: bool = False) -> DETR:
    """The network, with the published random start. Frozen norms come with a frozen stem, as published.

    DETR itself needs the backbone's last stage alone; with `finer` a mask head is given the others too.
    """
    c = config
    stages = EVERY_STAGE if finer else (4,)
    backbone = ResNet(c.backbone, norm=NORMS[c.norm], dilated=c.dilated, stages=stages)
    backbone.freeze("stem" if c.norm == "frozen" else "none")
    position: nn.Module = LearnedPosition(c.dim) if c.position == "learned" else SinePosition(c.dim)
    return DETR(
        backbone=backbone,
        position=position,
        encoder=Encoder(c.encoder_layers, c.dim, c.heads, c.feed_forward, c.dropout, pre_norm=c.pre_norm),
        decoder=Decoder(c.decoder_layers, c.dim, c.heads, c.feed_forward, c.dropout, pre_norm=c.pre_norm),
        dim=c.dim,
        queries=c.queries,
        rows=Softmax().num_logits(c.classes),
    )


def set_prediction_loss(config: ModelConfig, loss: LossConfig) -> Criterion:
    """The paper's loss: class, L1 and generalised IoU, of every decoder layer."""
    return class_and_boxes(replace(Softmax(), no_object=loss.no_object), loss, class_loss)


S = TypeVar("S", bound=Scoring)


def class_and_boxes(
    scoring: S, loss: LossConfig, class_term: Callable[[S, float], LossTerm], eps: float = 0.0
) -> Criterion:
    """Class, L1 and generalised IoU, as cost and as loss, of every layer of every group."""
    matcher = HungarianMatcher(
        [
            class_cost(scoring, loss.class_cost, loss.weight("cost", "class")),
            l1_cost(loss.weight("cost", "l1")),
            giou_cost(loss.weight("cost", "giou"), eps),
        ],
        loss.matching,
    )
    terms = [
        class_term(scoring, loss.weight("loss", "class")),
        l1_loss(loss.weight("loss", "l1")),
        giou_loss(loss.weight("loss", "giou"), eps),
    ]
    return Criterion(scoring, matcher, terms)


def class_head_rows(dim: int, rows: int) -> Mapping[str, Tensor]:
    """A class head as it starts."""
    head = nn.Linear(dim, rows)
    return {"class_head.weight": head.weight.detach(), "class_head.bias": head.bias.detach()}


def _difference(found: DETRConfig, wanted: DETRConfig) -> str:
    same = (found.backbone, found.dilated) == (wanted.backbone, wanted.dilated)
    return "" if same else f"its backbone is {_summary(found)}"


def _summary(config: DETRConfig) -> str:
    return config.backbone + (" dilated" if config.dilated else "")


def _no_statistics(config: DETRConfig) -> str | None:
    if config.norm != "group":
        return None
    return (
        "ImageNet weights were trained with batch norm, and group norm has no place for their statistics.\n"
        "Use norm = frozen or batch."
    )


ARCHITECTURE = Architecture(
    name="detr",
    config=DETRConfig,
    presets=PRESETS,
    build=build,
    scoring=lambda config: Softmax(),
    make_loss=set_prediction_loss,
    inspect=DenseInspectable,
    preprocessing=Preprocessing(),
    class_rows=lambda c: class_head_rows(c.dim, Softmax().num_logits(c.classes)),
    query_rows=lambda c: {"queries.weight": torch.randn(c.queries, c.dim)},
    difference=_difference,
    summary=_summary,
    published=detr_names.published(DETRConfig),
    hugging_face={"detr": detr_names.hugging_face(DETRConfig)},
    backbone=TrainedBackbone(lambda c: c.backbone, "backbone.body.", _no_statistics),
)
