"""The members of the family. A member is one file here and its line in the table, or an entry point of a package."""

from functools import cache
from importlib import metadata
from typing import Any

from detrcli.architectures import (
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
from detrcli.architectures.adapters.architecture import ARCHITECTURE as OF_TRANSFORMERS
from detrcli.architectures.adapters.architecture import FOR_PHRASES, WITH_MASKS
from detrcli.architectures.architecture import Architecture
from detrcli.config import ModelConfig
from detrcli.errors import UsageError

ENTRY_POINTS = "detrcli.architectures"  # the group in which other packages name theirs

_ARCHITECTURES: list[Architecture[Any]] = [
    detr.ARCHITECTURE,
    detr_masks.ARCHITECTURE,
    tiny.ARCHITECTURE,
    deformable_detr.ARCHITECTURE,
    dino.ARCHITECTURE,
    dino_tiny.ARCHITECTURE,
    deformable_tiny.ARCHITECTURE,
    *product_masks.ARCHITECTURES,
    OF_TRANSFORMERS,
    FOR_PHRASES,
    WITH_MASKS,
    torchvision_detectors.ARCHITECTURE,
]


def register(architecture: Architecture[Any]) -> None:
    """Make a member known for as long as the program runs."""
    if architecture.name not in {known.name for known in _ARCHITECTURES}:
        _ARCHITECTURES.append(architecture)


def architectures() -> dict[str, Architecture[Any]]:
    """All members by their names, those of installed packages too."""
    return {architecture.name: architecture for architecture in (*_ARCHITECTURES, *_installed())}


def presets() -> dict[str, ModelConfig]:
    """What `--model` takes, by name."""
    return {name: config for architecture in architectures().values() for name, config in architecture.presets.items()}


def preset(name: str) -> ModelConfig:
    """The model of this name."""
    known = presets()
    if name not in known:
        raise UsageError(f"--model {name}: there is {', '.join(known)}.")
    return known[name]


def architecture_of(config: ModelConfig) -> Architecture[Any]:
    """Which member has such a config."""
    return next(architecture for architecture in architectures().values() if architecture.config is type(config))


@cache
def _installed() -> list[Architecture[Any]]:
    found: list[Architecture[Any]] = []
    for point in metadata.entry_points(group=ENTRY_POINTS):
        architecture = point.load()
        if not isinstance(architecture, Architecture):
            raise UsageError(f"{point.value}: the entry point {point.name} of {ENTRY_POINTS} is no Variant.")
        found.append(architecture)
    return found
