"""The ground truth that detections are scored against: as written, neither clipped nor corrected."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from detrcli.data.checks import Split, classes_without, parents_without_boxes
from detrcli.data.segmentations import Segmentations, mask_of
from detrcli.errors import DataError, UsageError
from detrcli.messages import argument
from detrcli.run_lengths import encode
from detrcli.structures import Classes
from detrcli.system.text import normalize_name


def _column(name: str) -> cached_property[np.ndarray]:
    """Return a property: the rows of the objects from an array over all annotations of the split."""
    return cached_property(lambda truth: getattr(truth.split.written, name)[truth.objects])


RunLengths = dict[str, Any]  # a mask as compressed COCO RLE: "size" [height, width] and "counts" as bytes


@dataclass(frozen=True)
class Truth:
    """A view of a split: I images with their N objects, crowds included, of K classes, with the data's own ids."""

    split: Split
    images: np.ndarray  # (I,), indices of the images in the split, by ascending image id
    objects: np.ndarray  # (N,), indices of the objects among the split's annotations
    classes: Classes  # by ascending id

    def part(self, chosen: np.ndarray) -> "Truth":
        """Return the view of some of the images, selected by (I,) bool."""
        objects = self.objects[np.isin(self.of_image, self.image_ids[chosen])]
        return replace(self, images=self.images[chosen], objects=objects)

    @cached_property
    def image_ids(self) -> np.ndarray:
        return self.split.written.image_ids[self.images]  # (I,) int64, ascending

    @cached_property
    def sizes(self) -> np.ndarray:
        return self.split.sizes[self.images]  # (I, 2), height and width

    @cached_property
    def segmentations(self) -> Segmentations | None:
        return self.split.written.segmentations and self.split.written.segmentations.part(self.objects)

    annotation_ids = _column("annotation_ids")  # (N,) int64
    of_image = _column("of_image")  # (N,) int64, image ids
    of_category = _column("of_category")  # (N,) int64, category ids
    boxes = _column("boxes")  # (N, 4) float64, x, y, width, height in pixels
    areas = _column("areas")  # (N,) float64, of the masks where annotated, else of the boxes; for AP by object size
    crowd = _column("crowd")  # (N,) bool


def truth_of(split: Split, *, limit: int | None = None, classes: Sequence[str] | None = None) -> Truth:
    """Return the ground truth of the usable images; only of the first `limit`, and of `classes` by name, if given."""
    w = split.written
    images = np.flatnonzero(split.usable_images)[:limit]
    images = images[np.argsort(w.image_ids[images], kind="stable")]
    chosen = classes_in_split(split)
    if classes is not None:
        names = [normalize_name(name) for name in chosen.names.tolist()]
        requested = {normalize_name(name) for name in classes}
        if missing := sorted(requested.difference(names)):
            raise UsageError(
                f"{argument('classes')}: unknown class {', '.join(missing)}.\n"
                f"The classes of the data are {', '.join(dict.fromkeys(chosen.names.tolist()))}."
            )
        indices = np.flatnonzero([name in requested for name in names])
        things = None if chosen.things is None else chosen.things[indices]
        chosen = Classes(chosen.ids[indices], chosen.names[indices], things)
    # Boxes without width or height, or outside of the image, count, as in pycocotools.
    objects = (
        np.isin(w.of_image, w.image_ids[images]) & np.isin(w.of_category, chosen.ids) & np.isfinite(w.boxes).all(1)
    )
    return Truth(split, images, np.flatnonzero(objects), chosen)


def classes_in_split(split: Split) -> Classes:
    """Return the classes of a split by ascending id, without parent classes that have no objects."""
    only = {"": split}  # these functions take several splits by name
    return classes_without(only, parents_without_boxes(only).keys() - set(split.written.of_category.tolist()))


def has_masks(truth: Truth) -> bool:
    """Return whether every object has a mask."""
    return truth.segmentations is not None and all(truth.segmentations.texts())


def truth_masks(truth: Truth) -> np.ndarray | None:
    """Return the masks of all objects as written, (N,) of RunLengths; None if an object has none. Raises DataError."""
    if truth.segmentations is None or not has_masks(truth):
        return None
    sizes = truth.sizes[np.searchsorted(truth.image_ids, truth.of_image)]  # (N, 2)
    masks = []
    for text, (height, width), annotation_id in zip(
        truth.segmentations.texts(), sizes.tolist(), truth.annotation_ids.tolist(), strict=True
    ):
        try:
            masks.append(run_lengths(text, height, width))
        except ValueError as error:
            raise DataError(f"annotation {annotation_id}: {error}.") from None
    return np.fromiter(masks, object, len(masks))


def run_lengths(text: bytes, height: int, width: int) -> RunLengths:
    """Encode a COCO segmentation (polygons or RLE, as JSON). Raises ValueError if it is invalid."""
    return {"size": [height, width], "counts": encode(mask_of(text, height, width))}
