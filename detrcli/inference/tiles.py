"""Tiles of images, in which small objects are larger for the network. Importing this module does not import numpy."""

import math
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from detrcli.errors import DataError, UsageError
from detrcli.messages import argument

OVERLAP = 0.2  # of neighboring tiles, unless another fraction is given
MIN_SIDE = 16  # pixels of a tile whose size is given
MAX_TILES = 10_000  # of an image


class Tile(NamedTuple):
    """A part of an image, in pixels."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class Tiling:
    """The tiles of images that are predicted besides the whole image, and the suppression of duplicates."""

    tiles: int | str | None = None  # N for N x N tiles, "WxH" for tiles of this size in pixels; None: no tiles
    overlap: float = OVERLAP  # of neighboring tiles, at least, as a fraction of the tile
    nms: float | None = None  # IoU above which detections of a class are duplicates; None: duplicates are kept

    def __post_init__(self) -> None:
        if self.tiles is not None:
            self._shape()
        if not 0 <= self.overlap < 1:
            raise UsageError(f"{argument('overlap', self.overlap)}: it must be at least 0 and less than 1.")
        if self.nms is not None and not 0 <= self.nms <= 1:
            raise UsageError(f"{argument('nms', self.nms)}: an IoU is between 0 and 1.")

    @property
    def merges(self) -> bool:
        """Whether the detections of an image are merged."""
        return self.tiles is not None or self.nms is not None

    @property
    def facts(self) -> dict[str, Any]:
        """The options for JSON; None where they have no effect."""
        tiles, overlap = (None, None) if self.tiles is None else (str(self.tiles), self.overlap)
        return {"tiles": tiles, "overlap": overlap, "nms": self.nms}

    def _shape(self) -> int | tuple[int, int]:
        """Return the number of tiles per side, or the width and height of a tile."""
        match = re.fullmatch(r"(\d{1,9})(?:x(\d{1,9}))?", str(self.tiles).strip().lower(), re.ASCII)
        if match is None:
            raise UsageError(
                f"{argument('tiles', self.tiles)}: it must be N for N x N tiles, or WxH for tiles of this size in "
                "pixels, such as 640x640."
            )
        width, height = int(match[1]), match[2]
        if height is None:
            if not 1 <= width <= math.isqrt(MAX_TILES):
                raise UsageError(
                    f"{argument('tiles', self.tiles)}: N must be between 1 and {math.isqrt(MAX_TILES)}. "
                    "For the size of a tile give WxH."
                )
            return width
        if min(width, int(height)) < MIN_SIDE:
            raise UsageError(
                f"{argument('tiles', self.tiles)}: tiles of this size in pixels have sides of at least {MIN_SIDE}. "
                f"{argument('tiles', width)} gives {width} x {width} tiles."
            )
        return width, int(height)

    def of(self, height: int, width: int) -> list[Tile]:
        """Return the tiles of an image of this size, by rows; none if the whole image fits into a tile.

        All tiles have the same size, and their distances differ by a pixel at most. Raises DataError if there are too
        many.
        """
        if self.tiles is None:
            return []
        shape = self._shape()
        if isinstance(shape, int):
            sides = [math.ceil(side / (shape - self.overlap * (shape - 1))) for side in (width, height)]
            counts = [shape, shape]
        else:
            sides = [min(shape[0], width), min(shape[1], height)]
            counts = [
                1 + math.ceil((whole - side) / max(1, int(side * (1 - self.overlap))))
                for whole, side in zip((width, height), sides, strict=True)
            ]
        lefts, tops = (_starts(*row) for row in zip((width, height), sides, counts, strict=True))
        if len(lefts) * len(tops) > MAX_TILES:
            raise DataError(f"it has {len(lefts):,} x {len(tops):,} tiles, more than the {MAX_TILES:,} allowed")
        if len(lefts) * len(tops) == 1:
            return []
        return [Tile(left, top, left + sides[0], top + sides[1]) for top in tops for left in lefts]


def _starts(whole: int, side: int, count: int) -> list[int]:
    """Return where `count` tiles begin that are spread evenly over a side of the image."""
    if count == 1:
        return [0]
    return sorted({round(i * (whole - side) / (count - 1)) for i in range(count)})
