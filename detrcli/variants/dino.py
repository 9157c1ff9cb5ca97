"""DINO as published (arXiv 2203.03605)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from detrcli.config import Count, Layers, LossConfig, ModelConfig, Preprocessing, Share, Weight, Width
from detrcli.losses.scoring import Sigmoid
from detrcli.model.backbone import NORMS, ResNet
from detrcli.model.deformable_transformer import DeformableDecoderLayer, DeformableEncoder
from detrcli.model.denoising import Denoising
from detrcli.model.dino import DINO
from detrcli.model.heads import FOCAL_BIAS
from detrcli.model.position import SinePosition
from detrcli.model.pyramid import PyramidInput
from detrcli.model.sampled_attention import SampledInspectable
from detrcli.model.selection import MixedSelection
from detrcli.variants import deformable_names
from detrcli.variants.deformable_detr import check_pyramid, focal_loss
from detrcli.variants.detr import check_heads
from detrcli.variants.variant import TrainedBackbone, Variant


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


def build(config: DINOConfig) -> DINO:
    """The network, with the published random start. Frozen norms come with a frozen stem, as published."""
    c = config
    stages = (1, 2, 3, 4) if c.levels > 4 else (2, 3, 4)
    backbone = ResNet(c.backbone, norm=NORMS[c.norm], dilated=False, stages=stages)
    backbone.freeze("stem" if c.norm == "frozen" else "none")
    shape = (c.dim, c.heads, c.levels, c.points, c.feed_forward, c.dropout)
    return DINO(
        backbone=backbone,
        pyramid=PyramidInput(backbone.channels, c.levels, c.dim, SinePosition(c.dim, temperature=20)),
        encoder=DeformableEncoder(c.encoder_layers, *shape),
        layers=[DeformableDecoderLayer(*shape) for _ in range(c.decoder_layers)],
        denoising=Denoising(
            c.dim,
            c.classes,
            number=c.denoising,
            label_noise=c.label_noise,
            box_noise=c.box_noise,
            contrastive=True,
        ),
        selection=MixedSelection(c.queries, c.dim, Sigmoid().rows(c.classes)),
        dim=c.dim,
        rows=Sigmoid().rows(c.classes),
    )


def _class_rows(config: DINOConfig) -> Mapping[str, Tensor]:
    rows: dict[str, Tensor] = {"denoising.label_contents.weight": torch.randn(config.classes + 1, config.dim)}
    for name in ("class_head", "selection.proposer.class_head"):
        head = nn.Linear(config.dim, Sigmoid().rows(config.classes))
        nn.init.constant_(head.bias, FOCAL_BIAS)
        rows |= {f"{name}.{part}": value.detach() for part, value in head.named_parameters()}
    return rows


def _summary(config: DINOConfig) -> str:
    return f"{config.backbone}, {config.levels} levels"


def _difference(found: DINOConfig, wanted: DINOConfig) -> str:
    return "" if _summary(found) == _summary(wanted) else f"it is {_summary(found)}"


VARIANT = Variant(
    name="dino",
    config=DINOConfig,
    presets=PRESETS,
    build=build,
    scoring=lambda config: Sigmoid(most=300),
    make_loss=lambda config, loss: focal_loss(loss, most=300, eps=1e-6),
    inspect=SampledInspectable,
    preprocessing=Preprocessing(),
    class_rows=_class_rows,
    query_rows=lambda c: {"selection.contents": torch.randn(c.queries, c.dim)},
    loss=LossConfig(
        class_cost="focal",
        cost={"class": 2.0, "l1": 5.0, "giou": 2.0},
        loss={"class": 1.0, "l1": 5.0, "giou": 2.0},
    ),
    recipe={"epochs": 12},
    difference=_difference,
    summary=_summary,
    published=deformable_names.dino(DINOConfig),
    backbone=TrainedBackbone(lambda c: c.backbone, "backbone.body."),
)
