"""The truth that detections are scored against: as written, neither clipped nor fixed."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from detrcli.data.checks import Split, classes_without, parents_without_boxes
from detrcli.data.segmentations import Segmentations
from detrcli.errors import UsageError
from detrcli.structures import Classes
from detrcli.system.text import normalize_name


@dataclass(frozen=True)
class Truth:
    """I images, K classes and N objects under the data's own ids; crowds are among them."""

    images: np.ndarray  # (I,) places of the images in the split, by rising id
    image_ids: np.ndarray  # (I,) int64, rising
    classes: Classes  # by rising id
    annotation_ids: np.ndarray  # (N,) int64, as written
    of_image: np.ndarray  # (N,) int64, an image's id
    of_category: np.ndarray  # (N,) int64, a category's id
    boxes: np.ndarray  # (N, 4) float64, x, y, width, height in pixels
    areas: np.ndarray  # (N,) float64, of the masks where the data says so; they decide what is small
    crowd: np.ndarray  # (N,) bool
    sizes: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))  # (I, 2), height and width
    outlines: Segmentations | None = None  # of the objects, where the data has any

    def part(self, images: np.ndarray) -> "Truth":
        """Only some of the images, which are chosen by (I,) bool."""
        objects = np.isin(self.of_image, self.image_ids[images])
        return replace(
            self,
            images=self.images[images],
            image_ids=self.image_ids[images],
            annotation_ids=self.annotation_ids[objects],
            of_image=self.of_image[objects],
            of_category=self.of_category[objects],
            boxes=self.boxes[objects],
            areas=self.areas[objects],
            crowd=self.crowd[objects],
            sizes=self.sizes[images] if len(self.sizes) else self.sizes,
            outlines=self.outlines and self.outlines.part(objects),
        )


def truth_of(split: Split, *, limit: int | None = None, classes: Sequence[str] | None = None) -> Truth:
    """The objects of the images that can be read; `limit` takes the first images of the split."""
    w = split.written
    images = np.flatnonzero(split.usable_images)[:limit]
    images = images[np.argsort(w.image_ids[images], kind="stable")]
    chosen = classes_in_split(split) if classes is None else _chosen(classes_in_split(split), classes)
    # A box without width or height, or outside of its picture, counts: so it does for pycocotools.
    objects = (
        np.isin(w.of_image, w.image_ids[images]) & np.isin(w.of_category, chosen.ids) & np.isfinite(w.boxes).all(1)
    )
    return Truth(
        images=images,
        image_ids=w.image_ids[images],
        classes=chosen,
        annotation_ids=w.annotation_ids[objects],
        of_image=w.of_image[objects],
        of_category=w.of_category[objects],
        boxes=w.boxes[objects],
        areas=w.areas[objects],
        crowd=w.crowd[objects],
        sizes=split.sizes[images],
        outlines=w.segmentations and w.segmentations.part(objects),
    )


def classes_in_split(split: Split) -> Classes:
    """The classes of a split by rising id, without those that only stand above others and have no object at all."""
    only = {"": split}
    return classes_without(only, parents_without_boxes(only).keys() - set(split.written.of_category.tolist()))


def _chosen(known: Classes, names: Sequence[str]) -> Classes:
    wanted = {normalize_name(name) for name in names}
    keys = [normalize_name(name) for name in known.names.tolist()]
    if missing := sorted(wanted.difference(keys)):
        raise UsageError(
            f"--classes: the data has no {', '.join(missing)}. It has {', '.join(dict.fromkeys(known.names.tolist()))}."
        )
    chosen = np.array([one in wanted for one in keys], dtype=bool)
    things = None if known.things is None else known.things[chosen]
    return Classes(ids=known.ids[chosen], names=known.names[chosen], things=things)
