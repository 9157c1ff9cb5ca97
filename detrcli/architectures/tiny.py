"""A small member that learns from scratch on a CPU: small pictures, few objects, boxes that layers refine."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn

from detrcli.architectures.architecture import Architecture
from detrcli.architectures.detr import check_heads, class_head_rows, set_prediction_loss
from detrcli.config import Count, Layers, ModelConfig, Preprocessing, Share, Width
from detrcli.losses.scoring import Softmax
from detrcli.model.backbone import Norm
from detrcli.model.dense_attention import DenseInspectable
from detrcli.model.position import SinePosition
from detrcli.model.refinement import IterativeRefinementDETR, initial_reference_boxes
from detrcli.model.tiny_backbone import TinyBackbone
from detrcli.model.transformer import Decoder, Encoder
from detrcli.resize import ShortestEdge


@dataclass(frozen=True)
class TinyConfig(ModelConfig):
    """All numbers of the model."""

    norm: Literal["batch", "group"] = "batch"  # none is frozen: nobody has trained this backbone before
    width: Width = 24  # channels after the first convolution; the features have four times as many
    encoder_layers: Layers = 2
    decoder_layers: Layers = 3
    dim: Width = 128
    heads: Width = 4  # narrow heads are slow on a CPU
    feed_forward: Width = 512
    dropout: Share = 0.0
    queries: Count = 25
    classes: Count = 5  # those of `shapes`

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.dim, self.heads)


# Eight groups, since not all of its channels can be shared out among ResNet's 32.
NORMS: dict[str, Norm] = {"batch": nn.BatchNorm2d, "group": partial(nn.GroupNorm, 8)}


def build(config: TinyConfig, *, finer: bool = False) -> IterativeRefinementDETR:
    """The network, with its random start; with `finer` its backbone gives a mask head finer maps too."""
    c = config
    return IterativeRefinementDETR(
        backbone=TinyBackbone(c.width, norm=NORMS[c.norm], finer=finer),
        position=SinePosition(c.dim, temperature=20, turns=4),  # sharp enough to tell neighbours apart
        encoder=Encoder(c.encoder_layers, c.dim, c.heads, c.feed_forward, c.dropout, pre_norm=False),
        decoder=Decoder(c.decoder_layers, c.dim, c.heads, c.feed_forward, c.dropout, pre_norm=False),
        dim=c.dim,
        queries=c.queries,
        rows=Softmax().num_logits(c.classes),
    )


ARCHITECTURE = Architecture(
    name="detr-tiny",
    config=TinyConfig,
    presets={"detr-tiny": TinyConfig()},
    build=build,
    scoring=lambda config: Softmax(),
    make_loss=set_prediction_loss,
    inspect=DenseInspectable,
    preprocessing=Preprocessing(ShortestEdge(128, 213)),
    class_rows=lambda c: class_head_rows(c.dim, Softmax().num_logits(c.classes)),
    query_rows=lambda c: {
        "queries.contents": torch.randn(c.queries, c.dim),
        "queries.references": initial_reference_boxes(c.queries),
    },
)
