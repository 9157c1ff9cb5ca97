"""Choices as values: frozen, checked when made, and without torch, so that the command line can read them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from detrcli.errors import UsageError
from detrcli.resize import Resize, ShortestEdge


@dataclass(frozen=True)
class Bounds:
    """From `least` to `most`, both allowed; with `below`, that is not allowed any more."""

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


# Far above what anybody builds, and low enough that a file which says more cannot fill the memory.
Layers = Annotated[int, Bounds(0, 100)]
Width = Annotated[int, Bounds(1, 65_536)]
Count = Annotated[int, Bounds(1, 100_000)]
Share = Annotated[float, Bounds(0, below=1)]
Weight = Annotated[float, Bounds(0)]


class Config:
    """A frozen dataclass whose values are of the kinds, and within the bounds, that its fields name."""

    def __post_init__(self) -> None:
        hints: dict[str, Any] = hints_of(type(self))  # type: ignore[arg-type]  # a type can be a key
        for name, hint in hints.items():
            check(name, getattr(self, name), hint)


@cache
def hints_of(config: type[Any]) -> dict[str, Any]:
    """The type of each field, bounds included."""
    hints = get_type_hints(config, include_extras=True)
    return {one.name: hints[one.name] for one in fields(config)}


def check(name: str, value: Any, hint: Any) -> None:
    """Raise a UsageError where the value is not what the hint asks for."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        kind, *bounds = arguments
        check(name, value, kind)
        for bound in bounds:
            if isinstance(bound, Bounds) and value not in bound:
                raise UsageError(f"{name} = {value!r:.40}: it is {bound}.")
    elif origin is Literal:
        if value not in arguments:
            choices = ", ".join(repr(choice) for choice in arguments)
            raise UsageError(f"{name} = {value!r:.40} is not known: it is one of {choices}.")
    elif origin in (Union, UnionType):
        if value is not None:
            check(name, value, next(kind for kind in arguments if kind is not NoneType))
        elif NoneType not in arguments:
            raise UsageError(f"{name} is missing.")
    elif origin is tuple:
        if not isinstance(value, tuple) or (arguments[-1] is not ... and len(value) != len(arguments)):
            raise UsageError(f"{name} = {value!r:.40}: it is a row of {len(arguments)} values.")
        for one in value:
            check(name, one, arguments[0])
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise UsageError(f"{name} = {value!r:.40}: it is a table of names and values.")
        for key, one in value.items():
            check(f"{name}.{key}", one, arguments[1])
    elif hint in _WORDS:
        accepted = (int, float) if hint is float else (hint,)
        if type(value) not in accepted or (hint is float and not math.isfinite(value)):
            raise UsageError(f"{name} = {value!r:.40}: it is {_WORDS[hint]}.")
    elif isinstance(hint, type) and not isinstance(value, hint):
        raise UsageError(f"{name} = {value!r:.40}: it is a {hint.__name__}.")


_WORDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}


@dataclass(frozen=True)
class ModelConfig(Config):
    """All numbers of a model. These two are every member's; each adds its own."""

    queries: Count
    classes: Count  # those that can be found; what else a head has rows for is the scoring's business


TermWeights = Mapping[str, Weight]  # by the name of a term


@dataclass(frozen=True)
class LossConfig(Config):
    """How predictions are matched with the ground truth and charged for what they got wrong.

    It travels with the weights, so that who looks at a model later matches as its training did.
    """

    matching: Literal["each", "last"] = "each"  # each decoder layer by itself, or all by the last one's pairs
    class_cost: Literal["probability", "log", "focal"] = "probability"  # -p as published, -log p, or focal
    no_object: Weight = 0.1  # of the class "no object" in the cross-entropy
    cost: TermWeights = field(default_factory=lambda: {"class": 1.0, "l1": 5.0, "giou": 2.0})
    loss: TermWeights = field(default_factory=lambda: {"class": 1.0, "l1": 5.0, "giou": 2.0})

    def weight(self, table: Literal["cost", "loss"], term: str) -> float:
        """The weight of a term; a UsageError where it has none, as in a file of another version."""
        weights = self.cost if table == "cost" else self.loss
        if term not in weights:
            raise UsageError(f"{table}.{term}: there is no weight of this term; there is {', '.join(weights)}.")
        return weights[term]

    def with_weights(self, cost: Mapping[str, float], loss: Mapping[str, float]) -> Self:
        """The same with other weights of some terms."""
        for table, ours, theirs in (("cost", self.cost, cost), ("loss", self.loss, loss)):
            for name in theirs:
                if name not in ours:
                    there = f"it has {', '.join(ours)}" if ours else "its loss is its own, with its own weights"
                    raise UsageError(f"{table}.{name}: this model has no such term; {there}.")
        return replace(self, cost={**self.cost, **cost}, loss={**self.loss, **loss})


Colour = tuple[float, float, float]  # red, green, blue


@dataclass(frozen=True)
class Preprocessing(Config):
    """How a picture becomes the network's input; it travels with the weights."""

    resize: Resize = field(default_factory=ShortestEdge)
    filter: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    antialias: bool = True  # as Pillow does; without it a pixel is made of its nearest neighbours alone
    blur: bool = False  # by a Gaussian before a picture is made smaller, as scikit-image does
    rescale_first: bool = False  # values become numbers in [0, 1] before the picture is resized
    backend: Literal["pillow", "torchvision"] = "pillow"  # whose arithmetic it is: they differ in the last digits
    mean: Colour = (0.485, 0.456, 0.406)
    std: Colour = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(self.std):
            raise UsageError("std: a deviation of 0 cannot be divided by.")
        # What lies beyond is none of a picture's values, and float32 cannot hold what comes of it.
        if not all(1e-6 <= deviation <= 1e6 for deviation in self.std) or any(abs(m) > 1e6 for m in self.mean):
            raise UsageError(f"mean = {self.mean}, std = {self.std}: these are no values of pixels.")
        self.resize.place(1000, 1000)  # which raises for an input that is too large

    def with_size(self, size: int | None = None, max_size: int | None = None) -> Self:
        """The same for inputs of another size."""
        if size is None and max_size is None:
            return self
        return replace(self, resize=self.resize.with_size(size, max_size))
