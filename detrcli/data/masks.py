"""The masks of a single image from a COCO annotation file."""

import posixpath
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detrcli.data.layouts import coco
from detrcli.data.segmentations import mask_of
from detrcli.errors import DataError
from detrcli.run_lengths import box_around


@dataclass(frozen=True)
class Mask:
    """The mask of an object."""

    label: str
    pixels: np.ndarray  # (H, W) bool

    @property
    def box(self) -> np.ndarray:
        """The box around it, xyxy (4,); all 0 for an empty mask."""
        x, y, width, height = box_around(self.pixels)
        return np.array([x, y, x + width, y + height])


def masks_of(annotations: Path, file_name: str, height: int, width: int) -> list[Mask]:
    """Read the masks, crowds excluded, of the image with this file name. Raises DataError if it has none."""
    raw = coco.read(annotations, [annotations.parent])
    images = [i for i, file in enumerate(raw.files) if posixpath.basename(file) == file_name]
    if len(images) != 1:
        raise DataError(f"{annotations}: {len(images)} of its images have the name {file_name}; there must be one.")
    objects = np.flatnonzero((raw.image_index() == images[0]) & ~raw.crowd)
    texts = [] if raw.segmentations is None else raw.segmentations.part(objects).texts()
    names = dict(zip(raw.category_ids.tolist(), raw.names, strict=True))
    masks = []
    for category, text in zip(raw.of_category[objects].tolist(), texts, strict=False):
        if text:
            try:
                pixels = mask_of(text, height, width)
            except ValueError as error:
                raise DataError(f"{annotations}: {file_name}: {error}.") from None
            masks.append(Mask(names.get(category, f"category {category}"), pixels))
    if not masks:
        raise DataError(f"{annotations}: {file_name} has no masks.")
    return masks
