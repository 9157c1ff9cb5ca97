"""Boundary AP (arXiv 2103.16562): compares masks along their outlines too, where errors of large masks show."""

from typing import Any

import numpy as np
from scipy.ndimage import minimum_filter

from detrcli.evaluation.masks import RunLengths
from detrcli.evaluation.metrics import accumulate, pycocotools_sets
from detrcli.evaluation.pairing import SAME
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth
from detrcli.run_lengths import box_around, encode, pixels_of

WIDTH = 0.02  # of a boundary, as a share of the image's diagonal


def boundary_of(mask: np.ndarray) -> np.ndarray:
    """Return the pixels of a mask (H, W) that are close to pixels outside of it, or to the edge of the image."""
    height, width = mask.shape
    distance = max(1, round(WIDTH * float(np.hypot(height, width))))
    boundary = mask.copy()
    left, top, across, down = box_around(mask)
    if across:
        inside = np.s_[top : top + down, left : left + across]
        boundary[inside] &= ~minimum_filter(mask[inside], 2 * distance + 1, mode="constant", cval=False)
    return boundary


def with_boundaries(
    truth: Truth, results: Results, masks: np.ndarray | None, max_detections: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Count with pycocotools, by the lower of two IoUs: of the masks and of their boundaries."""
    from pycocotools import mask as rle
    from pycocotools.cocoeval import COCOeval

    class BoundaryEvaluation(COCOeval):  # type: ignore[misc]  # pycocotools has no types
        def computeIoU(self, image: int, category: int) -> Any:  # noqa: N802  # pycocotools calls it by this name
            ious = np.array(super().computeIoU(image, category))  # (D, G), detections by descending score
            near = ious >= SAME  # other pairs cannot match anyway
            if not near.any():
                return ious
            rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
            order = np.argsort([-entry["score"] for entry in self._dts[image, category]], kind="mergesort")
            detections = [self._dts[image, category][order[row]]["segmentation"] for row in rows]
            objects = [self._gts[image, category][column] for column in columns]
            of_boundaries = rle.iou(
                [_boundary(mask) for mask in detections],
                [_boundary(entry["segmentation"]) for entry in objects],
                [int(entry["iscrowd"]) for entry in objects],
            )
            ious[np.ix_(rows, columns)] = np.minimum(ious[np.ix_(rows, columns)], of_boundaries)
            return ious

    return accumulate(BoundaryEvaluation(*pycocotools_sets(truth, results, masks), "segm"), max_detections)


def _boundary(mask: RunLengths) -> RunLengths:
    return {"size": mask["size"], "counts": encode(boundary_of(pixels_of(mask)))}
