"""The registry of model architectures: those in the list below, and entry points of installed packages."""

from functools import cache
from importlib import metadata
from typing import Any, NamedTuple

from detrcli.architectures import deformable_detr, detr, dino, mask_heads, tiny, torchvision_detectors
from detrcli.architectures.adapters import architecture as transformers
from detrcli.architectures.adapters import instance_masks, mask_classifiers
from detrcli.architectures.architecture import Architecture
from detrcli.config import ModelConfig
from detrcli.errors import UsageError
from detrcli.messages import argument

ENTRY_POINTS = "detrcli.architectures"  # the group in which other packages list their `Architecture` instances

_ARCHITECTURES: list[Architecture[Any]] = [
    detr.ARCHITECTURE,
    mask_heads.CONVOLUTIONAL,
    tiny.DETR_TINY,
    deformable_detr.ARCHITECTURE,
    dino.ARCHITECTURE,
    tiny.DINO_TINY,
    tiny.DEFORMABLE_TINY,
    *mask_heads.DOT_PRODUCT,
    *transformers.ARCHITECTURES,
    instance_masks.ARCHITECTURE,
    mask_classifiers.ARCHITECTURE,
    torchvision_detectors.ARCHITECTURE,
]


class Preset(NamedTuple):
    architecture: Architecture[Any]
    config: ModelConfig


def register(architecture: Architecture[Any]) -> None:
    """Add an architecture for this process, unless one of the same name is registered."""
    if architecture.name not in {known.name for known in _ARCHITECTURES}:
        _ARCHITECTURES.append(architecture)


def architectures() -> dict[str, Architecture[Any]]:
    return {architecture.name: architecture for architecture in (*_ARCHITECTURES, *_installed())}


def presets() -> dict[str, Preset]:
    known = architectures().values()
    return {name: Preset(owner, config) for owner in known for name, config in owner.presets.items()}


def preset(name: str) -> Preset:
    """Return the preset with this name. Raises UsageError for an unknown name."""
    known = presets()
    if name not in known:
        raise UsageError(f"{argument('model', name)}: unknown. The models are {', '.join(known)}.")
    return known[name]


@cache
def _installed() -> list[Architecture[Any]]:
    installed = []
    for point in metadata.entry_points(group=ENTRY_POINTS):
        architecture = point.load()
        if not isinstance(architecture, Architecture):
            raise UsageError(f"{point.value}: the entry point {point.name} of {ENTRY_POINTS} is not an Architecture.")
        installed.append(architecture)
    return installed
