"""Masks of a whole split, as run lengths: those of its objects, and those that were found."""

from typing import Any

import msgspec
import numpy as np

from detrcli.data.segmentations import MALFORMED, mask_of
from detrcli.errors import DataError
from detrcli.evaluation.truth import Truth
from detrcli.run_lengths import MaskRows, encode

AT_ONCE = 200  # masks that pycocotools is asked for: with numpy 2 it cannot count beyond 255
RunLengths = dict[str, Any]  # "size" and the compressed "counts", as bytes


def rows_of(masks: MaskRows) -> np.ndarray:
    """The masks of a picture as objects, (N,)."""
    return objects([{"size": list(masks.size), "counts": counts} for counts in masks.counts])


def objects(rows: list[RunLengths]) -> np.ndarray:
    """An array (N,) of them."""
    array = np.empty(len(rows), dtype=object)
    array[:] = rows
    return array


def has_masks(truth: Truth) -> bool:
    """Whether all objects have one."""
    return truth.outlines is not None and all(truth.outlines.texts())


def truth_masks(truth: Truth) -> np.ndarray | None:
    """The masks of all objects as they are written, (N,); None where some have none."""
    if truth.outlines is None or not has_masks(truth):
        return None
    places = np.searchsorted(truth.image_ids, truth.of_image)
    rows = []
    for text, (height, width), number in zip(
        truth.outlines.texts(), truth.sizes[places].tolist(), truth.annotation_ids.tolist(), strict=True
    ):
        try:
            rows.append(run_lengths(text, height, width))
        except ValueError as error:
            raise DataError(f"annotation {number}: {error}.") from None
    return objects(rows)


def run_lengths(text: bytes, height: int, width: int) -> RunLengths:
    """An outline (JSON) as run lengths; a ValueError that says what is wrong."""
    return {"size": [height, width], "counts": encode(mask_of(text, height, width))}


def read_mask(segmentation: Any) -> RunLengths:
    """What a file of results has of a mask, checked; a ValueError where it is no RLE."""
    try:
        height, width = (int(side) for side in segmentation["size"])
        return run_lengths(msgspec.json.encode(segmentation), height, width)
    except (*MALFORMED, MemoryError):
        raise ValueError("its segmentation is no RLE") from None


def paired_ious(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The IoU of each mask with the one in the same place of the other list, (N,)."""
    from pycocotools import mask as rle  # of no use to who has no masks

    pairs = zip(found, truth, strict=True)
    return np.array([float(rle.iou([one], [other], [0])[0, 0]) for one, other in pairs])


def areas(masks: np.ndarray) -> np.ndarray:
    """How many pixels each has, (N,) float64."""
    from pycocotools import mask as rle  # of no use to who has no masks

    parts = [list(masks[start : start + AT_ONCE]) for start in range(0, len(masks), AT_ONCE)]
    return np.concatenate([np.zeros(0), *(rle.area(part) for part in parts)])
