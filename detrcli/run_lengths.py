"""Masks by the lengths of their runs, as COCO keeps them: a thousandth of the memory that their pixels take."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self, overload

import numpy as np

from detrcli.polygons import polygons_of


def encode(mask: np.ndarray) -> bytes:
    """The compressed runs of a mask (H, W), column by column."""
    from pycocotools import mask as rle  # of no use to who has no masks

    counts: bytes = rle.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts


def decode(counts: bytes | Sequence[int], height: int, width: int) -> np.ndarray:
    """A mask (H, W) bool from its runs, compressed or not; a ValueError where they are not of that size.

    Runs are counted here, since pycocotools writes as far as they say.
    """
    lengths = lengths_in(counts, height, width)
    on = np.arange(len(lengths)) % 2 == 1  # column by column: off, on, off
    return np.repeat(on, lengths).reshape(width, height).T


def lengths_in(counts: bytes | Sequence[int], height: int, width: int) -> np.ndarray:
    """The lengths of runs, compressed or not, (R,) int64; a ValueError where they are not of that size."""
    lengths = np.array(read_lengths(counts) if isinstance(counts, bytes) else counts, dtype=np.int64)
    if (lengths < 0).any() or lengths.sum() != height * width:
        raise ValueError("the runs do not fill the picture")
    return lengths


def pixels_of(runs: Any) -> np.ndarray:
    """A mask (H, W) bool from runs as pycocotools has them. They have been checked: it writes as far as they say."""
    from pycocotools import mask as rle  # of no use to who has no masks

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of numpy 2, which pycocotools does not know yet
        return np.asarray(rle.decode(runs), dtype=bool)


def box_around(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x, y, width and height of what is marked in a mask (H, W) bool; all 0 where it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, 0, 0, 0
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1


def extent(lengths: np.ndarray, height: int) -> tuple[int, tuple[int, int, int, int]]:
    """How many pixels a mask of these runs has, and x0, y0, x1, y1 around them; without making the mask."""
    ends = np.cumsum(lengths)
    first, end = ends[: len(ends) // 2 * 2 : 2], ends[1::2]  # of the runs that are on
    first, end = first[end > first], end[end > first]
    if not len(first):
        return 0, (0, 0, 0, 0)
    left, right = first // height, (end - 1) // height
    # A run that goes on in the next column has been at the lower end of its own.
    top = np.where(left < right, 0, first % height)
    bottom = np.where(left < right, height - 1, (end - 1) % height)
    around = (int(left.min()), int(top.min()), int(right.max()) + 1, int(bottom.max()) + 1)
    return int((end - first).sum()), around


def read_lengths(text: bytes) -> list[int]:
    """COCO's compressed counts: five bits a character, the lowest first, from the third on as differences."""
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:  # negative
                value -= 1 << shift
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    return lengths


@dataclass(frozen=True)
class MaskRows:
    """The masks of N objects of a picture. A row is an array (H, W) bool; more of them are again such rows."""

    size: tuple[int, int]  # H and W
    counts: Sequence[bytes]  # (N,), compressed

    @classmethod
    def of(cls, masks: Sequence[np.ndarray], size: tuple[int, int]) -> Self:
        """From arrays (H, W)."""
        return cls(size, [encode(mask) for mask in masks])

    def __len__(self) -> int:
        return len(self.counts)

    @overload
    def __getitem__(self, chosen: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, chosen: np.ndarray) -> "MaskRows": ...
    def __getitem__(self, chosen: int | np.ndarray) -> "np.ndarray | MaskRows":
        if isinstance(chosen, np.ndarray):
            places = np.arange(len(self))[chosen].tolist()
            return MaskRows(self.size, [self.counts[place] for place in places])
        return decode(self.counts[chosen], *self.size)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (decode(counts, *self.size) for counts in self.counts)

    def rle(self, i: int) -> dict[str, Any]:
        """A mask as COCO writes it."""
        return {"size": list(self.size), "counts": self.counts[i].decode("ascii")}

    def polygons(self, i: int) -> list[list[int]]:
        """The outlines of a mask, x, y, x, y, ... along the edges of its pixels, one for each of its parts."""
        return polygons_of(self[i])
