"""A small Deformable DETR for CPUs and for comparisons: two stages, refinement, one level."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from detrcli.config import Count, Layers, ModelConfig, Preprocessing, Share, Weight, Width
from detrcli.losses.scoring import Sigmoid
from detrcli.model.deformable_detr import DeformableDETR, ProposedQueries
from detrcli.model.deformable_transformer import DeformableDecoderLayer, DeformableEncoder
from detrcli.model.heads import FOCAL_BIAS
from detrcli.model.position import SinePosition
from detrcli.model.pyramid import PyramidInput
from detrcli.model.sampled_attention import SampledInspectable
from detrcli.model.tiny_backbone import QuickBackbone
from detrcli.resize import ShortestEdge
from detrcli.variants.deformable_detr import check_pyramid, focal_loss
from detrcli.variants.detr import check_heads
from detrcli.variants.dino_tiny import LOSS, recipe
from detrcli.variants.tiny import NORMS
from detrcli.variants.variant import Variant


@dataclass(frozen=True)
class DeformableTinyConfig(ModelConfig):
    """All numbers of the model."""

    norm: Literal["batch", "group"] = "batch"
    width: Width = 32  # channels after the first convolution; the features have four times as many
    blocks: Layers = 2  # of the backbone
    encoder_layers: Layers = 1
    decoder_layers: Layers = 2
    dim: Width = 128
    heads: Width = 4
    points: Count = 4  # that a head samples
    feed_forward: Width = 256
    dropout: Share = 0.0
    queries: Count = 30
    classes: Count = 5  # those of `shapes`
    anchor: Weight = 3.0  # side of a proposal before it is corrected, in cells of 8 pixels

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.dim, self.heads)
        check_pyramid(1, self.dim)


def build(config: DeformableTinyConfig) -> DeformableDETR:
    """The network, with its random start."""
    c = config
    backbone = QuickBackbone(c.width, c.blocks, norm=NORMS[c.norm])
    shape = (c.dim, c.heads, 1, c.points, c.feed_forward, c.dropout)
    return DeformableDETR(
        backbone=backbone,
        pyramid=PyramidInput(backbone.channels, 1, c.dim, SinePosition(c.dim, temperature=20)),
        encoder=DeformableEncoder(c.encoder_layers, *shape),
        queries=ProposedQueries(c.queries, c.dim, rows=1, cells=c.anchor),
        layers=[DeformableDecoderLayer(*shape) for _ in range(c.decoder_layers)],
        dim=c.dim,
        rows=Sigmoid().rows(c.classes),
        refine=True,
    )


def _class_rows(config: DeformableTinyConfig) -> Mapping[str, Tensor]:
    rows: dict[str, Tensor] = {}
    for number in range(config.decoder_layers):
        head = nn.Linear(config.dim, Sigmoid().rows(config.classes))
        nn.init.constant_(head.bias, FOCAL_BIAS)
        rows |= {f"class_heads.{number}.{name}": value.detach() for name, value in head.named_parameters()}
    return rows


VARIANT = Variant(
    name="deformable-tiny",
    config=DeformableTinyConfig,
    presets={"deformable-tiny": DeformableTinyConfig()},
    build=build,
    scoring=lambda config: Sigmoid(most=100),
    make_loss=lambda config, loss: focal_loss(loss, most=100),
    inspect=SampledInspectable,
    preprocessing=Preprocessing(ShortestEdge(128, 213)),
    class_rows=_class_rows,
    query_rows=lambda c: {},
    loss=LOSS,
    recipe=recipe,
)
