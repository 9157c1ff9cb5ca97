"""What a single number hides: precision against recall, F1 against score, classes confused, scores against truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from detrcli.errors import MachineError
from detrcli.evaluation.errors import SAME
from detrcli.evaluation.metrics import ALL, IOU_50, RECALLS, columns_of, hotcoco_evaluation
from detrcli.evaluation.pairing import IGNORED, found_objects
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth

SCORES = np.linspace(0, 1, 101)
BINS = 10


@dataclass(frozen=True)
class Bin:
    """Detections whose scores lie in one tenth."""

    score: float  # their mean
    right: float  # the share of them that find an object
    count: int


@dataclass(frozen=True)
class Curves:
    """Those of K classes at an IoU of 0.5."""

    precision: np.ndarray  # (K, 101) at RECALLS; NaN where there is nothing to find
    f1: np.ndarray  # (101,) at SCORES, of all classes together
    f1_by_class: np.ndarray  # (K, 101)
    confused: np.ndarray  # (K + 1, K + 1), objects by class against detections by class; the last is none
    calibration: Sequence[Bin]
    calibration_error: float  # how far scores lie from what they promise, on average


def curves_of(truth: Truth, results: Results, threshold: float) -> Curves:
    """From detections of all scores; classes are confused among those that reach the threshold."""
    if find_spec("hotcoco") is None:
        raise MachineError("Curves are computed by hotcoco, which this machine has no wheel of.")
    here = np.isin(results.image_ids, truth.image_ids) & np.isin(results.category_ids, truth.classes.ids)
    results = results.part(here)
    K = len(truth.classes)
    found = found_objects(truth, results)
    counts = found != IGNORED
    real = truth.of_category[~truth.crowd]
    of_class = [results.category_ids == id_ for id_ in truth.classes.ids.tolist()]
    calibration, error = _calibration(results.scores[counts], found[counts] >= 0)
    precision, confused = np.full((K, len(RECALLS)), np.nan), np.zeros((K + 1, K + 1), dtype=int)
    if K and len(results):
        evaluation: Any = hotcoco_evaluation(columns_of(truth, results))
        evaluation.evaluate()
        evaluation.accumulate()
        precision = np.asarray(evaluation.eval["precision"])[IOU_50, :, :, ALL, 2].T
        precision = np.where(precision < 0, np.nan, precision)
        confused = np.asarray(evaluation.confusion_matrix(iou_thr=SAME, min_score=threshold)["matrix"], dtype=int)
    else:
        confused[:K, K] = [(real == id_).sum() for id_ in truth.classes.ids.tolist()]
        precision[confused[:K, K] > 0] = 0
    return Curves(
        precision=precision,
        f1=_f1(results.scores[counts], found[counts] >= 0, len(real)),
        f1_by_class=np.stack(
            [
                _f1(results.scores[counts & own], found[counts & own] >= 0, int((real == id_).sum()))
                for own, id_ in zip(of_class, truth.classes.ids.tolist(), strict=True)
            ]
        )
        if K
        else np.zeros((0, len(SCORES))),
        confused=confused,
        calibration=calibration,
        calibration_error=error,
    )


def _f1(scores: np.ndarray, right: np.ndarray, objects: int) -> np.ndarray:
    """Of the detections that reach each of SCORES, (101,)."""
    order = np.argsort(scores)
    scores, hits = scores[order], np.append(right[order][::-1].cumsum()[::-1], 0)
    first = np.searchsorted(scores, SCORES)  # (101,), the least that reaches it
    kept = len(scores) - first
    f1: np.ndarray = 2 * hits[first] / np.maximum(kept + objects, 1)
    return f1


def _calibration(scores: np.ndarray, right: np.ndarray) -> tuple[list[Bin], float]:
    place = np.minimum((scores.clip(0, 1) * BINS).astype(int), BINS - 1)
    bins = [
        Bin(float(scores[own].mean()), float(right[own].mean()), int(own.sum()))
        for own in (place == i for i in range(BINS))
        if own.any()
    ]
    total = max(1, sum(one.count for one in bins))
    return bins, sum(one.count * abs(one.score - one.right) for one in bins) / total
