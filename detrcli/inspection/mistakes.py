"""Why an object was missed, and where a false positive comes from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torchvision.ops import box_iou

from detrcli.boxes import cxcywh_to_xyxy
from detrcli.inspection.matching import UNMATCHED, LayerMatching
from detrcli.losses.scoring import NO_OBJECT
from detrcli.structures import Target

SAME_PLACE = 0.5  # IoU from which two boxes mean the same object
DUPLICATE, OTHER_CLASS, BACKGROUND = "duplicate", "other-class", "background"

Why = Literal["no-query", "no-object", "class", "score", "box"]


@dataclass(frozen=True)
class Answer:
    """What a layer's query for an object says of it."""

    layer: int
    query: int | None  # None where there are more objects than queries
    label: int | None  # its likeliest class
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
    """A detection that is matched to no object."""

    query: int
    label: int
    score: float
    kind: str  # DUPLICATE, OTHER_CLASS or BACKGROUND
    target: int | None  # the object that it lies on
    partner: int | None  # the query which that is matched to
    iou: float | None


def missed(layers: Sequence[LayerMatching], target: Target, threshold: float) -> list[Missed]:
    """The objects without a detection in the last layer: of their class, in their place, not matched to another."""
    last = layers[-1]
    labels, ious, matched = _labels(target), _ious(last, target), last.queries
    queries, classes = last.detections(threshold).T  # (D,)
    absent = []
    for n, label in enumerate(labels):
        others = np.isin(queries, np.delete(matched, n))
        finds = (classes == label) & (ious[queries, n] >= SAME_PLACE) & ~others
        if not finds.any():
            absent.append(Missed(n, [_answer(layer, target, n, threshold) for layer in layers]))
    return absent


def extra(layer: LayerMatching, target: Target, threshold: float) -> list[Extra]:
    """The detections of a layer that are matched to no object, the surest first.

    Of a matched query's detections, the one of its object's class is no false positive; nor is its likeliest one
    where there is none of that class: then the object is missed.
    """
    labels, ious, matched = _labels(target), _ious(layer, target), layer.queries
    wanted = {pair.query: int(labels[pair.target]) for pair in layer.pairs}
    detections = [(query, label) for query, label in layer.detections(threshold).tolist()]
    found = []
    for query, label in detections:
        own = wanted.get(query)
        if own is not None and (label == own or (label == layer.labels[query] and (query, own) not in detections)):
            continue
        score = float(layer.probabilities[query, label])
        overlaps = ious[query]  # (N,)
        on, kind = np.where(labels == label, overlaps, 0), DUPLICATE
        if on.max(initial=0) < SAME_PLACE:
            on, kind = overlaps, OTHER_CLASS
        if on.max(initial=0) < SAME_PLACE:
            found.append(Extra(query, label, score, BACKGROUND, None, None, None))
        else:
            n = int(on.argmax())
            partner = None if matched[n] == UNMATCHED else int(matched[n])
            found.append(Extra(query, label, score, kind, n, partner, float(on[n])))
    return found


def _answer(layer: LayerMatching, target: Target, n: int, threshold: float) -> Answer:
    query = int(layer.queries[n])
    if query == UNMATCHED:
        return Answer(layer.layer, None, None, None, None, None, "no-query")
    label, wanted = int(layer.labels[query]), int(target.labels[n])
    score, own_score = float(layer.scores[query]), float(layer.probabilities[query, wanted])
    iou = float(_ious(layer, target)[query, n])
    detected = layer.detections(threshold)
    why: Why | None = None
    if (detected == (query, wanted)).all(1).any():
        why = "box" if iou < SAME_PLACE else None
    elif layer.top[query] == NO_OBJECT:
        why = "no-object"
    elif label != wanted:
        why = "class"
    else:
        why = "score"
    return Answer(layer.layer, query, label, score, own_score, iou, why)


def _labels(target: Target) -> np.ndarray:
    return target.labels.cpu().numpy()


def _ious(layer: LayerMatching, target: Target) -> np.ndarray:
    """IoU of every query with every object, (Q, N)."""
    ious: np.ndarray = box_iou(
        cxcywh_to_xyxy(torch.from_numpy(layer.boxes)), cxcywh_to_xyxy(target.boxes.cpu().float())
    ).numpy()
    return ious
