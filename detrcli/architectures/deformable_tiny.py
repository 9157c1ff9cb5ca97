"""A small Deformable DETR for CPUs and for comparisons: two stages, refinement, one level."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from detrcli.architectures.architecture import Architecture
from detrcli.architectures.deformable_detr import FOCAL, focal_rows
from detrcli.architectures.detr import class_and_boxes
from detrcli.architectures.dino_tiny import QuickConfig, recipe
from detrcli.architectures.tiny import NORMS
from detrcli.config import Preprocessing
from detrcli.losses.scoring import Sigmoid
from detrcli.losses.terms import class_loss
from detrcli.model.deformable_detr import DeformableDETR, ProposedQueries
from detrcli.model.deformable_transformer import DeformableDecoderLayer, DeformableEncoder
from detrcli.model.position import SinePosition
from detrcli.model.pyramid import PyramidInput
from detrcli.model.sampled_attention import SampledInspectable
from detrcli.model.tiny_backbone import QuickBackbone
from detrcli.resize import ShortestEdge


@dataclass(frozen=True)
class DeformableTinyConfig(QuickConfig):
    """All numbers of the model."""


def build(config: DeformableTinyConfig, *, finer: bool = False) -> DeformableDETR:
    """The network, with its random start; with `finer` its backbone gives a mask head finer maps too."""
    c = config
    backbone = QuickBackbone(c.width, c.blocks, norm=NORMS[c.norm], finer=finer)
    shape = (c.dim, c.heads, 1, c.points, c.feed_forward, c.dropout)
    return DeformableDETR(
        backbone=backbone,
        pyramid=PyramidInput(backbone.channels[-1:], 1, c.dim, SinePosition(c.dim, temperature=20)),
        encoder=DeformableEncoder(c.encoder_layers, *shape),
        queries=ProposedQueries(c.queries, c.dim, rows=1, cells=c.anchor),
        layers=[DeformableDecoderLayer(*shape) for _ in range(c.decoder_layers)],
        dim=c.dim,
        rows=Sigmoid().num_logits(c.classes),
        refine=True,
    )


def _class_rows(config: DeformableTinyConfig) -> Mapping[str, Tensor]:
    heads = [f"class_heads.{number}" for number in range(config.decoder_layers)]
    return focal_rows(heads, config.dim, config.classes)


ARCHITECTURE = Architecture(
    name="deformable-tiny",
    config=DeformableTinyConfig,
    presets={"deformable-tiny": DeformableTinyConfig()},
    build=build,
    scoring=lambda config: Sigmoid(top_k=100),
    make_loss=lambda config, loss: class_and_boxes(Sigmoid(top_k=100), loss, class_loss),
    inspect=SampledInspectable,
    preprocessing=Preprocessing(ShortestEdge(128, 213)),
    class_rows=_class_rows,
    query_rows=lambda c: {},
    loss=FOCAL,
    recipe=recipe,
)
