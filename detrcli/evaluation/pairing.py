"""Matching of detections to objects, as in COCO's evaluation."""

from collections.abc import Iterator, Sequence

import numpy as np

from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth

FOUND_IOU, NEAR_IOU = 0.5, 0.1  # minimum IoU of a detection with an object that it finds, or is near
NONE = -1  # in place of the index of an object: the detection is a false positive
IGNORED = -2  # matched to a crowd or another ignored object: the detection does not count


def found_objects(truth: Truth, results: Results) -> np.ndarray:
    """Return the index of the object that each detection finds at an IoU of 0.5, or NONE or IGNORED, (M,)."""
    return paired(truth, results, [FOUND_IOU])[0]


def paired(truth: Truth, results: Results, ious: Sequence[float], ignored: np.ndarray | None = None) -> np.ndarray:
    """Return the index of the object that each of M detections finds at T minimum IoUs, or NONE or IGNORED, (T, M).

    In each image and class, detections are matched by descending score, each to the free object with the highest
    IoU. Crowds and `ignored` objects, (N,) bool, do not count and are matched only if no other object is free. A
    crowd can be matched any number of times.
    """
    ignored = truth.crowd if ignored is None else ignored | truth.crowd
    found = np.full((len(ious), len(results)), NONE)
    thresholds = np.array(ious)[:, None]  # (T, 1)
    by_score = np.lexsort((-results.scores, results.category_ids, results.image_ids))
    objects_of = dict(groups(truth.of_image, truth.of_category, np.lexsort((truth.of_category, truth.of_image))))
    for pair, detections in groups(results.image_ids, results.category_ids, by_score):
        objects = objects_of.get(pair)
        if objects is None:
            continue
        crowd, not_counted = truth.crowd[objects], ignored[objects]  # (n,)
        overlap = overlaps(results.boxes[detections], truth.boxes[objects], crowd)  # (m, n)
        free = np.ones((len(ious), len(objects)), dtype=bool)
        for row in np.flatnonzero(overlap.max(1) >= thresholds.min()).tolist():
            available = free & (overlap[row] >= thresholds)  # (T, n)
            counted = available & ~not_counted
            candidates = np.where(counted.any(1, keepdims=True), counted, available)
            best = np.where(candidates, overlap[row], -1.0).argmax(1)  # (T,)
            matched = np.flatnonzero(candidates.any(1))  # indices of thresholds
            best = best[matched]
            found[matched, detections[row]] = np.where(not_counted[best], IGNORED, objects[best])
            used = ~crowd[best]
            free[matched[used], best[used]] = False
    return found


def groups(*ids_and_order: np.ndarray) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Yield each combination of ids with its indices; the last argument is an order that makes equal ids adjacent."""
    *ids, order = ids_and_order
    if not len(order):
        return
    ordered = np.stack(ids)[:, order]  # (number of ids, M)
    starts = np.flatnonzero((ordered[:, 1:] != ordered[:, :-1]).any(0)) + 1
    for indices in np.split(order, starts):
        yield tuple(int(column[indices[0]]) for column in ids), indices


def by_image(image_ids: np.ndarray, chosen: np.ndarray) -> dict[int, np.ndarray]:
    """Map each image to its indices in ascending order, only those that `chosen`, (M,) bool, selects."""
    indices = np.flatnonzero(chosen)
    ids = image_ids[indices]
    return {image: indices[group] for (image,), group in groups(ids, np.argsort(ids, kind="stable"))}


def overlaps(boxes: np.ndarray, others: np.ndarray, crowd: np.ndarray | None = None) -> np.ndarray:
    """Return the IoU of boxes x, y, w, h (m, 4) with others (n, 4), (m, n).

    With a crowd, (n,) bool, it is the share of the box that lies in the crowd.
    """
    first, second = boxes[:, None], others[None]
    start = np.maximum(first[..., :2], second[..., :2])
    end = np.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    intersection = (end - start).clip(min=0).prod(-1)  # (m, n)
    area = first[..., 2:].prod(-1)
    union = area + second[..., 2:].prod(-1) - intersection
    if crowd is not None:
        union = np.where(crowd, area, union)
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
