"""How a picture is brought to the network's size: rules as values, each with a name."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Self

from detrcli.errors import UsageError

LARGEST = 32_768  # pixels of a side, more than any picture that is opened has
MOST_PIXELS = 2**25  # of an input, for which a network takes 10 GB; more may be asked for by a file that is broken


@dataclass(frozen=True)
class Placement:
    """Where a picture comes to lie in the network's input, in pixels of that."""

    height: int  # of the input
    width: int
    top: int  # of the picture in it
    left: int
    picture_height: float  # not whole where it is padded before it is resized
    picture_width: float

    def __post_init__(self) -> None:
        if self.height * self.width > MOST_PIXELS:
            raise UsageError(
                f"an input of {self.width:,} x {self.height:,} pixels is more than the {MOST_PIXELS:,} allowed.\n"
                "Give a smaller --size or --max-size."
            )

    @classmethod
    def filling(cls, height: int, width: int) -> Self:
        """A picture that takes all of the input."""
        return cls(height, width, 0, 0, height, width)

    @property
    def fills(self) -> bool:
        """Whether the picture takes all of the input."""
        return (self.height, self.width) == (self.picture_height, self.picture_width)

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width of the picture in whole pixels."""
        return round(self.picture_height), round(self.picture_width)


@dataclass(frozen=True)
class Resize(ABC):
    """A rule. A subclass is known by its `kind` wherever weights are read, as soon as it is defined."""

    kind: ClassVar[str]
    _kinds: ClassVar[dict[str, type["Resize"]]] = {}

    def __init_subclass__(cls) -> None:
        if "kind" in vars(cls):  # else it is known as what it comes from
            cls._kinds[cls.kind] = cls

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            least, most = (0, 255) if one.name == "fill" else (1, LARGEST)
            if type(value) is not int or not least <= value <= most:
                raise UsageError(f"{one.name} = {value!r:.40}: it is a whole number from {least} to {most:,}.")

    @abstractmethod
    def place(self, height: int, width: int) -> Placement:
        """What becomes of a picture of this size."""

    @abstractmethod
    def with_size(self, size: int | None, max_size: int | None) -> "Resize":
        """The rule for inputs of another size."""

    def with_side(self, side: int) -> "Resize":
        """The rule with another shorter side, for augmentation by scale; as it is where inputs have one size only."""
        return self

    def grown(self, size: int) -> "Resize":
        """The rule for inputs of another size, all its sides in proportion."""
        return self.with_size(size, None)

    @property
    @abstractmethod
    def side(self) -> int:
        """The shorter side of its inputs, about."""

    @property
    def grey(self) -> int:
        """What the input is filled with, from 0 to 255, where there is no picture."""
        return 0

    @property
    def pads_first(self) -> bool:
        """Whether a picture is padded before it is resized, and not afterwards."""
        return False

    def facts(self) -> dict[str, Any]:
        """The rule in plain values, with its kind."""
        return {"kind": self.kind, **asdict(self)}

    @staticmethod
    def of(facts: Mapping[str, Any]) -> "Resize":
        """The rule of such values."""
        known = Resize._kinds.get(facts["kind"])
        if known is None:
            raise ValueError(f"pictures are resized by a rule {facts['kind']!r} that is not known here")
        return known(**{name: value for name, value in facts.items() if name != "kind"})


@dataclass(frozen=True)
class ShortestEdge(Resize):
    """The published rule: the shorter side `size`, the longer at most `max_size`.

    Where the longer would pass `max_size`, the shorter is rounded and the longer then cut to an integer; so
    the longer can pass `max_size` by a little. A strip too narrow for that keeps one pixel of width.
    """

    kind = "shortest-edge"
    size: int = 800
    max_size: int = 1333
    divisor: int = 1  # both sides are rounded to multiples of it

    def place(self, height: int, width: int) -> Placement:
        shorter, longer, size = min(height, width), max(height, width), self.size
        if longer / shorter * size > self.max_size:
            size = round(self.max_size * shorter / longer)
        if size < 1:
            short, long = 1, self.max_size
        else:
            short, long = size, int(size * longer / shorter)
        if self.divisor > 1:
            short, long = (max(1, round(side / self.divisor)) * self.divisor for side in (short, long))
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


@dataclass(frozen=True)
class BoundedEdges(ShortestEdge):
    """As `transformers` has that rule: the longer side never passes `max_size`, and `divisor` cuts sides."""

    kind = "bounded-edges"

    def place(self, height: int, width: int) -> Placement:
        shorter, longer = float(min(height, width)), float(max(height, width))
        size, scale = self.size, float(self.size)
        if longer / shorter * size > self.max_size:
            scale = self.max_size * shorter / longer
            size = round(scale)
        if min(height, width) == size:
            short, long = size, max(height, width)
        else:
            short, long = size, int(scale * longer / shorter)
        short, long = (max(1, side - side % self.divisor) for side in (short, long))
        return Placement.filling(*((short, long) if height <= width else (long, short)))


@dataclass(frozen=True)
class RaisedEdges(BoundedEdges):
    """Likewise, and then both sides up to the next multiples of `divisor`, by a little stretching."""

    kind = "raised-edges"

    def place(self, height: int, width: int) -> Placement:
        found = BoundedEdges(self.size, self.max_size).place(height, width)
        return Placement.filling(*(-(-side // self.divisor) * self.divisor for side in (found.height, found.width)))


@dataclass(frozen=True)
class ScaledEdges(ShortestEdge):
    """As torchvision's detectors have that rule: both sides by one factor, and cut to integers."""

    kind = "scaled-edges"

    def place(self, height: int, width: int) -> Placement:
        scale = min(self.size / min(height, width), self.max_size / max(height, width))
        return Placement.filling(max(1, int(height * scale)), max(1, int(width * scale)))


