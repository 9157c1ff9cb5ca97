"""Choices as values: frozen, checked when made, and without torch, so that the command line can read them."""

from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from detrcli.errors import UsageError


class Config:
    """A frozen dataclass whose `Literal` fields hold only what they list."""

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            allowed: tuple[Any, ...] = get_args(kind)
            value = getattr(self, name)
            if getattr(kind, "__origin__", None) is Literal and value not in allowed:
                choices = ", ".join(repr(choice) for choice in allowed)
                raise UsageError(f"{name} = {value!r} is not known: it is one of {choices}.")


@dataclass(frozen=True)
class MatchingConfig(Config):
    """How objects are given to queries."""

    matching: Literal["each", "last"] = "each"  # each decoder layer by itself, or all by the last one's pairs
    class_cost: Literal["probability", "log"] = "probability"  # -p as published, or -log p
    cost_class: float = 1.0
    cost_l1: float = 5.0
    cost_giou: float = 2.0


@dataclass(frozen=True)
class LossConfig(Config):
    """How a prediction is charged for what it got wrong."""

    loss_class: float = 1.0
    loss_l1: float = 5.0
    loss_giou: float = 2.0
    no_object: float = 0.1  # weight of the class "no object" in the cross-entropy


@dataclass(frozen=True)
class Preprocessing(Config):
    """How a picture becomes the network's input; it travels with the weights."""

    size: int = 800  # the shorter side
    max_size: int = 1333  # the longer side, about
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
