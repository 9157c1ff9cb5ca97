"""A small DINO that learns from scratch on a CPU within minutes: the one to begin with on data of one's own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from detrcli.config import Bounds, Count, Layers, LossConfig, ModelConfig, Preprocessing, Share, Weight, Width
from detrcli.losses.criterion import Criterion
from detrcli.losses.matching import Matcher
from detrcli.losses.scoring import Sigmoid
from detrcli.losses.terms import class_cost, giou_cost, giou_loss, l1_cost, l1_loss, quality_class_loss
from detrcli.model.deformable_transformer import DeformableDecoderLayer, DeformableEncoder
from detrcli.model.denoising import Denoising
from detrcli.model.dino import DINO
from detrcli.model.position import SinePosition
from detrcli.model.pyramid import PyramidInput
from detrcli.model.sampled_attention import SampledInspectable
from detrcli.model.selection import PureSelection
from detrcli.model.tiny_backbone import QuickBackbone
from detrcli.resize import ShortestEdge
from detrcli.variants.deformable_detr import check_pyramid
from detrcli.variants.detr import check_heads
from detrcli.variants.tiny import NORMS
from detrcli.variants.variant import DataFacts, Variant

Some = Annotated[int, Bounds(0, 100_000)]
PICTURES_SEEN = 10_800
LARGEST = 256  # shorter side that is looked at, where pictures are larger
BIAS = -3.5  # of the class heads: every class begins with 0.03


@dataclass(frozen=True)
class DINOTinyConfig(ModelConfig):
    """All numbers of the model."""

    norm: Literal["batch", "group"] = "batch"
    width: Width = 32  # channels after the first convolution; the features have four times as many
    blocks: Layers = 2  # of the backbone
    encoder_layers: Layers = 0
    decoder_layers: Layers = 2
    dim: Width = 128
    heads: Width = 4
    points: Count = 4  # that a head samples
    feed_forward: Width = 256
    dropout: Share = 0.0
    queries: Count = 30
    classes: Count = 5  # those of `shapes`
    anchor: Weight = 3.0  # side of a proposal before it is corrected, in cells of 8 pixels
    denoising: Some = 20  # positive queries of the picture of most objects; 0: none
    label_noise: Share = 0.5
    box_noise: Weight = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.dim, self.heads)
        check_pyramid(1, self.dim)


def build(config: DINOTinyConfig) -> DINO:
    """The network, with its random start."""
    c = config
    backbone = QuickBackbone(c.width, c.blocks, norm=NORMS[c.norm])
    shape = (c.dim, c.heads, 1, c.points, c.feed_forward, c.dropout)
    denoising = None
    if c.denoising:
        denoising = Denoising(
            c.dim,
            c.classes,
            number=c.denoising,
            label_noise=c.label_noise,
            box_noise=c.box_noise,
            contrastive=True,
        )
    rows = Sigmoid().rows(c.classes)
    model = DINO(
        backbone=backbone,
        pyramid=PyramidInput(backbone.channels, 1, c.dim, SinePosition(c.dim, temperature=20)),
        encoder=DeformableEncoder(c.encoder_layers, *shape),
        layers=[DeformableDecoderLayer(*shape) for _ in range(c.decoder_layers)],
        selection=PureSelection(c.queries, c.dim, rows, cells=c.anchor),
        denoising=denoising,
        dim=c.dim,
        rows=rows,
    )
    for head in (model.class_head, model.selection.proposer.class_head):
        nn.init.constant_(head.bias, BIAS)
    return model


def quality_focal_loss(loss: LossConfig) -> Criterion:
    """Class by quality focal loss, L1 and generalised IoU, of every layer of every group."""
    scoring = Sigmoid(most=100)
    matcher = Matcher(
        [
            class_cost(scoring, loss.class_cost, loss.weight("cost", "class")),
            l1_cost(loss.weight("cost", "l1")),
            giou_cost(loss.weight("cost", "giou")),
        ],
        loss.matching,
    )
    terms = [
        quality_class_loss(scoring, loss.weight("loss", "class")),
        l1_loss(loss.weight("loss", "l1")),
        giou_loss(loss.weight("loss", "giou")),
    ]
    return Criterion(scoring, matcher, terms)


def _class_rows(config: DINOTinyConfig) -> Mapping[str, Tensor]:
    rows: dict[str, Tensor] = {}
    if config.denoising:
        rows["denoising.label_contents.weight"] = torch.randn(config.classes + 1, config.dim)
    for name in ("class_head", "selection.proposer.class_head"):
        head = nn.Linear(config.dim, Sigmoid().rows(config.classes))
        nn.init.constant_(head.bias, BIAS)
        rows |= {f"{name}.{part}": value.detach() for part, value in head.named_parameters()}
    return rows


def recipe(facts: DataFacts) -> Mapping[str, Any]:
    """What learned best on sets of 60 to 600 small pictures, in minutes on two cores."""
    batch_size = max(4, min(16, facts.pictures // 4))
    epochs = max(12, min(150, round(PICTURES_SEEN / facts.pictures)))
    steps = epochs * (facts.pictures // batch_size)
    return {
        "size": max(64, min(LARGEST, 8 * round(facts.shorter / 8))),
        "queries": max(30, 10 * -(-2 * facts.objects // 10)),
        "batch_size": batch_size,
        "epochs": epochs,
        "lr": 3e-3 * (batch_size / 16) ** 0.5,
        "schedule": "cosine",
        "warmup": steps // 20,
        "weight_decay": 0.05,
        "decay": "matrices",
        "beta2": 0.99,
        "clip": 1.0,
        "ema": 0.998,
        "augmentation": "strong",
        "eval_every": max(1, epochs // 6),
    }


LOSS = LossConfig(
    class_cost="focal",
    cost={"class": 2.0, "l1": 5.0, "giou": 2.0},
    loss={"class": 2.0, "l1": 5.0, "giou": 2.0},
)

VARIANT = Variant(
    name="dino-tiny",
    config=DINOTinyConfig,
    presets={"dino-tiny": DINOTinyConfig()},
    build=build,
    scoring=lambda config: Sigmoid(most=100),
    make_loss=lambda config, loss: quality_focal_loss(loss),
    inspect=SampledInspectable,
    preprocessing=Preprocessing(ShortestEdge(128, 213)),
    class_rows=_class_rows,
    query_rows=lambda c: {},
    loss=LOSS,
    recipe=recipe,
)
