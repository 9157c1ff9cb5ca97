"""The annotations of a split as its files contain them, in any layout, and problems with them."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from detrcli.data.panoptic_maps import PanopticMaps
from detrcli.data.segmentations import Segmentations


@dataclass(frozen=True)
class Problem:
    """A problem in a dataset."""

    severity: Literal["error", "warning"]
    kind: str
    split: str | None
    where: str  # file, image or annotation
    what: str


class Problems(list[Problem]):
    def __init__(self, split: str, problems: Iterable[Problem] = ()) -> None:
        super().__init__(problems)
        self.split = split

    def error(self, kind: str, where: str, what: str) -> None:
        self.append(Problem("error", kind, self.split, where, what))

    def warning(self, kind: str, where: str, what: str) -> None:
        self.append(Problem("warning", kind, self.split, where, what))


@dataclass(frozen=True)
class RawAnnotations:
    """I images, N annotations and K categories with the ids of the dataset; nothing is corrected or left out."""

    folder: Path  # of the images, which file names may not leave
    image_ids: np.ndarray  # (I,) int64
    files: Sequence[str]  # (I,), relative to the folder, with /
    sizes: np.ndarray  # (I, 2) int64, height and width; 0 if the files do not contain them
    annotation_ids: np.ndarray  # (N,) int64
    of_image: np.ndarray  # (N,) int64, the image id of each annotation
    of_category: np.ndarray  # (N,) int64, its category id
    boxes: np.ndarray  # (N, 4) float64, x, y, width, height in pixels; NaN if malformed
    areas: np.ndarray  # (N,) float64
    crowd: np.ndarray  # (N,) bool
    category_ids: np.ndarray  # (K,) int64
    names: Sequence[str]  # (K,)
    parents: Sequence[str]  # (K,), supercategories; "" for none
    problems: Sequence[Problem] = ()  # found while reading
    annotation_file: Path | None = None  # the COCO annotation file, if the split has one
    segmentations: Segmentations | None = None  # if the layout has any
    things: Sequence[bool] | None = None  # (K,), False for stuff; None if the files do not say
    maps: PanopticMaps | None = None  # if the annotations are segments of panoptic maps

    @classmethod
    def from_rows(
        cls,
        folder: Path,
        files: Sequence[str],
        sizes: Sequence[tuple[int, int]],
        rows: Sequence[tuple[int, int, Sequence[float], bool]],
        categories: Mapping[int, str],
        problems: Sequence[Problem],
    ) -> Self:
        """Number images and annotations from 1. Rows are image id, category id, box and crowd."""
        boxes = box_array([list(row[2]) for row in rows])
        return cls(
            folder=folder,
            image_ids=np.arange(1, len(files) + 1),
            files=files,
            sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
            annotation_ids=np.arange(1, len(rows) + 1),
            of_image=np.array([row[0] for row in rows], dtype=np.int64),
            of_category=np.array([row[1] for row in rows], dtype=np.int64),
            boxes=boxes,
            areas=boxes[:, 2] * boxes[:, 3],
            crowd=np.array([row[3] for row in rows], dtype=bool),
            category_ids=np.array(list(categories), dtype=np.int64),
            names=list(categories.values()),
            parents=[""] * len(categories),
            problems=problems,
        )

    def part(self, chosen: np.ndarray) -> Self:
        """Keep the annotations chosen by index or mask, and all images and categories."""
        arrays = ("annotation_ids", "of_image", "of_category", "boxes", "areas", "crowd")
        parts: dict[str, Any] = {name: getattr(self, name)[chosen] for name in arrays}
        segmentations = self.segmentations and self.segmentations.part(chosen)
        return replace(self, **parts, segmentations=segmentations, maps=self.maps and self.maps.part(chosen))

    def categories(self) -> Iterator[tuple[int, str, str, bool]]:
        """Yield id, name, supercategory of each category, and whether it is a thing."""
        things = self.things or [True] * len(self.names)
        return zip(self.category_ids.tolist(), self.names, self.parents, things, strict=True)

    def image_index(self) -> np.ndarray:
        """Return the index of each annotation's image, (N,); -1 for unknown images."""
        order = np.argsort(self.image_ids, kind="stable")
        nearest = np.searchsorted(self.image_ids, self.of_image, sorter=order).clip(max=len(order) - 1)
        index = order[nearest]
        return np.where(self.image_ids[index] == self.of_image, index, -1)

    def path(self, i: int) -> Path:
        return self.folder / self.files[i]

    def texts(self, chosen: np.ndarray) -> list[bytes]:
        """Read the segmentations of chosen annotations, as `Segmentations.texts`; empty for annotations without."""
        return [b""] * len(chosen) if self.segmentations is None else self.segmentations.part(chosen).texts()

    def name_of_image(self, i: int) -> str:
        return f"image {self.image_ids[i]}"

    def name_of(self, i: int) -> str:
        """Name an annotation for the user: by its id, or a segment by its id and its image."""
        if self.maps is None:
            return f"annotation {self.annotation_ids[i]}"
        return f"segment {self.maps.segment_ids[i]} of image {self.of_image[i]}"


NO_ID = -(2**63)  # in place of a missing or malformed id


def integer_array(values: Iterable[Any], invalid: int | None = None) -> np.ndarray:
    """Return integers, or numbers and strings of integers, as int64.

    Other values are replaced by `invalid`; without it they raise ValueError.
    """

    def convert(value: Any) -> int:
        try:
            number = int(value)
            inexact = isinstance(value, bool) or (isinstance(value, float) and not value.is_integer())
            if not inexact and -(2**63) <= number < 2**63:
                return number
        except (TypeError, ValueError, OverflowError):
            pass
        if invalid is None:
            raise ValueError(f"{value!r:.40} is not an integer of 64 bits")
        return invalid

    return np.fromiter(map(convert, values), dtype=np.int64)


def box_array(boxes: Sequence[Any]) -> np.ndarray:
    """Return boxes as (N, 4) float64, with NaN for a box that is not four numbers with a finite product."""
    try:
        array = np.array(boxes, dtype=np.float64).reshape(len(boxes), 4)
    except (TypeError, ValueError, OverflowError):
        array = np.array([_box(box) for box in boxes], dtype=np.float64).reshape(len(boxes), 4)
    array[~(np.abs(array) < 1e150).all(1)] = math.nan  # areas of larger boxes overflow
    return array


def _box(box: Any) -> list[float]:
    four = isinstance(box, list | tuple) and len(box) == 4
    valid = four and all(isinstance(v, int | float) and abs(v) < 1e300 for v in box)
    return [float(v) for v in box] if valid else [math.nan] * 4
