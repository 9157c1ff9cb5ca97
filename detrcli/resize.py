"""Rules for resizing images to the network's input."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Self

from detrcli.errors import UsageError
from detrcli.messages import argument

MAX_SIDE = 32_768  # pixels, more than the longest side of any image
MAX_INPUT_PIXELS = 2**25  # of the network's input, which takes 10 GB; a malformed checkpoint may specify more


@dataclass(frozen=True)
class Placement:
    """The position of an image in the network's input, in pixels of the input."""

    height: int  # of the input
    width: int
    top: int  # of the image in it
    left: int
    image_height: float  # fractional where an image is padded before it is resized
    image_width: float

    def __post_init__(self) -> None:
        if self.height * self.width > MAX_INPUT_PIXELS:
            raise UsageError(
                f"An input of {self.width:,} x {self.height:,} pixels exceeds the {MAX_INPUT_PIXELS:,} allowed.\n"
                f"Use a smaller {argument('size')} or {argument('max_size')}."
            )

    @classmethod
    def filling(cls, height: int, width: int) -> Self:
        """Return the placement of an image that fills the input."""
        return cls(height, width, 0, 0, height, width)

    @property
    def fills(self) -> bool:
        return (self.height, self.width) == (self.image_height, self.image_width)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the image in the input, in whole pixels."""
        return round(self.image_height), round(self.image_width)


@dataclass(frozen=True)
class Resize(ABC):
    """A resizing rule. Subclasses are registered under their `kind`, which checkpoints store."""

    kind: ClassVar[str]
    pads_first: ClassVar[bool] = False  # whether an image is padded before it is resized
    # `place` as statements in Python, for programs without this package: from image_height, image_width and
    # the rule's fields to input_height and input_width.
    formula: ClassVar[Sequence[str]] = ()
    _kinds: ClassVar[dict[str, type["Resize"]]] = {}

    def __init_subclass__(cls) -> None:
        if "kind" in vars(cls):
            cls._kinds[cls.kind] = cls

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or not 1 <= value <= MAX_SIDE:
                raise UsageError(f"{field.name} = {value!r:.40}: must be an integer from 1 to {MAX_SIDE:,}.")

    @abstractmethod
    def place(self, height: int, width: int) -> Placement:
        """Return the placement of an image of this size."""

    @abstractmethod
    def with_size(self, size: int | None, max_size: int | None) -> "Resize":
        """Change the size of the inputs."""

    def with_side(self, side: int) -> "Resize":
        """Change the shorter side, for scale augmentation; rules with a fixed input size stay as they are."""
        return self

    def grown(self, size: int) -> "Resize":
        """Change the size of the inputs and scale all sides in proportion."""
        return self.with_size(size, None)

    @property
    @abstractmethod
    def side(self) -> int:
        """The shorter side of the inputs, approximately."""

    def fits(self, multiple: int) -> bool:
        """Return whether the sides of every input are multiples of this number."""
        return multiple == 1

    def __str__(self) -> str:
        """Return the size of the inputs, for messages."""
        return f"a side of about {self.side} pixels"

    def facts(self) -> dict[str, Any]:
        """Return the kind and the fields as plain values, from which `of` creates the rule."""
        return {"kind": self.kind, **asdict(self)}

    @staticmethod
    def of(facts: Mapping[str, Any]) -> "Resize":
        """Create a rule from its facts. Raises ValueError for an unknown kind."""
        values = dict(facts)
        rule = Resize._kinds.get(kind := values.pop("kind"))
        if rule is None:
            raise ValueError(f"unknown resizing rule {kind!r}")
        return rule(**values)


@dataclass(frozen=True)
class ShortestEdge(Resize):
    """The published rule: the shorter side becomes `size`, the longer at most `max_size`.

    Where the longer side would exceed `max_size`, the shorter is rounded and the longer then truncated; so the longer
    can exceed `max_size` slightly. The shorter side is at least one pixel.
    """

    kind = "shortest-edge"
    size: int = 800
    max_size: int = 1333
    divisor: int = 1  # both sides are rounded to multiples of it

    formula: ClassVar[Sequence[str]] = (
        "short, long = min(image_height, image_width), max(image_height, image_width)",
        "edge = round(max_size * short / long) if long / short * size > max_size else size",
        "short, long = (edge, int(edge * long / short)) if edge >= 1 else (1, max_size)",
        "short, long = max(1, round(short / divisor)) * divisor, max(1, round(long / divisor)) * divisor",
        "input_height, input_width = (short, long) if image_height <= image_width else (long, short)",
    )

    def place(self, height: int, width: int) -> Placement:
        shorter, longer, size = min(height, width), max(height, width), self.size
        if longer / shorter * size > self.max_size:
            size = round(self.max_size * shorter / longer)
        sides = (size, int(size * longer / shorter)) if size >= 1 else (1, self.max_size)
        short, long = (max(1, round(side / self.divisor)) * self.divisor for side in sides)
        return Placement.filling(*((short, long) if height <= width else (long, short)))

    def with_size(self, size: int | None, max_size: int | None) -> Self:
        return replace(self, size=size or self.size, max_size=max_size or self.max_size)

    def with_side(self, side: int) -> Self:
        return replace(self, size=side)

    def grown(self, size: int) -> Self:
        return replace(self, size=size, max_size=round(self.max_size * size / self.size))

    @property
    def side(self) -> int:
        return self.size

    def fits(self, multiple: int) -> bool:
        return self.divisor % multiple == 0

    def __str__(self) -> str:
        return f"a shorter side of {self.size} and a longer side of at most {self.max_size} pixels"


@dataclass(frozen=True)
class BoundedEdges(ShortestEdge):
    """The rule of transformers: the longer side is at most `max_size`; sides are floored to multiples of `divisor`."""

    kind = "bounded-edges"
    formula: ClassVar[Sequence[str]] = (
        "short, long = min(image_height, image_width), max(image_height, image_width)",
        "scale = max_size * short / long if long / short * size > max_size else float(size)",
        "edge = round(scale)",
        "short, long = edge, int(long if short == edge else scale * long / short)",
        "short, long = max(1, short - short % divisor), max(1, long - long % divisor)",
        "input_height, input_width = (short, long) if image_height <= image_width else (long, short)",
    )

    def place(self, height: int, width: int) -> Placement:
        shorter, longer = float(min(height, width)), float(max(height, width))
        size, scale = self.size, float(self.size)
        if longer / shorter * size > self.max_size:
            scale = self.max_size * shorter / longer
            size = round(scale)
        sides = size, int(longer if shorter == size else scale * longer / shorter)
        short, long = (max(1, side - side % self.divisor) for side in sides)
        return Placement.filling(*((short, long) if height <= width else (long, short)))


@dataclass(frozen=True)
class RaisedEdges(BoundedEdges):
    """The rule of transformers, with both sides then stretched to the next multiples of `divisor`."""

    kind = "raised-edges"
    formula = (
        *BoundedEdges.formula[:4],
        "short, long = -(-max(1, short) // divisor) * divisor, -(-max(1, long) // divisor) * divisor",
        BoundedEdges.formula[-1],
    )

    def place(self, height: int, width: int) -> Placement:
        inner = BoundedEdges(self.size, self.max_size).place(height, width)
        return Placement.filling(*(-(-side // self.divisor) * self.divisor for side in (inner.height, inner.width)))


@dataclass(frozen=True)
class PaddedEdges(BoundedEdges):
    """The rule of EoMT: as BoundedEdges, and then padded at the right and the bottom to `size` x `max_size`."""

    kind = "padded-edges"
    formula = ("input_height, input_width = size, max_size",)

    def place(self, height: int, width: int) -> Placement:
        inner = super().place(height, width)
        return Placement(max(self.size, inner.height), max(self.max_size, inner.width), 0, 0, inner.height, inner.width)

    def with_size(self, size: int | None, max_size: int | None) -> Self:
        if max_size is not None:
            raise UsageError(
                f"{argument('max_size')}: this model takes images of a fixed size, set by {argument('size')} alone."
            )
        return self if size is None else self.grown(size)

    def with_side(self, side: int) -> Self:
        return self

    def fits(self, multiple: int) -> bool:
        return self.size == self.max_size and self.size % multiple == 0

    def __str__(self) -> str:
        return f"{self.max_size} x {self.size} pixels"


@dataclass(frozen=True)
class ScaledEdges(ShortestEdge):
    """The rule of torchvision's detectors: both sides are scaled by the same factor and truncated."""

    kind = "scaled-edges"
    formula = (
        "scale = min(size / min(image_height, image_width), max_size / max(image_height, image_width))",
        "input_height, input_width = max(1, int(image_height * scale)), max(1, int(image_width * scale))",
    )

    def place(self, height: int, width: int) -> Placement:
        scale = min(self.size / min(height, width), self.max_size / max(height, width))
        return Placement.filling(max(1, int(height * scale)), max(1, int(width * scale)))


