"""Boundary AP (arXiv 2103.16562): masks are compared along their outlines too, where large ones forgive nothing."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from detrcli.evaluation.masks import RunLengths
from detrcli.evaluation.metrics import LEAST_IOU, Columns, pycocotools_sets, run
from detrcli.run_lengths import box_around, encode, pixels_of

WIDTH = 0.02  # of a boundary, by the picture's diagonal


def boundary_of(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask (H, W) that are near to what is outside of it; the picture's edge is outside."""
    height, width = mask.shape
    reach = max(1, round(WIDTH * float(np.hypot(height, width))))
    boundary = mask.copy()
    left, top, across, down = box_around(mask)
    if across:
        shown = mask[top : top + down, left : left + across]
        window = 2 * reach + 1
        if min(shown.shape) >= window:
            inner = _all_of(_all_of(shown, window).T, window).T  # (h - 2 * reach, w - 2 * reach)
            bottom, right = top + reach + inner.shape[0], left + reach + inner.shape[1]
            boundary[top + reach : bottom, left + reach : right] &= ~inner
    return boundary


def _all_of(mask: np.ndarray, window: int) -> np.ndarray:
    """Whether all of so many rows are on, from each row on: (H - window + 1, W)."""
    known = 1
    while 2 * known <= window:
        mask = mask[:-known] & mask[known:]
        known *= 2
    rest = window - known
    return mask[:-rest] & mask[rest:] if rest else mask


def with_boundaries(columns: Columns, most: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """As pycocotools counts, by the lower of two IoUs: that of the masks and that of their boundaries."""
    from pycocotools.cocoeval import COCOeval

    class BoundaryEvaluation(COCOeval):  # type: ignore[misc]  # pycocotools says nothing of its types
        def computeIoU(self, image: int, category: int) -> Any:  # noqa: N802  # it is called by this name
            ious = super().computeIoU(image, category)  # (D, G), detections by falling score
            truth, found = self._gts[image, category], self._dts[image, category]
            if not len(ious):
                return ious
            order = np.argsort([-one["score"] for one in found], kind="mergesort")[: self.params.maxDets[-1]]
            return lower_ious(
                ious,
                [found[i]["segmentation"] for i in order],
                [one["segmentation"] for one in truth],
                [int(one["iscrowd"]) for one in truth],
            )

    return run(BoundaryEvaluation(*pycocotools_sets(columns), "segm"), most)


def lower_ious(
    ious: np.ndarray, found: Sequence[RunLengths], truth: Sequence[RunLengths], crowd: Sequence[int]
) -> np.ndarray:
    """Of IoUs of masks (D, G) those that can count, lowered to those of the boundaries where they are lower."""
    from pycocotools import mask as rle

    near = ious >= LEAST_IOU
    rows, places = np.flatnonzero(near.any(1)).tolist(), np.flatnonzero(near.any(0)).tolist()
    if not rows:
        return ious
    ious = np.array(ious)
    here = np.ix_(rows, places)
    of_boundaries = rle.iou(
        [_boundary(found[i]) for i in rows], [_boundary(truth[i]) for i in places], [crowd[i] for i in places]
    )
    ious[here] = np.minimum(ious[here], of_boundaries)
    return ious


def _boundary(mask: RunLengths) -> RunLengths:
    return {"size": mask["size"], "counts": encode(boundary_of(pixels_of(mask)))}
