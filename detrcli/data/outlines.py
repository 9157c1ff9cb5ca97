"""Where the outlines of annotated objects stand, and what one says: polygons, run lengths or a map, as COCO has them.

They are read when masks are asked for and not before: in COCO they are nine tenths of the file.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from detrcli.data.maps import HEAD, segment_of
from detrcli.run_lengths import decode, encode, lengths_in, pixels_of

NOTHING = (b"", b"null", b"[]")  # what stands in place of an outline where there is none


@dataclass(frozen=True)
class Outlines:
    """Those of N annotations, among all of the files that they stand in."""

    read: Callable[[], Sequence[bytes]]  # all of them, each as JSON or by its map
    rows: np.ndarray  # (N,), which of them an annotation has

    def part(self, chosen: np.ndarray) -> "Outlines":
        """Those of some annotations."""
        return Outlines(self.read, self.rows[chosen])

    def texts(self) -> list[bytes]:
        """Each of them; nothing where there is none."""
        every = self.read()
        found = (every[row] for row in self.rows.tolist())
        return [b"" if text in NOTHING else text for text in found]


def size_of(segmentation: Any, height: int, width: int) -> tuple[int, int]:
    """Height and width of a mask; a polygon is of its picture."""
    if isinstance(segmentation, list):
        return height, width
    rows, columns = segmentation["size"]
    return int(rows), int(columns)


def decoded(segmentation: Any, height: int, width: int) -> np.ndarray:
    """The pixels, (H, W) bool; a ValueError or the like for what is no mask of this size."""
    if isinstance(segmentation, list):
        return _of_polygons(segmentation, height, width)
    return decode(_counts(segmentation), height, width)


def lengths_of(segmentation: Any, height: int, width: int) -> np.ndarray:
    """The runs of the same mask, (R,) int64, of which no pixels are made."""
    if isinstance(segmentation, list):
        runs = _runs_of_polygons(segmentation, height, width)
        return np.array([height * width]) if runs is None else lengths_in(runs["counts"], height, width)
    return lengths_in(_counts(segmentation), height, width)


def _counts(segmentation: Any) -> Any:
    counts = segmentation["counts"]
    return counts if isinstance(counts, list) else counts.encode()


# What `decoded`, `lengths_of` and `size_of` raise for what is no mask.
WRONG = (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError, msgspec.DecodeError)


def mask_of(text: bytes, height: int, width: int) -> np.ndarray:
    """The pixels of a picture's object, (H, W) bool, from its outline; a ValueError that says what is wrong."""
    if text.startswith(HEAD):
        return segment_of(text, height, width)
    try:
        segmentation = msgspec.json.decode(text)
        rows, columns = size_of(segmentation, height, width)
        if (rows, columns) == (height, width):
            return decoded(segmentation, height, width)
    except WRONG:
        raise ValueError("a segmentation is neither polygons nor RLE") from None
    raise ValueError(f"a mask is {columns} x {rows}, the picture {width} x {height}")


def encoded(mask: np.ndarray) -> dict[str, Any]:
    """A mask (H, W) as COCO writes it: its size and compressed run lengths."""
    return {"size": [int(side) for side in mask.shape], "counts": encode(mask).decode("ascii")}


def as_text(segmentation: Any) -> bytes:
    """An outline as JSON."""
    return json.dumps(segmentation).encode()


def _of_polygons(polygons: list[Any], height: int, width: int) -> np.ndarray:
    runs = _runs_of_polygons(polygons, height, width)
    return np.zeros((height, width), dtype=bool) if runs is None else pixels_of(runs)


def _runs_of_polygons(polygons: list[Any], height: int, width: int) -> Any:
    """As pycocotools has them; None where they enclose nothing."""
    if any(len(polygon) % 2 for polygon in polygons):
        raise ValueError("a corner of a polygon lacks a number")
    polygons = [polygon for polygon in polygons if len(polygon) >= 6]  # fewer corners enclose nothing
    if not polygons:
        return None
    corners = np.concatenate([np.array(polygon, dtype=np.float64) for polygon in polygons])
    if not (np.abs(corners) < 10 * max(height, width)).all():  # each pixel of an outline takes memory
        raise ValueError("a polygon lies far outside")
    from pycocotools import mask as rle  # of no use to who has no masks

    return rle.merge(rle.frPyObjects(polygons, height, width))
