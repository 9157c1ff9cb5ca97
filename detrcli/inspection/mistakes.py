"""Why an object was missed, and where a detection too many comes from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torchvision.ops import box_iou

from detrcli.boxes import corners
from detrcli.inspection.matching import UNMATCHED, Layer
from detrcli.structures import Target

SAME_PLACE = 0.5  # IoU from which two boxes mean the same object
DUPLICATE, OTHER_CLASS, BACKGROUND = "duplicate", "other-class", "background"

Why = Literal["no-query", "no-object", "class", "score", "box"]


@dataclass(frozen=True)
class Answer:
    """What a layer's query for an object says of it."""

    layer: int
    query: int | None  # None where there are more objects than queries
    label: int | None  # its surest class that is not "no object"
    score: float | None
    own_score: float | None  # the probability of the object's class
    iou: float | None
    why: Why | None  # the object is not found by it; None: it is


@dataclass(frozen=True)
class Missed:
    """An object that no detection stands for."""

    target: int
    answers: Sequence[Answer]  # of every layer; the last one is what was detected


@dataclass(frozen=True)
class Extra:
    """A detection that no object was given to."""

    query: int
    label: int
    score: float
    kind: str  # DUPLICATE, OTHER_CLASS or BACKGROUND
    target: int | None  # the object that it lies on
    partner: int | None  # the query which that was given to
    iou: float | None


def missed(layers: Sequence[Layer], target: Target, threshold: float) -> list[Missed]:
    """The objects without a detection in the last layer: of their class, in their place, not given to another."""
    last = layers[-1]
    labels, ious = _labels(target), _ious(last, target)
    given = last.queries
    absent = []
    for n, label in enumerate(labels):
        others = np.isin(np.arange(len(last.boxes)), np.delete(given, n))
        finds = (last.scores >= threshold) & (last.labels == label) & (ious[:, n] >= SAME_PLACE) & ~others
        if not finds.any():
            absent.append(Missed(n, [_answer(layer, target, n, threshold) for layer in layers]))
    return absent


def extra(layer: Layer, target: Target, threshold: float) -> list[Extra]:
    """The detections of a layer to which no object was given, the surest first."""
    labels, ious, given = _labels(target), _ious(layer, target), layer.queries
    free = np.setdiff1d(np.flatnonzero(layer.scores >= threshold), given)
    found = []
    for query in free[np.argsort(-layer.scores[free], kind="stable")].tolist():
        label, score = int(layer.labels[query]), float(layer.scores[query])
        overlaps = ious[query]  # (N,)
        on, kind = np.where(labels == label, overlaps, 0), DUPLICATE
        if on.max(initial=0) < SAME_PLACE:
            on, kind = overlaps, OTHER_CLASS
        if on.max(initial=0) < SAME_PLACE:
            found.append(Extra(query, label, score, BACKGROUND, None, None, None))
        else:
            n = int(on.argmax())
            partner = None if given[n] == UNMATCHED else int(given[n])
            found.append(Extra(query, label, score, kind, n, partner, float(on[n])))
    return found


def _answer(layer: Layer, target: Target, n: int, threshold: float) -> Answer:
    query = int(layer.queries[n])
    if query == UNMATCHED:
        return Answer(layer.layer, None, None, None, None, None, "no-query")
    says = layer.probabilities[query]  # (K + 1,)
    label, wanted = int(layer.labels[query]), int(target.labels[n])
    score, iou = float(layer.scores[query]), float(_ious(layer, target)[query, n])
    why: Why | None = None
    if says.argmax() == len(says) - 1:
        why = "no-object"
    elif label != wanted:
        why = "class"
    elif score < threshold:
        why = "score"
    elif iou < SAME_PLACE:
        why = "box"
    return Answer(layer.layer, query, label, score, float(says[wanted]), iou, why)


def _labels(target: Target) -> np.ndarray:
    return target.labels.cpu().numpy()


def _ious(layer: Layer, target: Target) -> np.ndarray:
    """IoU of every query with every object, (Q, N)."""
    ious: np.ndarray = box_iou(
        corners(torch.from_numpy(layer.boxes)), corners(target.boxes.cpu().float())
    ).numpy()
    return ious