@dataclass(frozen=True)
class TargetSize(Resize):
    """Base class of rules that resize to, or within, a height and a width."""

    height: int = 640
    width: int = 640

    def with_size(self, size: int | None, max_size: int | None) -> Self:
        if max_size is not None:
            raise UsageError(
                f"{argument('max_size')}: this model takes images of a fixed size, set by {argument('size')} alone."
            )
        factor = (size or self.side) / self.side
        return replace(self, height=round(factor * self.height), width=round(factor * self.width))

    @property
    def side(self) -> int:
        return min(self.height, self.width)

    def fits(self, multiple: int) -> bool:
        return self.height % multiple == self.width % multiple == 0

    def __str__(self) -> str:
        return f"{self.width} x {self.height} pixels"


@dataclass(frozen=True)
class ExactSize(TargetSize):
    """Every image is stretched to this size."""

    kind = "exact-size"
    formula = ("input_height, input_width = height, width",)

    def place(self, height: int, width: int) -> Placement:
        return Placement.filling(self.height, self.width)


@dataclass(frozen=True)
class FitInside(TargetSize):
    """Every image is scaled to the largest size with its aspect ratio within this size, without padding."""

    kind = "fit-inside"
    formula = (
        "scale = min(height / image_height, width / image_width)",
        "input_height, input_width = max(1, int(image_height * scale)), max(1, int(image_width * scale))",
    )

    def fits(self, multiple: int) -> bool:
        return multiple == 1

    def place(self, height: int, width: int) -> Placement:
        scale = min(self.height / height, self.width / width)
        return Placement.filling(max(1, int(height * scale)), max(1, int(width * scale)))


@dataclass(frozen=True)
class PaddedSquare(TargetSize):
    """The rule of OWLv2: images are padded at the right or the bottom to a black square, then resized."""

    kind = "padded-square"
    formula = ExactSize.formula
    pads_first = True

    def place(self, height: int, width: int) -> Placement:
        side = max(height, width)
        return Placement(self.height, self.width, 0, 0, self.height * height / side, self.width * width / side)


@dataclass(frozen=True)
class InputSides:
    """The sides of inputs that a model takes: all multiples of a number, or this number only."""

    multiple: int = 1
    fixed: bool = False

    def take(self, resize: Resize) -> bool:
        """Return whether the model takes every input of a rule."""
        return resize.fits(self.multiple) and (not self.fixed or resize.side == self.multiple)

    def __str__(self) -> str:
        return f"{self.multiple} pixels long" if self.fixed else f"multiples of {self.multiple}"
