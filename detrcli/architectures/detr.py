"""DETR as published (arXiv 2005.12872)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from detrcli.architectures.common import ResNetConfig, SoftmaxArchitecture, make_resnet
from detrcli.architectures.detr_names import HuggingFaceDETR, PublishedDETR
from detrcli.config import Count
from detrcli.model.detr import DETR
from detrcli.model.position import LearnedPosition, SinePosition
from detrcli.model.transformer import Decoder, Encoder


@dataclass(frozen=True)
class DETRConfig(ResNetConfig):
    """The settings of a DETR."""

    dilated: bool = False  # DC5: the last stage keeps its resolution
    position: Literal["sine", "learned"] = "sine"
    pre_norm: bool = False
    queries: Count = 100


class DETRArchitecture(SoftmaxArchitecture[DETRConfig]):
    name = "detr"
    config = DETRConfig
    presets: Mapping[str, DETRConfig] = {
        "detr-r50": DETRConfig(),
        "detr-r50-dc5": DETRConfig(dilated=True),
        "detr-r101": DETRConfig(backbone="resnet101"),
        "detr-r101-dc5": DETRConfig(backbone="resnet101", dilated=True),
    }
    published = PublishedDETR(DETRConfig)
    hugging_face: Mapping[str, HuggingFaceDETR] = {"detr": HuggingFaceDETR(DETRConfig)}

    def build(self, config: DETRConfig) -> DETR:
        c = config
        return DETR(
            backbone=make_resnet(c, dilated=c.dilated),
            position=LearnedPosition(c.dim) if c.position == "learned" else SinePosition(c.dim),
            encoder=Encoder(c.encoder_layers, c.dim, c.heads, c.feed_forward, c.dropout, pre_norm=c.pre_norm),
            decoder=Decoder(c.decoder_layers, c.dim, c.heads, c.feed_forward, c.dropout, pre_norm=c.pre_norm),
            dim=c.dim,
            queries=c.queries,
            rows=self.scoring(c).num_logits(c.classes),
        )

    def summary(self, config: DETRConfig) -> str:
        return config.backbone + (" dilated" if config.dilated else "")


ARCHITECTURE = DETRArchitecture()
