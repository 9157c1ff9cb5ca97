"""Detectors with a mask head of products: each query's with every pixel, learned on points (arXiv 2206.02777)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from detrcli.architectures import deformable_detr, deformable_tiny, detr, dino, dino_tiny, tiny
from detrcli.architectures.architecture import Architecture
from detrcli.architectures.deformable_detr import DeformableConfig
from detrcli.architectures.deformable_tiny import DeformableTinyConfig
from detrcli.architectures.detr import DETRConfig
from detrcli.architectures.dino import DINOConfig
from detrcli.architectures.dino_tiny import DINOTinyConfig
from detrcli.architectures.tiny import TinyConfig
from detrcli.architectures.with_masks import with_masks
from detrcli.config import Count, LossConfig, ModelConfig
from detrcli.losses.masks import cross_entropy, dice, mask_loss, sampled_points
from detrcli.losses.terms import LossTerm
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.model.masks import DotProductMaskHead, Segmenter

C = TypeVar("C", bound=ModelConfig)
COLOURS = 3
MANY = 12_544  # points that a mask is compared at in training, as in arXiv 2112.01527


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


@dataclass(frozen=True)
class DETRProductMasksConfig(DETRConfig):
    """All numbers of the model."""

    mask_points: Count = MANY


@dataclass(frozen=True)
class DeformableMasksConfig(DeformableConfig):
    """All numbers of the model."""

    mask_points: Count = MANY


@dataclass(frozen=True)
class DINOMasksConfig(DINOConfig):
    """All numbers of the model."""

    mask_points: Count = MANY


def mask_terms(config: Any, loss: LossConfig) -> Sequence[LossTerm]:
    """Cross-entropy and dice, at the same points."""
    points = sampled_points(config.mask_points)
    return [
        mask_loss("mask", loss.weight("loss", "mask"), cross_entropy, points),
        mask_loss("dice", loss.weight("loss", "dice"), dice, points),
    ]


def _with_masks(
    name: str,
    detector: Architecture[Any],
    build: Callable[..., DetectionTransformer],
    presets: Mapping[str, C],
    *,
    seen: Callable[[Any], int] = lambda config: 1,
    picture: bool = False,
) -> Architecture[C]:
    """`seen` is how many of the backbone's maps the encoder sees, `picture` whether the head looks at that too."""

    def build_with_masks(config: Any) -> Segmenter:
        inner = build(config, finer=True)
        finer = inner.backbone.channels[: -seen(config)]
        head = DotProductMaskHead(config.dim, (COLOURS, *finer) if picture else finer)
        return Segmenter(inner, head, sees=-seen(config), picture=picture)

    return with_masks(
        detector,
        name=name,
        config=type(next(iter(presets.values()))),
        presets=presets,
        build=build_with_masks,
        terms=mask_terms,
        weights={"mask": 5.0, "dice": 5.0},
    )


def _small(detector: Architecture[Any], build: Callable[..., DetectionTransformer], preset: C) -> Architecture[C]:
    """Small pictures have small objects, whose masks are as good as their edges: the picture is the finest map."""
    name = f"{detector.name}-masks"
    return _with_masks(name, detector, build, {name: preset}, picture=True)


ARCHITECTURES: Sequence[Architecture[Any]] = (
    _small(tiny.ARCHITECTURE, tiny.build, TinyMasksConfig()),
    _small(dino_tiny.ARCHITECTURE, dino_tiny.build, DINOTinyMasksConfig()),
    _small(deformable_tiny.ARCHITECTURE, deformable_tiny.build, DeformableTinyMasksConfig()),
    _with_masks("detr-product-masks", detr.ARCHITECTURE, detr.build, {"detr-r50-masks": DETRProductMasksConfig()}),
    _with_masks(
        "deformable-detr-masks",
        deformable_detr.ARCHITECTURE,
        deformable_detr.build,
        {
            "deformable-detr-r50-masks": DeformableMasksConfig(),
            "deformable-detr-r50-refine-two-stage-masks": DeformableMasksConfig(refine=True, two_stage=True),
        },
        seen=lambda config: len(deformable_detr.stages_of(config)),
    ),
    _with_masks(
        "dino-masks",
        dino.ARCHITECTURE,
        dino.build,
        {"dino-r50-4scale-masks": DINOMasksConfig()},
        seen=lambda config: len(dino.stages_of(config)),
    ),
)
