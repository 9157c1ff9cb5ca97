"""DINO as published (arXiv 2203.03605)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detrcli.architectures.architecture import DataFacts
from detrcli.architectures.common import (
    FocalArchitecture,
    OnResNet,
    deformable_layers,
    deformable_parts,
    make_resnet,
    set_prediction_loss,
)
from detrcli.architectures.deformable_detr import PyramidConfig
from detrcli.architectures.deformable_names import PublishedDINO
from detrcli.config import Count, LossConfig, Share, Weight
from detrcli.losses.criterion import Criterion
from detrcli.losses.scoring import Sigmoid
from detrcli.model.denoising import Denoising
from detrcli.model.dino import DINO
from detrcli.model.position import SinePosition
from detrcli.model.proposals import MixedSelection


@dataclass(frozen=True)
class DINOConfig(PyramidConfig):
    """The settings of a DINO. With 5 levels it uses the first stage of the backbone too."""

    dropout: Share = 0.0
    queries: Count = 900
    denoising: Count = 100  # positive queries of the image with the most objects
    label_noise: Share = 0.5
    box_noise: Weight = 0.4


def make_denoising(config: Any) -> Denoising:
    """Return contrastive denoising with the numbers of the config."""
    c = config
    return Denoising(
        c.dim, c.classes, number=c.denoising, label_noise=c.label_noise, box_noise=c.box_noise, contrastive=True
    )


class DINOArchitecture(OnResNet, FocalArchitecture[DINOConfig]):
    name = "dino"
    config = DINOConfig
    presets: Mapping[str, DINOConfig] = {"dino-r50-4scale": DINOConfig(), "dino-r50-5scale": DINOConfig(levels=5)}
    loss = FocalArchitecture.loss.with_weights({}, {"class": 1.0})
    published = PublishedDINO(DINOConfig)

    def build(self, config: DINOConfig) -> DINO:
        c, position = config, SinePosition(config.dim, temperature=20)
        parts = deformable_parts(c, make_resnet(c), position, maps=4 if c.levels > 4 else 3, levels=c.levels)
        return DINO(
            **parts,
            layers=deformable_layers(c, c.levels),
            denoising=make_denoising(c),
            selection=MixedSelection(c.queries, c.dim, parts["rows"]),
        )

    def scoring(self, config: DINOConfig) -> Sigmoid:
        return Sigmoid(top_k=300)

    def make_loss(self, config: DINOConfig, loss: LossConfig) -> Criterion:
        return set_prediction_loss(self.scoring(config), loss, eps=1e-6)

    def recipe(self, config: DINOConfig, facts: DataFacts) -> Mapping[str, Any]:
        return {"epochs": 12}

    def summary(self, config: DINOConfig) -> str:
        return f"{config.backbone}, {config.levels} levels"


ARCHITECTURE = DINOArchitecture()
