"""Segmentations of annotations: polygons, run-length encodings, or segments of panoptic maps."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from detrcli.data.panoptic_maps import PREFIX, segment_mask
from detrcli.run_lengths import decode, encode, lengths_in

EMPTY = (b"", b"null", b"[]")  # texts without a segmentation

# Raised for malformed segmentations. ValueError includes errors of msgspec.
MALFORMED = (TypeError, ValueError, LookupError, AttributeError, OverflowError, MemoryError)


class MaskSizeError(ValueError):
    """A mask of another size than its image."""


@dataclass(frozen=True)
class Segmentations:
    """Segmentations of N annotations, read on demand: they make up nine tenths of COCO's files."""

    read: Callable[[], Sequence[bytes]]  # all of the files, each as text: JSON, or that of `PanopticMaps`
    rows: np.ndarray  # (N,), index of each annotation's segmentation in `read()`

    def part(self, chosen: np.ndarray) -> "Segmentations":
        return Segmentations(self.read, self.rows[chosen])

    def texts(self) -> list[bytes]:
        """Read the segmentation of each annotation; b"" for none."""
        texts = self.read()
        return [b"" if texts[row] in EMPTY else texts[row] for row in self.rows.tolist()]


def run_lengths_of(text: bytes, height: int, width: int) -> np.ndarray:
    """Return the run lengths (R,) int64 of polygons or RLE as JSON. Raises ValueError with the reason."""
    try:
        segmentation = msgspec.json.decode(text)
        if isinstance(segmentation, list):
            counts = _counts_of_polygons(segmentation, height, width)
        else:
            counts, (rows, columns) = segmentation["counts"], map(int, segmentation["size"])
            if (rows, columns) != (height, width):
                raise MaskSizeError(f"its mask is {columns} x {rows}, the image {width} x {height}")
        return lengths_in(counts.encode() if isinstance(counts, str) else counts, height, width)
    except MaskSizeError:
        raise
    except MALFORMED:
        raise ValueError("its segmentation is neither polygons nor RLE") from None


def mask_of(text: bytes, height: int, width: int) -> np.ndarray:
    """Return the mask (H, W) bool of a text of `Segmentations`. Raises ValueError with the reason."""
    if text.startswith(PREFIX):
        return segment_mask(text, height, width)
    return decode(run_lengths_of(text, height, width), height, width)


def to_rle(mask: np.ndarray) -> dict[str, Any]:
    """Encode a mask (H, W) as COCO's RLE: its size and compressed counts."""
    return {"size": [int(side) for side in mask.shape], "counts": encode(mask).decode("ascii")}


def as_text(segmentation: Any) -> bytes:
    """Return a segmentation as a text of `Segmentations`."""
    return json.dumps(segmentation).encode()


def _counts_of_polygons(polygons: list[Any], height: int, width: int) -> Any:
    if any(len(polygon) % 2 for polygon in polygons):
        raise ValueError("a corner of a polygon lacks a number")
    polygons = [polygon for polygon in polygons if len(polygon) >= 6]  # fewer corners enclose nothing
    if not polygons:
        return [height * width]  # empty
    corners = np.concatenate([np.array(polygon, dtype=np.float64) for polygon in polygons])
    if not (np.abs(corners) < 10 * max(height, width)).all():  # pycocotools uses memory for each pixel of an outline
        raise ValueError("a polygon lies far outside")
    from pycocotools import mask as rle  # only needed for masks

    return rle.merge(rle.frPyObjects(polygons, height, width))["counts"]
