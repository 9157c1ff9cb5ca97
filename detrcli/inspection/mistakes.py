"""Missed objects and false positives of an image, with their reasons."""

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

SAME_PLACE = 0.5  # minimum IoU of two boxes of the same object

MissReason = Literal["no-query", "no-object", "class", "score", "box"]
FalsePositiveKind = Literal["duplicate", "other-class", "background"]


@dataclass(frozen=True)
class MatchedPrediction:
    """The prediction of the query that a layer matches to an object."""

    layer: int
    query: int | None  # None if there are more objects than queries
    label: int | None  # the most probable class
    score: float | None
    own_score: float | None  # the probability of the object's class
    iou: float | None
    why: MissReason | None  # the reason that the query does not detect the object; None if it does


@dataclass(frozen=True)
class FalsePositive:
    """A detection that is matched to no object."""

    query: int
    label: int
    score: float
    kind: FalsePositiveKind
    target: int | None  # the object that it overlaps
    partner: int | None  # the query that this object is matched to
    iou: float | None


def missed_objects(
    layers: Sequence[LayerMatching], target: Target, threshold: float
) -> dict[int, list[MatchedPrediction]]:
    """Return the objects without a detection in the last layer, with their predictions in every layer.

    A detection of an object has its class and an IoU of at least SAME_PLACE. Its query may not be matched to another.
    """
    last, ious = layers[-1], [_ious(layer, target) for layer in layers]
    queries, classes = last.detections(threshold).T  # (D,)
    missed = {}
    for n, label in enumerate(target.labels.tolist()):
        matched_to_others = np.isin(queries, np.delete(last.queries, n))
        detects = (classes == label) & (ious[-1][queries, n] >= SAME_PLACE) & ~matched_to_others
        if not detects.any():
            missed[n] = [_matched_prediction(*pair, n, label, threshold) for pair in zip(layers, ious, strict=True)]
    return missed


def false_positives(layer: LayerMatching, target: Target, threshold: float) -> list[FalsePositive]:
    """Return the detections of a layer that are matched to no object, by descending score.

    A matched query may have detections of several classes. The detection of its object's class is a true positive; if
    there is none, its most probable detection is not counted either: its object counts as missed.
    """
    labels, ious, matched = target.labels.cpu().numpy(), _ious(layer, target), layer.queries
    label_of = {pair.query: int(labels[pair.target]) for pair in layer.pairs}  # of matched queries
    detections = [(query, label) for query, label in layer.detections(threshold).tolist()]
    positives = []
    for query, label in detections:
        expected = label_of.get(query)
        if expected is not None and (
            label == expected or (label == layer.labels[query] and (query, expected) not in detections)
        ):
            continue
        score = float(layer.probabilities[query, label])
        kind: FalsePositiveKind = "duplicate"
        overlaps = np.where(labels == label, ious[query], 0)  # (N,)
        if overlaps.max(initial=0) < SAME_PLACE:
            kind, overlaps = "other-class", ious[query]
        if overlaps.max(initial=0) < SAME_PLACE:
            positives.append(FalsePositive(query, label, score, "background", None, None, None))
            continue
        n = int(overlaps.argmax())
        partner = None if matched[n] == UNMATCHED else int(matched[n])
        positives.append(FalsePositive(query, label, score, kind, n, partner, float(overlaps[n])))
    return positives


def _matched_prediction(
    layer: LayerMatching, ious: np.ndarray, n: int, expected: int, threshold: float
) -> MatchedPrediction:
    query = int(layer.queries[n])
    if query == UNMATCHED:
        return MatchedPrediction(layer.layer, None, None, None, None, None, "no-query")
    label, iou = int(layer.labels[query]), float(ious[query, n])
    why: MissReason | None
    if (layer.detections(threshold) == (query, expected)).all(1).any():
        why = "box" if iou < SAME_PLACE else None
    elif layer.top[query] == NO_OBJECT:
        why = "no-object"
    else:
        why = "class" if label != expected else "score"
    score, own_score = float(layer.scores[query]), float(layer.probabilities[query, expected])
    return MatchedPrediction(layer.layer, query, label, score, own_score, iou, why)


def _ious(layer: LayerMatching, target: Target) -> np.ndarray:
    predicted, annotated = torch.from_numpy(layer.boxes), target.boxes.cpu().float()
    ious: np.ndarray = box_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(annotated)).numpy()  # (Q, N)
    return ious
