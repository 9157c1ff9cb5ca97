"""Masks of objects, from the segmentations of a COCO annotation file."""

import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from detrcli.data.outlines import WRONG, decoded, size_of
from detrcli.errors import DataError
from detrcli.run_lengths import box_around


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
        x, y, width, height = box_around(self.pixels)
        return np.array([x, y, x + width, y + height])


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
                rows, columns = size_of(one.segmentation, height, width)
                fits = (rows, columns) == (height, width)
                pixels = decoded(one.segmentation, height, width) if fits else None
            except WRONG:
                raise DataError(f"{annotations}: a segmentation in {picture} is neither polygons nor RLE.") from None
            if pixels is None:
                raise DataError(
                    f"{annotations}: a mask of {picture} is {columns} x {rows}, the picture {width} x {height}."
                )
            masks.append(Mask(names.get(one.category_id, f"category {one.category_id}"), pixels))
    if not masks:
        raise DataError(f"{annotations}: there are no masks in {picture}.")
    return masks