@dataclass(frozen=True)
class OneSize(Resize):
    """Rules that know one height and one width."""

    height: int = 640
    width: int = 640

    def with_size(self, size: int | None, max_size: int | None) -> Self:
        if max_size is not None:
            raise UsageError("This model takes pictures of one size: --size sets it, and there is no --max-size.")
        factor = (size or self.side) / self.side
        return replace(self, height=round(factor * self.height), width=round(factor * self.width))

    @property
    def side(self) -> int:
        return min(self.height, self.width)


@dataclass(frozen=True)
class ExactSize(OneSize):
    """Every picture has this size, whatever becomes of its proportions."""

    kind = "exact-size"

    def place(self, height: int, width: int) -> Placement:
        return Placement.filling(self.height, self.width)


@dataclass(frozen=True)
class FitInside(OneSize):
    """As large as fits into this size without changing proportions, and nothing around it."""

    kind = "fit-inside"

    def place(self, height: int, width: int) -> Placement:
        scale = min(self.height / height, self.width / width)
        return Placement.filling(max(1, int(height * scale)), max(1, int(width * scale)))


@dataclass(frozen=True)
class PaddedSquare(OneSize):
    """As OWLv2 has it: padded with black at the right or the bottom to a square, which then gets this size."""

    kind = "padded-square"

    def place(self, height: int, width: int) -> Placement:
        side = max(height, width)
        return Placement(self.height, self.width, 0, 0, self.height * height / side, self.width * width / side)

    @property
    def pads_first(self) -> bool:
        return True


@dataclass(frozen=True)
class Letterbox(OneSize):
    """As large as fits into this size without changing proportions, in the middle, the rest filled with grey."""

    kind = "letterbox"
    fill: int = 114

    def place(self, height: int, width: int) -> Placement:
        factor = min(self.height / height, self.width / width)
        inside = max(1, round(factor * height)), max(1, round(factor * width))
        return Placement(
            self.height, self.width, (self.height - inside[0]) // 2, (self.width - inside[1]) // 2, *inside
        )

    @property
    def grey(self) -> int:
        return self.fill
