"""A small DETR with iterative box refinement that learns small images from scratch on a CPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn

from detrcli.architectures.common import SoftmaxArchitecture, TransformerConfig
from detrcli.config import Count, Layers, Preprocessing, Share, Width
from detrcli.model.backbone import Norm
from detrcli.model.position import SinePosition
from detrcli.model.refinement import IterativeRefinementDETR
from detrcli.model.tiny_backbone import TinyBackbone
from detrcli.model.transformer import Decoder, Encoder
from detrcli.resize import ShortestEdge

SMALL_IMAGES = Preprocessing(ShortestEdge(128, 213))
# Eight groups, since 32 do not divide all numbers of channels.
NORMS: dict[str, Norm] = {"batch": nn.BatchNorm2d, "group": partial(nn.GroupNorm, 8)}


@dataclass(frozen=True)
class TinyConfig(TransformerConfig):
    """The settings of a detr-tiny."""

    norm: Literal["batch", "group"] = "batch"  # not frozen: the backbone has no pretrained weights
    width: Width = 24  # channels after the first convolution, a quarter of those of the last map
    encoder_layers: Layers = 2
    decoder_layers: Layers = 3
    dim: Width = 128
    heads: Width = 4  # narrower heads are slow on a CPU
    feed_forward: Width = 512
    dropout: Share = 0.0
    queries: Count = 25
    classes: Count = 5  # of `shapes`


class TinyArchitecture(SoftmaxArchitecture[TinyConfig]):
    name = "detr-tiny"
    config = TinyConfig
    presets: Mapping[str, TinyConfig] = {"detr-tiny": TinyConfig()}
    preprocessing = SMALL_IMAGES

    def build(self, config: TinyConfig) -> IterativeRefinementDETR:
        c = config
        return IterativeRefinementDETR(
            backbone=TinyBackbone(c.width, norm=NORMS[c.norm]),
            position=SinePosition(c.dim, temperature=20, turns=4),  # sharp enough to distinguish neighbors
            encoder=Encoder(c.encoder_layers, c.dim, c.heads, c.feed_forward, c.dropout, pre_norm=False),
            decoder=Decoder(c.decoder_layers, c.dim, c.heads, c.feed_forward, c.dropout, pre_norm=False),
            dim=c.dim,
            queries=c.queries,
            rows=self.scoring(c).num_logits(c.classes),
        )


ARCHITECTURE = TinyArchitecture()
