"""Precision by recall, F1 by score, confusion matrix and calibration."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detrcli.evaluation.metrics import (
    ALL,
    IOU_50,
    MAX_DETECTIONS,
    RECALLS,
    accumulated,
    hotcoco_evaluation,
    require_hotcoco,
)
from detrcli.evaluation.pairing import FOUND_IOU, IGNORED, found_objects
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth

SCORES = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Curves:
    """Curves of K classes at an IoU of 0.5."""

    precision: np.ndarray  # (K, 101) at RECALLS; NaN where there are no objects
    f1: np.ndarray  # (101,) at SCORES, of all classes together
    f1_by_class: np.ndarray  # (K, 101)
    confused: np.ndarray  # (K + 1, K + 1), objects by class against detections by class; the last is none
    calibration: Sequence[tuple[float, float, int]]  # mean score, share of true positives and count by tenths of scores
    calibration_error: float  # mean absolute difference between scores and shares of true positives


def curves_of(truth: Truth, results: Results, threshold: float) -> Curves:
    """Compute the curves from detections of all scores; the confusion matrix from those that reach the threshold."""
    require_hotcoco("The precision-recall curve")
    results = results.part(results.known_to(truth))
    K = len(truth.classes)
    found = found_objects(truth, results)
    counts, right = found != IGNORED, found >= 0
    objects = truth.of_category[~truth.crowd]
    per_class = np.array([(objects == id_).sum() for id_ in truth.classes.ids], dtype=int)  # (K,)
    precision, confused = np.full((K, len(RECALLS)), np.nan), np.zeros((K + 1, K + 1), dtype=int)
    if K and len(results):
        evaluation = hotcoco_evaluation(truth, results)
        precision = accumulated(evaluation, [1, 10, MAX_DETECTIONS])[0][IOU_50, :, :, ALL, 2].T
        precision = np.where(precision < 0, np.nan, precision)
        confused = np.asarray(evaluation.confusion_matrix(iou_thr=FOUND_IOU, min_score=threshold)["matrix"], dtype=int)
    else:
        confused[:K, K] = per_class
        precision[per_class > 0] = 0
    f1_by_class = np.zeros((K, len(SCORES)))
    for k, id_ in enumerate(truth.classes.ids.tolist()):
        own = counts & (results.category_ids == id_)
        f1_by_class[k] = _f1(results.scores[own], right[own], int(per_class[k]))
    scores, right = results.scores[counts], right[counts]
    return Curves(precision, _f1(scores, right, len(objects)), f1_by_class, confused, *_calibration(scores, right))


def _f1(scores: np.ndarray, right: np.ndarray, objects: int) -> np.ndarray:
    """Return F1 of the detections that reach each of SCORES, (101,)."""
    order = np.argsort(scores)
    hits = np.append(right[order][::-1].cumsum()[::-1], 0)  # true positives from each score on
    first = np.searchsorted(scores[order], SCORES)  # (101,)
    return 2 * hits[first] / np.maximum(len(scores) - first + objects, 1)


def _calibration(scores: np.ndarray, right: np.ndarray) -> tuple[list[tuple[float, float, int]], float]:
    tenth = np.minimum((scores.clip(0, 1) * 10).astype(int), 9)
    members = [tenth == i for i in np.unique(tenth)]
    bins = [(float(scores[own].mean()), float(right[own].mean()), int(own.sum())) for own in members]
    return bins, sum(count * abs(score - share) for score, share, count in bins) / max(1, len(scores))
