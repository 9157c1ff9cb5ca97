"""The members of the family. A member is one file here and its line in the table, or an entry point of a package."""

from functools import cache
from importlib import metadata
from typing import Any

from detrcli.config import ModelConfig
from detrcli.errors import UsageError
from detrcli.variants import (
    deformable_detr,
    deformable_tiny,
    detr,
    detr_masks,
    dino,
    dino_tiny,
    product_masks,
    tiny,
    torchvision_detectors,
)
from detrcli.variants.adapters.variant import FOR_PHRASES, WITH_MASKS
from detrcli.variants.adapters.variant import VARIANT as OF_TRANSFORMERS
from detrcli.variants.variant import Variant

ENTRY_POINTS = "detrcli.variants"  # the group in which other packages name theirs

_VARIANTS: list[Variant[Any]] = [
    detr.VARIANT,
    detr_masks.VARIANT,
    tiny.VARIANT,
    deformable_detr.VARIANT,
    dino.VARIANT,
    dino_tiny.VARIANT,
    deformable_tiny.VARIANT,
    *product_masks.VARIANTS,
    OF_TRANSFORMERS,
    FOR_PHRASES,
    WITH_MASKS,
    torchvision_detectors.VARIANT,
]


def register(variant: Variant[Any]) -> None:
    """Make a member known for as long as the program runs."""
    if variant.name not in {known.name for known in _VARIANTS}:
        _VARIANTS.append(variant)


def variants() -> dict[str, Variant[Any]]:
    """All members by their names, those of installed packages too."""
    return {variant.name: variant for variant in (*_VARIANTS, *_installed())}


def presets() -> dict[str, ModelConfig]:
    """What `--model` takes, by name."""
    return {name: config for variant in variants().values() for name, config in variant.presets.items()}


def preset(name: str) -> ModelConfig:
    """The model of this name."""
    known = presets()
    if name not in known:
        raise UsageError(f"--model {name}: there is {', '.join(known)}.")
    return known[name]


def variant_of(config: ModelConfig) -> Variant[Any]:
    """Which member has such a config."""
    return next(variant for variant in variants().values() if variant.config is type(config))


@cache
def _installed() -> list[Variant[Any]]:
    found: list[Variant[Any]] = []
    for point in metadata.entry_points(group=ENTRY_POINTS):
        variant = point.load()
        if not isinstance(variant, Variant):
            raise UsageError(f"{point.value}: the entry point {point.name} of {ENTRY_POINTS} is no Variant.")
        found.append(variant)
    return found
