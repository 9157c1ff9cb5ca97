"""DINO as published (arXiv 2203.03605), and its tensor names in the published checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from detrcli.architectures.architecture import DataFacts
from detrcli.architectures.common import FocalArchitecture, make_resnet, set_prediction_loss
from detrcli.architectures.deformable_detr import SHARED_RULES, PyramidConfig, deformable_fields
from detrcli.architectures.detr import RenamingAdapter, Rule
from detrcli.config import Count, LossConfig, Share, Weight
from detrcli.losses.criterion import Criterion
from detrcli.losses.scoring import Sigmoid
from detrcli.model.denoising import Denoising
from detrcli.model.dino import DINO
from detrcli.model.position import SinePosition
from detrcli.model.proposals import MixedSelection

RULES: tuple[Rule, ...] = (
    *SHARED_RULES,
    # All layers share a head, which is saved once per layer, and again in the decoder.
    (r"^(transformer\.decoder\.)?class_embed\.\d+\.", "class_head."),
    (r"^(transformer\.decoder\.)?bbox_embed\.\d+\.", "box_head."),
    (r"^transformer\.decoder\.norm\.", "norm."),
    (r"^transformer\.decoder\.ref_point_head\.layers\.0\.", "place.0."),
    (r"^transformer\.decoder\.ref_point_head\.layers\.1\.", "place.2."),
    (r"^transformer\.tgt_embed\.weight$", "selection.contents"),
    (r"^transformer\.enc_output\.", "selection.proposer.input.linear."),
    (r"^transformer\.enc_output_norm\.", "selection.proposer.input.norm."),
    (r"^transformer\.enc_out_class_embed\.", "selection.proposer.class_head."),
    (r"^transformer\.enc_out_bbox_embed\.", "selection.proposer.box_head."),
    (r"^label_enc\.", "denoising.label_contents."),
)


@dataclass(frozen=True)
class DINOConfig(PyramidConfig):
    """The config of DINO. With 5 levels or more it uses the first stage of the backbone too."""

    dropout: Share = 0.0
    queries: Count = 900
    denoising: Count = 100  # positive queries of the image with the most objects
    label_noise: Share = 0.5
    box_noise: Weight = 0.4


def make_denoising(config: Any) -> Denoising:
    c = config
    return Denoising(
        c.dim, c.classes, number=c.denoising, label_noise=c.label_noise, box_noise=c.box_noise, contrastive=True
    )


class PublishedDINO(RenamingAdapter):
    model, mark, rules = "DINO", "label_enc.weight", RULES

    def fields(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], wanted: Any) -> dict[str, Any]:
        return {
            **deformable_fields(tensors, facts, self.config),
            "queries": len(tensors["selection.contents"]),
            "classes": len(tensors["class_head.weight"]),
        }


class DINOArchitecture(FocalArchitecture[DINOConfig]):
    name = "dino"
    config = DINOConfig
    presets: Mapping[str, DINOConfig] = {"dino-r50-4scale": DINOConfig(), "dino-r50-5scale": DINOConfig(levels=5)}
    loss = FocalArchitecture.loss.with_weights(cost={}, loss={"class": 1.0})
    published = PublishedDINO(DINOConfig)

    def build(self, config: DINOConfig) -> DINO:
        c, position = config, SinePosition(config.dim, temperature=20)
        parts = self.parts(c, make_resnet(c), position, maps=4 if c.levels > 4 else 3, levels=c.levels)
        return DINO(
            **parts,
            layers=self.decoder_layers(c, c.levels),
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
