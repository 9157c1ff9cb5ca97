"""Masks as run-length encodings (RLE) of COCO: a thousandth of the memory of their pixels."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from detrcli.polygons import polygons_of


def encode(mask: np.ndarray) -> bytes:
    """Return the compressed counts of a mask (H, W)."""
    from pycocotools import mask as rle  # only needed for masks

    counts: bytes = rle.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts


def decode(counts: bytes | Sequence[int] | np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the mask (H, W) bool of compressed or plain counts. Raises ValueError if they have another size.

    pycocotools is not used here, since it writes out of bounds for wrong counts.
    """
    lengths = lengths_in(counts, height, width)
    marked = np.arange(len(lengths)) % 2 == 1  # runs go down the columns, alternately off and on
    return np.repeat(marked, lengths).reshape(width, height).T


def lengths_in(counts: bytes | Sequence[int] | np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the run lengths (R,) int64 of compressed or plain counts. Raises ValueError if they have another size."""
    lengths = np.array(_decompress(counts) if isinstance(counts, bytes) else counts, dtype=np.int64)
    if (lengths < 0).any() or lengths.sum() != height * width:
        raise ValueError("the runs do not fill the image")
    return lengths


def _decompress(text: bytes) -> list[int]:
    """Decode COCO's compressed counts: five bits per character, lowest first, from the third count on differences."""
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


def union(masks: Sequence[bytes], size: tuple[int, int]) -> bytes:
    """Return the compressed counts of the union of masks of this (height, width)."""
    from pycocotools import mask as rle  # only needed for masks

    counts: bytes = rle.merge([{"size": list(size), "counts": counts} for counts in masks])["counts"]
    return counts


def pixels_of(runs: Any) -> np.ndarray:
    """Return the mask (H, W) bool of an RLE made by pycocotools, which is not checked."""
    from pycocotools import mask as rle

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools with numpy 2
        return np.asarray(rle.decode(runs), dtype=bool)


def box_around(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return x, y, width and height of the box around a mask (H, W) bool; all 0 for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, 0, 0, 0
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1


def extent(lengths: np.ndarray, height: int) -> tuple[int, tuple[int, int, int, int]]:
    """Return the area and the xyxy box of a mask given by run lengths, without making the mask."""
    ends = np.cumsum(lengths)
    first, end = ends[: len(ends) // 2 * 2 : 2], ends[1::2]  # of the marked runs
    first, end = first[end > first], end[end > first]
    if not len(first):
        return 0, (0, 0, 0, 0)
    left, right = first // height, (end - 1) // height
    # A run over several columns reaches the bottom of the first and the top of the next.
    top = np.where(left < right, 0, first % height)
    bottom = np.where(left < right, height - 1, (end - 1) % height)
    around = (int(left.min()), int(top.min()), int(right.max()) + 1, int(bottom.max()) + 1)
    return int((end - first).sum()), around


def _placed(counts: bytes, size: tuple[int, int], left: int, top: int, whole: tuple[int, int]) -> bytes:
    """Return the compressed counts of a mask of this size in a larger image, without making the mask."""
    from pycocotools import mask as rle  # only needed for masks

    height = size[0]
    edges = np.cumsum(lengths_in(counts, *size))
    starts, ends = edges[: len(edges) // 2 * 2 : 2], edges[1::2]  # of the marked runs
    # Runs over several columns end at the bottom of the tile and continue at its top.
    columns = (ends - 1) // height - starts // height + 1
    columns[ends == starts] = 0
    run = np.repeat(np.arange(len(starts)), columns)
    column = starts[run] // height + np.arange(len(run)) - np.repeat(np.cumsum(columns) - columns, columns)
    first, last = np.maximum(starts[run], column * height), np.minimum(ends[run], (column + 1) * height)
    shift = (column + left) * whole[0] + top - column * height
    first, last = first + shift, last + shift
    joined = np.flatnonzero(first[1:] == last[:-1])  # where the tile is as high as the image
    first, last = np.delete(first, joined + 1), np.delete(last, joined)
    edges = np.concatenate([[0], np.stack([first, last], 1).ravel(), [whole[0] * whole[1]]])
    lengths = np.diff(edges).tolist()
    if len(lengths) > 1 and lengths[-1] == 0:  # as pycocotools encodes masks that contain the last pixel
        lengths.pop()
    compressed: bytes = rle.frPyObjects({"size": list(whole), "counts": lengths}, *whole)["counts"]
    return compressed


@dataclass(frozen=True)
class MaskRows:
    """Masks of N objects. Indexing with an integer returns an array (H, W) bool, with an array a selection."""

    size: tuple[int, int]  # H and W
    counts: Sequence[bytes]  # (N,), compressed

    def __len__(self) -> int:
        return len(self.counts)

    @overload
    def __getitem__(self, chosen: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, chosen: np.ndarray) -> "MaskRows": ...
    def __getitem__(self, chosen: int | np.ndarray) -> "np.ndarray | MaskRows":
        if isinstance(chosen, np.ndarray):
            return MaskRows(self.size, [self.counts[i] for i in np.arange(len(self))[chosen]])
        return decode(self.counts[chosen], *self.size)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (decode(counts, *self.size) for counts in self.counts)

    def placed(self, left: int, top: int, size: tuple[int, int]) -> "MaskRows":
        """Return the masks as parts of a larger image of this (height, width), with their corner at (left, top)."""
        return MaskRows(size, [_placed(counts, self.size, left, top, size) for counts in self.counts])

    def rle(self, i: int) -> dict[str, Any]:
        return {"size": list(self.size), "counts": self.counts[i].decode("ascii")}

    def polygons(self, i: int) -> list[list[int]]:
        """Return polygons x, y, x, y, ... along the pixel edges of a mask, one for each of its parts."""
        return polygons_of(self[i])
