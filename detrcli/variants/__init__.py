"""The members of the family, by name. A member is one file here and its lines in these tables."""

from typing import Any

from detrcli.config import Preprocessing
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.variants import detr, tiny
from detrcli.variants.variant import Kind, ModelConfig

VARIANTS: dict[str, ModelConfig] = {
    **detr.PRESETS,
    "detr-tiny": tiny.TinyConfig(),
}

KINDS: dict[str, Kind[Any]] = {
    kind.name: kind
    for kind in (
        detr.KIND,
        tiny.KIND,
    )
}

_KIND_OF = {kind.config: kind for kind in KINDS.values()}


def kind_of(config: ModelConfig) -> Kind[Any]:
    """Which member has such a config."""
    return _KIND_OF[type(config)]


def build(config: ModelConfig) -> DetectionTransformer:
    """The network, with its random start."""
    return kind_of(config).build(config)


def preprocessing(config: ModelConfig) -> Preprocessing:
    """How such a model's pictures are prepared unless told otherwise."""
    return kind_of(config).preprocessing
