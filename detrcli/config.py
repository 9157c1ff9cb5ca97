"""Validated configurations: frozen dataclasses, importable without torch for the command line."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from detrcli.errors import UsageError
from detrcli.resize import Resize, ShortestEdge


@dataclass(frozen=True)
class Bounds:
    """A range of numbers from `least` to `most`, both included, and below `below`."""

    least: float
    most: float = math.inf
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most and value < self.below

    def __str__(self) -> str:
        if self.below < math.inf:
            return f"at least {self.least:g} and below {self.below:g}"
        if self.most < math.inf:
            return f"between {self.least:g} and {self.most:g}"
        return f"at least {self.least:g}"


# The upper bounds are far above any real model, and low enough that a malformed file cannot exhaust the memory.
Layers = Annotated[int, Bounds(0, 100)]
Width = Annotated[int, Bounds(1, 65_536)]
Count = Annotated[int, Bounds(1, 100_000)]
Share = Annotated[float, Bounds(0, below=1)]
Weight = Annotated[float, Bounds(0)]  # also for other numbers that are not negative


class Config:
    """Base class of frozen dataclasses whose values are checked against the types and bounds of their fields."""

    def __post_init__(self) -> None:
        for name, hint in hints_of(type(self)).items():  # type: ignore[arg-type]  # a type is hashable
            check(name, getattr(self, name), hint)


@cache
def hints_of(config: type[Any]) -> dict[str, Any]:
    """Return the type of each field, bounds included."""
    hints = get_type_hints(config, include_extras=True)
    return {field.name: hints[field.name] for field in fields(config)}


_TYPE_NAMES: dict[Any, str] = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


def check(name: str, value: Any, hint: Any) -> None:
    """Raise UsageError if the value does not have the type, or is not within the bounds, of a type hint."""
    origin, arguments = get_origin(hint), get_args(hint)
    valid, required = True, _TYPE_NAMES.get(hint, "")
    if origin is Annotated:
        check(name, value, arguments[0])
        valid, required = value in arguments[1], str(arguments[1])
    elif origin is Literal:
        valid, required = value in arguments, "one of " + ", ".join(map(repr, arguments))
    elif origin in (Union, UnionType):  # X | None
        if value is not None:
            check(name, value, arguments[0])
    elif origin is tuple:
        valid = isinstance(value, tuple) and (arguments[-1] is ... or len(value) == len(arguments))
        required = f"{len(arguments)} values"
    elif origin is Mapping:
        valid, required = isinstance(value, Mapping), "a table of names and values"
    elif hint is float:
        valid = type(value) in (int, float) and math.isfinite(value)
    elif hint in _TYPE_NAMES:
        valid = type(value) is hint
    elif isinstance(hint, type):
        valid, required = isinstance(value, hint), f"a {hint.__name__}"
    if not valid:
        raise UsageError(f"{name} = {value!r:.40}: must be {required}.")
    if origin is tuple:
        for item in value:
            check(name, item, arguments[0])
    elif origin is Mapping:
        for key, item in value.items():
            check(f"{name}.{key}", item, arguments[1])


@dataclass(frozen=True)
class ModelConfig(Config):
    """The hyperparameters of a model. Every architecture adds its own."""

    queries: Count
    classes: Count  # without no-object; the number of logits depends on the scoring


TermWeights = Mapping[str, Weight]  # by term name


@dataclass(frozen=True)
class LossConfig(Config):
    """Settings of the matching and the loss.

    It is saved with the weights, so that a model is inspected with the matching that it was trained with.
    """

    matching: Literal["each", "last"] = "each"  # match each decoder layer, or use the last layer's matching for all
    class_cost: Literal["probability", "log", "focal"] = "probability"  # -p as published, -log p, or focal
    no_object: Weight = 0.1  # weight of the no-object class in the cross-entropy
    cost: TermWeights = field(default_factory=lambda: {"class": 1.0, "l1": 5.0, "giou": 2.0})
    loss: TermWeights = field(default_factory=lambda: {"class": 1.0, "l1": 5.0, "giou": 2.0})

    def weight(self, table: Literal["cost", "loss"], term: str) -> float:
        """Return the weight of a term. Raises UsageError if it has none, as in a file of another version."""
        weights = self.cost if table == "cost" else self.loss
        if term not in weights:
            raise UsageError(f"{table}.{term}: this term has no weight. The terms are {', '.join(weights)}.")
        return weights[term]

    def with_weights(self, cost: Mapping[str, float], loss: Mapping[str, float]) -> Self:
        for table, weights, changes in (("cost", self.cost, cost), ("loss", self.loss, loss)):
            for name in changes:
                if name not in weights:
                    known = f"it has {', '.join(weights)}" if weights else "its loss has weights of its own"
                    raise UsageError(f"{table}.{name}: this model has no such term; {known}.")
        return replace(self, cost={**self.cost, **cost}, loss={**self.loss, **loss})


Color = tuple[float, float, float]  # red, green, blue


@dataclass(frozen=True)
class Preprocessing(Config):
    """How an image becomes the network's input. It is saved with the weights."""

    resize: Resize = field(default_factory=ShortestEdge)
    filter: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    antialias: bool = True  # as Pillow does; without it, a pixel depends on its nearest neighbors only
    blur: bool = False  # apply a Gaussian blur before downsampling, as scikit-image does
    rescale_first: bool = False  # scale values to [0, 1] before resizing
    backend: Literal["pillow", "torchvision"] = "pillow"  # their results differ slightly
    mean: Color = (0.485, 0.456, 0.406)
    std: Color = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(self.std):
            raise UsageError("std: a deviation of 0 is not allowed.")
        # Other values are not pixel statistics, and normalized pixels could exceed the range of float32.
        if not all(1e-6 <= deviation <= 1e6 for deviation in self.std) or any(abs(m) > 1e6 for m in self.mean):
            raise UsageError(f"mean = {self.mean}, std = {self.std}: out of range for pixel values.")
        self.resize.place(1000, 1000)  # raises UsageError if inputs would be too large
