"""The small members with masks: per query a product with the pixels, learned on sampled points."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from detrcli.config import Count, LossConfig, ModelConfig
from detrcli.losses.masks import cross_entropy, dice, mask_loss, sampled_points
from detrcli.losses.terms import LossTerm
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.model.masks import DotProductMaskHead, Segmenter
from detrcli.variants import deformable_tiny, dino_tiny, tiny
from detrcli.variants.deformable_tiny import DeformableTinyConfig
from detrcli.variants.dino_tiny import DINOTinyConfig
from detrcli.variants.tiny import TinyConfig
from detrcli.variants.variant import Variant
from detrcli.variants.with_masks import with_masks

C = TypeVar("C", bound=ModelConfig)
COLOURS = 3


@dataclass(frozen=True)
class TinyMasksConfig(TinyConfig):
    """All numbers of the model."""

    mask_points: Count = 1024  # that a mask is compared at in training


@dataclass(frozen=True)
class DINOTinyMasksConfig(DINOTinyConfig):
    """All numbers of the model."""

    mask_points: Count = 1024


@dataclass(frozen=True)
class DeformableTinyMasksConfig(DeformableTinyConfig):
    """All numbers of the model."""

    mask_points: Count = 1024


def mask_terms(config: Any, loss: LossConfig) -> Sequence[LossTerm]:
    """Cross-entropy and dice, at the same points."""
    points = sampled_points(config.mask_points)
    return [
        mask_loss("mask", loss.weight("loss", "mask"), cross_entropy, points),
        mask_loss("dice", loss.weight("loss", "dice"), dice, points),
    ]


def _with_masks(detector: Variant[Any], build: Callable[..., DetectionTransformer], preset: C) -> Variant[C]:
    def build_with_masks(config: Any) -> Segmenter:
        inner = build(config, finer=True)
        # Small pictures have small objects, whose masks are as good as their edges: the picture is the finest map.
        head = DotProductMaskHead(config.dim, (COLOURS, *inner.backbone.channels[:-1]))
        return Segmenter(inner, head, picture=True)

    name = f"{detector.name}-masks"
    return with_masks(
        detector,
        name=name,
        config=type(preset),
        presets={name: preset},
        build=build_with_masks,
        terms=mask_terms,
        weights={"mask": 5.0, "dice": 5.0},
    )


VARIANTS: Sequence[Variant[Any]] = (
    _with_masks(tiny.VARIANT, tiny.build, TinyMasksConfig()),
    _with_masks(dino_tiny.VARIANT, dino_tiny.build, DINOTinyMasksConfig()),
    _with_masks(deformable_tiny.VARIANT, deformable_tiny.build, DeformableTinyMasksConfig()),
)
