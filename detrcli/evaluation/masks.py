"""Masks of a whole split as run-length encodings (RLE): those of its objects, and those of detections."""

from typing import Any

import msgspec
import numpy as np

from detrcli.data.segmentations import MALFORMED, mask_of
from detrcli.errors import DataError
from detrcli.evaluation.truth import Truth
from detrcli.run_lengths import encode

# pycocotools is imported where it is used: most evaluations have no masks.

MASKS_PER_CALL = 200  # with numpy 2, pycocotools cannot count beyond 255
RunLengths = dict[str, Any]  # "size" (height, width) and the compressed "counts" as bytes


def mask_array(masks: list[RunLengths]) -> np.ndarray:
    array = np.empty(len(masks), dtype=object)  # (N,)
    array[:] = masks
    return array


def has_masks(truth: Truth) -> bool:
    """Return whether every object has a mask."""
    return truth.outlines is not None and all(truth.outlines.texts())


def truth_masks(truth: Truth) -> np.ndarray | None:
    """Return the masks of all objects, (N,), as written; None if an object has none. Raises DataError."""
    if truth.outlines is None or not has_masks(truth):
        return None
    sizes = truth.sizes[np.searchsorted(truth.image_ids, truth.of_image)]  # (N, 2)
    masks = []
    for text, (height, width), annotation_id in zip(
        truth.outlines.texts(), sizes.tolist(), truth.annotation_ids.tolist(), strict=True
    ):
        try:
            masks.append(run_lengths(text, height, width))
        except ValueError as error:
            raise DataError(f"annotation {annotation_id}: {error}.") from None
    return mask_array(masks)


def run_lengths(text: bytes, height: int, width: int) -> RunLengths:
    """Encode an outline (polygons or RLE as JSON). Raises ValueError if it is invalid."""
    return {"size": [height, width], "counts": encode(mask_of(text, height, width))}


def read_mask(segmentation: Any) -> RunLengths:
    """Check and encode the `segmentation` of a results file. Raises ValueError if it is not an RLE."""
    try:
        height, width = (int(side) for side in segmentation["size"])
        return run_lengths(msgspec.json.encode(segmentation), height, width)
    except MALFORMED:
        raise ValueError("its segmentation is not an RLE") from None


def paired_ious(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the IoU of each mask with the mask at the same index of the other array, (N,)."""
    from pycocotools import mask as rle

    return np.array([float(rle.iou([a], [b], [0])[0, 0]) for a, b in zip(first, second, strict=True)])


def areas(masks: np.ndarray) -> np.ndarray:
    """Return the number of pixels of each mask, (N,) float64."""
    from pycocotools import mask as rle

    starts = range(0, len(masks), MASKS_PER_CALL)
    return np.concatenate([np.zeros(0), *(rle.area(list(masks[start : start + MASKS_PER_CALL])) for start in starts)])
