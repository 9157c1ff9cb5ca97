"""Which object each detection finds, as COCO's evaluation pairs them."""

from collections.abc import Iterator, Sequence

import numpy as np

from detrcli.evaluation.errors import SAME
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth

NONE = -1  # in place of an object: none is found
IGNORED = -2  # only what does not count is found, a crowd say: neither right nor wrong


def found_objects(truth: Truth, results: Results) -> np.ndarray:
    """The object that each of M detections finds at an IoU of 0.5, (M,): counted through the truth, or as above."""
    found: np.ndarray = paired(truth, results, [SAME])[0]
    return found


def paired(truth: Truth, results: Results, ious: Sequence[float], ignored: np.ndarray | None = None) -> np.ndarray:
    """The object that each of M detections finds at T IoUs, (T, M); `ignored` (N,) does not count, nor do crowds.

    In every image and class the surest comes first and takes the free object that it overlaps most; those that do
    not count are taken only where there is no other. A crowd is never used up.
    """
    ignored = truth.crowd if ignored is None else ignored | truth.crowd
    found = np.full((len(ious), len(results)), NONE)
    thresholds = np.array(ious)[:, None]  # (T, 1)
    in_order = np.lexsort((-results.scores, results.category_ids, results.image_ids))
    objects_of = dict(groups(truth.of_image, truth.of_category, np.lexsort((truth.of_category, truth.of_image))))
    for pair, places in groups(results.image_ids, results.category_ids, in_order):
        objects = objects_of.get(pair)
        if objects is None:
            continue
        crowd, left_out = truth.crowd[objects], ignored[objects]
        overlap = overlaps(results.boxes[places], truth.boxes[objects], crowd)  # (m, n)
        free = np.ones((len(ious), len(objects)), dtype=bool)
        for row in np.flatnonzero(overlap.max(1) >= thresholds.min()).tolist():
            open_ = free & (overlap[row] >= thresholds)  # (T, n)
            counts = open_ & ~left_out
            choice = np.where(counts.any(1, keepdims=True), counts, open_)
            best = np.where(choice, overlap[row], -1.0).argmax(1)  # (T,)
            some = np.flatnonzero(choice.any(1))
            best = best[some]
            found[some, places[row]] = np.where(left_out[best], IGNORED, objects[best])
            used = ~crowd[best]
            free[some[used], best[used]] = False
    return found


def groups(*ids_and_order: np.ndarray) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """The places of every combination of some ids; the last argument puts equal ones one after the other."""
    *ids, order = ids_and_order
    if not len(order):
        return
    sorted_ids = np.stack(ids)[:, order]  # (ids, M)
    starts = np.flatnonzero((sorted_ids[:, 1:] != sorted_ids[:, :-1]).any(0)) + 1
    for places in np.split(order, starts):
        yield tuple(int(one[places[0]]) for one in ids), places


def by_image(image_ids: np.ndarray, chosen: np.ndarray) -> dict[int, np.ndarray]:
    """The places that are chosen, (M,) bool, of each image, in their order."""
    places = np.flatnonzero(chosen)
    ids = image_ids[places]
    return {image: places[own] for (image,), own in groups(ids, np.argsort(ids, kind="stable"))}


def overlaps(boxes: np.ndarray, others: np.ndarray, crowd: np.ndarray | None = None) -> np.ndarray:
    """IoU of x, y, w, h (m, 4) with (n, 4), (m, n); over a crowd (n,) the share of the box that lies in it."""
    first, second = boxes[:, None], others[None]
    top = np.maximum(first[..., :2], second[..., :2])
    end = np.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    common = (end - top).clip(min=0).prod(-1)  # (m, n)
    own, theirs = first[..., 2:].prod(-1), second[..., 2:].prod(-1)
    whole = own + theirs - common
    if crowd is not None:
        whole = np.where(crowd, own, whole)
    return np.divide(common, whole, out=np.zeros_like(common), where=whole > 0)
