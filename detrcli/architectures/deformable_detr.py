"""Deformable DETR as published (arXiv 2010.04159)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from detrcli.architectures import deformable_names
from detrcli.architectures.architecture import Architecture, TrainedBackbone
from detrcli.architectures.detr import EVERY_STAGE, check_heads, class_and_boxes
from detrcli.config import Count, Layers, LossConfig, ModelConfig, Preprocessing, Share, Width
from detrcli.errors import UsageError
from detrcli.losses.scoring import Sigmoid
from detrcli.losses.terms import class_loss
from detrcli.model.backbone import NORMS, ResNet
from detrcli.model.deformable_detr import DeformableDETR, LearnedQueries, ProposedQueries
from detrcli.model.deformable_transformer import DeformableDecoderLayer, DeformableEncoder
from detrcli.model.heads import FOCAL_BIAS
from detrcli.model.position import SinePosition
from detrcli.model.pyramid import PyramidInput
from detrcli.model.sampled_attention import SampledInspectable


@dataclass(frozen=True)
class DeformableConfig(ModelConfig):
    """All numbers of the model."""

    backbone: Literal["resnet50", "resnet101"] = "resnet50"
    norm: Literal["frozen", "batch", "group"] = "frozen"
    dilated: bool = False  # DC5: the last stage keeps its resolution
    levels: Count = 4  # 1: the last stage alone
    refine: bool = False  # each decoder layer moves the boxes of the one before
    two_stage: bool = False  # the encoder proposes where the queries begin
    encoder_layers: Layers = 6
    decoder_layers: Layers = 6
    dim: Width = 256
    heads: Width = 8
    points: Count = 4  # that a head samples on each level
    feed_forward: Width = 1024
    dropout: Share = 0.1
    queries: Count = 300
    classes: Count = 91  # the highest COCO id + 1
    proposal_rows: Count = 91  # of the head of proposals, whose first says "an object"; the others say nothing

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.dim, self.heads)
        check_pyramid(self.levels, self.dim)
        if self.two_stage and not self.refine:
            raise UsageError("two_stage: proposals are boxes, which only a model with refine takes up.")


def check_pyramid(levels: int, dim: int) -> None:
    """Levels halve the picture each, and norms take the dimensions in 32 groups."""
    if levels > 6:
        raise UsageError(f"levels = {levels}: it is at most 6, where a cell has 512 pixels.")
    if dim % 32:
        raise UsageError(f"dim = {dim}: it is a multiple of 32.")


PRESETS = {
    "deformable-detr-r50": DeformableConfig(),
    "deformable-detr-r50-refine": DeformableConfig(refine=True),
    "deformable-detr-r50-refine-two-stage": DeformableConfig(refine=True, two_stage=True),
    "deformable-detr-r50-single-scale": DeformableConfig(levels=1),
    "deformable-detr-r50-single-scale-dc5": DeformableConfig(levels=1, dilated=True),
}


def stages_of(config: DeformableConfig) -> tuple[int, ...]:
    """Of the backbone, those that the encoder sees."""
    return (4,) if config.levels == 1 else (2, 3, 4)


def build(config: DeformableConfig, *, finer: bool = False) -> DeformableDETR:
    """The network, with the published random start. Frozen norms come with a frozen stem, as published.

    With `finer` its backbone gives a mask head finer maps too.
    """
    c, seen = config, stages_of(config)
    stages = EVERY_STAGE if finer else seen
    backbone = ResNet(c.backbone, norm=NORMS[c.norm], dilated=c.dilated, stages=stages)
    backbone.freeze("stem" if c.norm == "frozen" else "none")
    shape = (c.dim, c.heads, c.levels, c.points, c.feed_forward, c.dropout)
    queries: LearnedQueries | ProposedQueries = (
        ProposedQueries(c.queries, c.dim, c.proposal_rows) if c.two_stage else LearnedQueries(c.queries, c.dim)
    )
    return DeformableDETR(
        backbone=backbone,
        pyramid=PyramidInput(backbone.channels[-len(seen) :], c.levels, c.dim, SinePosition(c.dim, centred=True)),
        encoder=DeformableEncoder(c.encoder_layers, *shape),
        queries=queries,
        layers=[DeformableDecoderLayer(*shape) for _ in range(c.decoder_layers)],
        dim=c.dim,
        rows=Sigmoid().num_logits(c.classes),
        refine=c.refine,
    )


def class_rows(config: DeformableConfig) -> Mapping[str, Tensor]:
    """The class heads as they start."""
    heads = range(config.decoder_layers if config.refine else 1)
    return focal_rows([f"class_heads.{number}" for number in heads], config.dim, config.classes)


def focal_rows(heads: Iterable[str], dim: int, classes: int, bias: float = FOCAL_BIAS) -> dict[str, Tensor]:
    """Class heads of these names as they start."""
    rows: dict[str, Tensor] = {}
    for name in heads:
        head = nn.Linear(dim, Sigmoid().num_logits(classes))
        nn.init.constant_(head.bias, bias)
        rows |= {f"{name}.{part}": value.detach() for part, value in head.named_parameters()}
    return rows


def _query_rows(config: DeformableConfig) -> Mapping[str, Tensor]:
    if config.two_stage:
        return {}
    return {"queries.embedding.weight": torch.randn(config.queries, 2 * config.dim)}


def _difference(found: DeformableConfig, wanted: DeformableConfig) -> str:
    return "" if _summary(found) == _summary(wanted) else f"it is {_summary(found)}"


def _summary(config: DeformableConfig) -> str:
    facts = {
        "dilated": config.dilated,
        "refine": config.refine,
        "two stages": config.two_stage,
        f"{config.levels} level" + "s" * (config.levels > 1): True,
    }
    return ", ".join([config.backbone, *(name for name, given in facts.items() if given)])


FOCAL = LossConfig(
    class_cost="focal", cost={"class": 2.0, "l1": 5.0, "giou": 2.0}, loss={"class": 2.0, "l1": 5.0, "giou": 2.0}
)

ARCHITECTURE = Architecture(
    name="deformable-detr",
    config=DeformableConfig,
    presets=PRESETS,
    build=build,
    scoring=lambda config: Sigmoid(top_k=100),
    make_loss=lambda config, loss: class_and_boxes(Sigmoid(top_k=100), loss, class_loss),
    inspect=SampledInspectable,
    preprocessing=Preprocessing(),
    class_rows=class_rows,
    query_rows=_query_rows,
    loss=FOCAL,
    recipe={"lr": 2e-4},
    difference=_difference,
    summary=_summary,
    published=deformable_names.deformable_detr(DeformableConfig),
    backbone=TrainedBackbone(lambda c: c.backbone, "backbone.body."),
)
