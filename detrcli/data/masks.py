"""Masks of objects, from the segmentations of a COCO annotation file."""

import posixpath
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from pycocotools import mask as rle

from detrcli.errors import DataError


class _Image(msgspec.Struct):
    id: int
    file_name: str


class _Annotation(msgspec.Struct):
    image_id: int
    category_id: int
    segmentation: Any = None
    iscrowd: Any = 0


class _Category(msgspec.Struct):
    id: int
    name: str


class _File(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


@dataclass(frozen=True)
class Mask:
    """Which pixels are an object's."""

    label: str
    pixels: np.ndarray  # (H, W) bool

    @property
    def box(self) -> np.ndarray:
        """x0, y0, x1, y1 around it, (4,); all 0 where it is empty."""
        rows, columns = np.flatnonzero(self.pixels.any(1)), np.flatnonzero(self.pixels.any(0))
        if not len(rows):
            return np.zeros(4)
        return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def masks_of(annotations: Path, picture: str, height: int, width: int) -> list[Mask]:
    """The masks in a picture, which is known by its file's name; crowds are left out."""
    try:
        file = msgspec.json.decode(annotations.read_bytes(), type=_File)
    except OSError as error:
        raise DataError(f"{annotations}: cannot be read ({error.strerror}).") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{annotations}: not a COCO annotation file ({error}).") from None
    ids = {image.id for image in file.images if posixpath.basename(image.file_name) == picture}
    if len(ids) != 1:
        raise DataError(f"{annotations}: {len(ids)} of its images are called {picture}; one is needed.")
    names = {category.id: category.name for category in file.categories}
    masks = []
    for one in file.annotations:
        if one.image_id in ids and one.segmentation and not one.iscrowd:
            try:
                rows, columns = _size(one.segmentation, height, width)
                fits = (rows, columns) == (height, width)
                pixels = _decoded(one.segmentation, height, width) if fits else None
            except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError):
                raise DataError(
                    f"{annotations}: a segmentation in {picture} is neither polygons nor RLE."
                ) from None
            if pixels is None:
                raise DataError(
                    f"{annotations}: a mask of {picture} is {columns} x {rows}, the picture {width} x {height}."
                )
            masks.append(Mask(names.get(one.category_id, f"category {one.category_id}"), pixels))
    if not masks:
        raise DataError(f"{annotations}: there are no masks in {picture}.")
    return masks


def _size(segmentation: Any, height: int, width: int) -> tuple[int, int]:
    """Height and width of a mask; a polygon is of its picture."""
    if isinstance(segmentation, list):
        return height, width
    rows, columns = segmentation["size"]
    return int(rows), int(columns)


def _decoded(segmentation: Any, height: int, width: int) -> np.ndarray:
    """The pixels, (H, W); a ValueError or the like for what is no mask of this size.

    Run lengths are counted here, since pycocotools writes as far as they say.
    """
    if isinstance(segmentation, list):
        return _of_polygons(segmentation, height, width)
    counts = segmentation["counts"]
    lengths = np.array(counts if isinstance(counts, list) else _run_lengths(counts.encode()), dtype=np.int64)
    if (lengths < 0).any() or lengths.sum() != height * width:
        raise ValueError("the runs do not fill the picture")
    on = np.arange(len(lengths)) % 2 == 1  # column by column: off, on, off
    return np.repeat(on, lengths).reshape(width, height).T


def _of_polygons(polygons: list[Any], height: int, width: int) -> np.ndarray:
    corners = np.concatenate([np.array(polygon, dtype=np.float64) for polygon in polygons])
    if not (np.abs(corners) < 10 * max(height, width)).all():  # each pixel of an outline takes memory
        raise ValueError("a polygon lies far outside")
    encoded = rle.merge(rle.frPyObjects(polygons, height, width))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of numpy 2, which pycocotools does not know yet
        return np.asarray(rle.decode(encoded), dtype=bool)


def _run_lengths(text: bytes) -> list[int]:
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
