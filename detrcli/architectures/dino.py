"""DINO as published (arXiv 2203.03605)."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from detrcli.architectures import deformable_names
from detrcli.architectures.architecture import Architecture, TrainedBackbone
from detrcli.architectures.deformable_detr import FOCAL, check_pyramid, focal_rows
from detrcli.architectures.detr import EVERY_STAGE, check_heads, class_and_boxes
from detrcli.config import Count, Layers, ModelConfig, Preprocessing, Share, Weight, Width
from detrcli.losses.scoring import Sigmoid
from detrcli.losses.terms import class_loss
from detrcli.model.backbone import NORMS, ResNet
from detrcli.model.deformable_transformer import DeformableDecoderLayer, DeformableEncoder
from detrcli.model.denoising import Denoising
from detrcli.model.dino import DINO
from detrcli.model.position import SinePosition
from detrcli.model.proposals import MixedSelection
from detrcli.model.pyramid import PyramidInput
from detrcli.model.sampled_attention import SampledInspectable


@dataclass(frozen=True)
class DINOConfig(ModelConfig):
    """All numbers of the model."""

    backbone: Literal["resnet50", "resnet101"] = "resnet50"
    norm: Literal["frozen", "batch", "group"] = "frozen"
    levels: Count = 4  # 5: the first stage of the backbone too
    encoder_layers: Layers = 6
    decoder_layers: Layers = 6
    dim: Width = 256
    heads: Width = 8
    points: Count = 4  # that a head samples on each level
    feed_forward: Width = 2048
    dropout: Share = 0.0
    queries: Count = 900
    classes: Count = 91  # the highest COCO id + 1
    denoising: Count = 100  # positive queries of the picture of most objects
    label_noise: Share = 0.5
    box_noise: Weight = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.dim, self.heads)
        check_pyramid(self.levels, self.dim)


PRESETS = {"dino-r50-4scale": DINOConfig(), "dino-r50-5scale": DINOConfig(levels=5)}


def stages_of(config: DINOConfig) -> tuple[int, ...]:
    """Of the backbone, those that the encoder sees."""
    return EVERY_STAGE if config.levels > 4 else (2, 3, 4)


def build(config: DINOConfig, *, finer: bool = False) -> DINO:
    """The network, with the published random start. Frozen norms come with a frozen stem, as published.

    With `finer` its backbone gives a mask head finer maps too.
    """
    c, seen = config, stages_of(config)
    stages = EVERY_STAGE if finer else seen
    backbone = ResNet(c.backbone, norm=NORMS[c.norm], dilated=False, stages=stages)
    backbone.freeze("stem" if c.norm == "frozen" else "none")
    shape = (c.dim, c.heads, c.levels, c.points, c.feed_forward, c.dropout)
    return DINO(
        backbone=backbone,
        pyramid=PyramidInput(backbone.channels[-len(seen) :], c.levels, c.dim, SinePosition(c.dim, temperature=20)),
        encoder=DeformableEncoder(c.encoder_layers, *shape),
        layers=[DeformableDecoderLayer(*shape) for _ in range(c.decoder_layers)],
        denoising=denoising_of(c),
        selection=MixedSelection(c.queries, c.dim, Sigmoid().num_logits(c.classes)),
        dim=c.dim,
        rows=Sigmoid().num_logits(c.classes),
    )


def denoising_of(config: Any) -> Denoising:
    """Contrastive denoising by the numbers of a config that has them."""
    c = config
    return Denoising(
        c.dim, c.classes, number=c.denoising, label_noise=c.label_noise, box_noise=c.box_noise, contrastive=True
    )


CLASS_HEADS = ("class_head", "selection.proposer.class_head")


def label_rows(dim: int, classes: int) -> dict[str, Tensor]:
    """The contents of denoising queries as they start."""
    return {"denoising.label_contents.weight": torch.randn(classes + 1, dim)}


def _summary(config: DINOConfig) -> str:
    return f"{config.backbone}, {config.levels} levels"


def _difference(found: DINOConfig, wanted: DINOConfig) -> str:
    return "" if _summary(found) == _summary(wanted) else f"it is {_summary(found)}"


ARCHITECTURE = Architecture(
    name="dino",
    config=DINOConfig,
    presets=PRESETS,
    build=build,
    scoring=lambda config: Sigmoid(top_k=300),
    make_loss=lambda config, loss: class_and_boxes(Sigmoid(top_k=300), loss, class_loss, eps=1e-6),
    inspect=SampledInspectable,
    preprocessing=Preprocessing(),
    class_rows=lambda c: label_rows(c.dim, c.classes) | focal_rows(CLASS_HEADS, c.dim, c.classes),
    query_rows=lambda c: {"selection.contents": torch.randn(c.queries, c.dim)},
    loss=FOCAL.with_weights({}, {"class": 1.0}),
    recipe={"epochs": 12},
    difference=_difference,
    summary=_summary,
    published=deformable_names.dino(DINOConfig),
    backbone=TrainedBackbone(lambda c: c.backbone, "backbone.body."),
)
