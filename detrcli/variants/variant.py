"""What all members of the family have in common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from detrcli.config import Config, Preprocessing
from detrcli.model.detection_transformer import DetectionTransformer


@dataclass(frozen=True)
class ModelConfig(Config):
    """All numbers of a model. These are every member's; each adds its own."""

    queries: int
    classes: int  # without "no object", which comes on top
    dropout: float
    norm: str  # of the backbone; each member lists those it can have


C = TypeVar("C", bound=ModelConfig)


@dataclass(frozen=True)
class Kind(Generic[C]):
    """A member: what there is to know of it wherever any model will do."""

    name: str  # in the header of our own files
    config: type[C]
    build: Callable[[C], DetectionTransformer]
    preprocessing: Preprocessing  # what it wants to see unless told otherwise
    per_query: Mapping[str, Callable[[C], Tensor]]  # its tensors of one row per query -> how they start
