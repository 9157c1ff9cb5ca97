"""The truth of a split as its files have it, whatever their layout, and what is wrong with it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from detrcli.data.maps import PanopticMaps
from detrcli.data.outlines import Outlines


@dataclass(frozen=True)
class Problem:
    """Something that a user should know of their data before it costs them a night."""

    severity: Literal["error", "warning"]
    kind: str
    split: str | None
    where: str
    what: str


@dataclass(frozen=True)
class RawAnnotations:
    """I images, N annotations and K categories, under the data's own ids, nothing left out and nothing fixed."""

    folder: Path  # the pictures' folder, which file names may not leave
    image_ids: np.ndarray  # (I,) int64
    files: Sequence[str]  # (I,), relative to the folder, with /
    sizes: np.ndarray  # (I, 2) int64, height and width; 0 where the files do not say
    annotation_ids: np.ndarray  # (N,) int64
    of_image: np.ndarray  # (N,) int64, an image's id
    of_category: np.ndarray  # (N,) int64, a category's id
    boxes: np.ndarray  # (N, 4) float64, x, y, width, height in pixels; NaN where they are not four numbers
    areas: np.ndarray  # (N,) float64
    crowd: np.ndarray  # (N,) bool
    category_ids: np.ndarray  # (K,) int64
    names: Sequence[str]  # (K,)
    parents: Sequence[str]  # (K,), the category above, "" for none
    problems: Sequence[Problem] = field(default=())  # found while reading
    annotation_file: Path | None = None  # that all of it stands in, where it is COCO's
    outlines: Outlines | None = None  # where the layout has any
    things: Sequence[bool] | None = None  # (K,), those that are no stuff; None where nobody says so
    maps: PanopticMaps | None = None  # where the annotations are segments of panoptic maps

    def with_annotations(self, chosen: np.ndarray) -> Self:
        """With some of the annotations, (N,) bool."""
        return replace(
            self,
            annotation_ids=self.annotation_ids[chosen],
            of_image=self.of_image[chosen],
            of_category=self.of_category[chosen],
            boxes=self.boxes[chosen],
            areas=self.areas[chosen],
            crowd=self.crowd[chosen],
            outlines=self.outlines and self.outlines.part(chosen),
            maps=self.maps and self.maps.part(chosen),
        )


NO_ID = -(2**63)  # stands for an id that is none


def whole_numbers(values: Iterable[Any], otherwise: int | None = None) -> np.ndarray:
    """Ids as int64: integers, or numbers and strings that are integers.

    Anything else becomes `otherwise`, or is a ValueError where that is not given.
    """

    def number(value: Any) -> int:
        try:
            return _whole(value)
        except ValueError:
            if otherwise is None:
                raise
            return otherwise

    return np.fromiter((number(value) for value in values), dtype=np.int64)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or value is None or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(f"{value!r:.40} is no whole number")
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise ValueError(f"{value!r:.40} is no whole number") from None
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{value!r:.40} is too large a number")
    return number


def box_array(boxes: Sequence[Any]) -> np.ndarray:
    """Boxes as (N, 4) float64; a row of NaN for one that is not four numbers with a product that is finite."""
    try:
        array = np.array(boxes, dtype=np.float64).reshape(len(boxes), 4)
    except (TypeError, ValueError, OverflowError):
        array = np.array([_box(box) for box in boxes], dtype=np.float64).reshape(len(boxes), 4)
    array[~(np.abs(array) < 1e150).all(1)] = math.nan
    return array


def _box(box: Any) -> list[float]:
    if (
        isinstance(box, list | tuple)
        and len(box) == 4
        and all(isinstance(v, int | float) and abs(v) < 1e300 for v in box)
    ):
        return [float(v) for v in box]
    return [math.nan] * 4
