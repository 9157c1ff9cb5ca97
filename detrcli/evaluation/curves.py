"""Precision by recall, F1 by score, confusion matrix and calibration."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from detrcli.errors import MachineError
from detrcli.evaluation.metrics import ALL, IOU_50, RECALLS, hotcoco_evaluation
from detrcli.evaluation.pairing import IGNORED, SAME, found_objects
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth

SCORES = np.linspace(0, 1, 101)
BINS = 10


@dataclass(frozen=True)
class Bin:
    """The detections with scores in an interval of 0.1."""

    score: float  # mean
    right: float  # share of true positives
    count: int


@dataclass(frozen=True)
class Curves:
    """Curves of K classes at an IoU of 0.5."""

    precision: np.ndarray  # (K, 101) at RECALLS; NaN where there are no objects
    f1: np.ndarray  # (101,) at SCORES, of all classes together
    f1_by_class: np.ndarray  # (K, 101)
    confused: np.ndarray  # (K + 1, K + 1), objects by class against detections by class; the last is none
    calibration: Sequence[Bin]
    calibration_error: float  # mean absolute difference between scores and shares of true positives


def curves_of(truth: Truth, results: Results, threshold: float) -> Curves:
    """Compute the curves from detections of all scores; the confusion matrix from those that reach the threshold."""
    if find_spec("hotcoco") is None:
        raise MachineError("Curves are computed by hotcoco, which has no wheel for this platform.")
    results = results.part(results.known_to(truth))
    K = len(truth.classes)
    found = found_objects(truth, results)
    counts, right = found != IGNORED, found >= 0
    objects = truth.of_category[~truth.crowd]
    per_class = np.array([(objects == id_).sum() for id_ in truth.classes.ids], dtype=int)  # (K,)
    precision, confused = np.full((K, len(RECALLS)), np.nan), np.zeros((K + 1, K + 1), dtype=int)
    if K and len(results):
        evaluation = hotcoco_evaluation(truth, results)
        evaluation.evaluate()
        evaluation.accumulate()
        precision = np.asarray(evaluation.eval["precision"])[IOU_50, :, :, ALL, 2].T
        precision = np.where(precision < 0, np.nan, precision)
        confused = np.asarray(evaluation.confusion_matrix(iou_thr=SAME, min_score=threshold)["matrix"], dtype=int)
    else:
        confused[:K, K] = per_class
        precision[per_class > 0] = 0
    f1_by_class = np.zeros((K, len(SCORES)))
    for k, id_ in enumerate(truth.classes.ids.tolist()):
        own = counts & (results.category_ids == id_)
        f1_by_class[k] = _f1(results.scores[own], right[own], int(per_class[k]))
    calibration, error = _calibration(results.scores[counts], right[counts])
    f1 = _f1(results.scores[counts], right[counts], len(objects))
    return Curves(precision, f1, f1_by_class, confused, calibration, error)


def _f1(scores: np.ndarray, right: np.ndarray, objects: int) -> np.ndarray:
    """Return F1 of the detections that reach each of SCORES, (101,)."""
    order = np.argsort(scores)
    hits = np.append(right[order][::-1].cumsum()[::-1], 0)  # true positives from each score on
    first = np.searchsorted(scores[order], SCORES)  # (101,)
    return 2 * hits[first] / np.maximum(len(scores) - first + objects, 1)


def _calibration(scores: np.ndarray, right: np.ndarray) -> tuple[list[Bin], float]:
    index = np.minimum((scores.clip(0, 1) * BINS).astype(int), BINS - 1)
    bins = [
        Bin(float(scores[own].mean()), float(right[own].mean()), int(own.sum()))
        for own in (index == i for i in range(BINS))
        if own.any()
    ]
    return bins, sum(bin.count * abs(bin.score - bin.right) for bin in bins) / max(1, len(scores))
