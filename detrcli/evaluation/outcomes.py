"""What became of every object and of every detection of a split, and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from detrcli.evaluation.errors import NEAR, SAME
from detrcli.evaluation.pairing import NONE, by_image, found_objects, overlaps
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth

HEARD = 0.05  # a prediction of a lower score says nothing
MISSED = {
    "other_class": "another class is predicted there",
    "poor_box": "its box overlaps too little",
    "low_score": "the score is too low",
    "no_query": "more objects than queries: none was left",
    "nothing": "nothing is predicted there",
}
FALSE_ALARMS = {
    "duplicate": "an object that a surer detection found",
    "other_class": "an object of another class",
    "poor_box": "an object that the box overlaps too little",
    "background": "no object is there",
}


@dataclass(frozen=True)
class Outcomes:
    """What became of N objects and of M predictions, of which those that reach the threshold are detections."""

    truth: Truth
    results: Results
    threshold: float
    found_by: np.ndarray  # (N,), the detection that finds an object, or NONE
    missed: np.ndarray  # (N,), why it is not found, of MISSED; "" where it is, and for crowds
    closest: np.ndarray  # (N,), the prediction that speaks of a missed object, the surest one, or NONE
    wrong: np.ndarray  # (M,), what a false alarm is, of FALSE_ALARMS; "" for all other predictions
    on: np.ndarray  # (M,), the object that a detection finds or lies on, or NONE

    @cached_property
    def objects(self) -> int:
        """How many there are to find."""
        return int((~self.truth.crowd).sum())

    @property
    def found(self) -> int:
        """How many of them are found."""
        return int((self.found_by >= 0).sum())

    @property
    def false_alarms(self) -> int:
        """How many detections are wrong."""
        return int((self.wrong != "").sum())

    @cached_property
    def per_image(self) -> np.ndarray:
        """Objects, found objects and false alarms of each image, (3, I)."""
        truth, count = self.truth, len(self.truth.images)
        ids = (
            truth.of_image[~truth.crowd],
            truth.of_image[self.found_by >= 0],
            self.results.image_ids[self.wrong != ""],
        )
        return np.stack([np.bincount(np.searchsorted(truth.image_ids, one), minlength=count) for one in ids])

    @property
    def missed_by_kind(self) -> Mapping[str, int]:
        """How many are missed, by why."""
        return {kind: int((self.missed == kind).sum()) for kind in MISSED}

    @property
    def false_alarms_by_kind(self) -> Mapping[str, int]:
        """How many detections are wrong, by what they are."""
        return {kind: int((self.wrong == kind).sum()) for kind in FALSE_ALARMS}


def outcomes_of(truth: Truth, results: Results, threshold: float, without_query: np.ndarray | None = None) -> Outcomes:
    """Of detections with score >= threshold; `without_query` (N,) says which objects no query was left for.

    A prediction speaks of the object that it overlaps most, if it has its class and an IoU of 0.1, or 0.5 whatever
    the class. Why an object is missed is told by the surest prediction that speaks of it and finds no other one.
    """
    N, M = len(truth.of_image), len(results)
    known = np.isin(results.image_ids, truth.image_ids) & np.isin(results.category_ids, truth.classes.ids)
    sure = known & (results.scores >= threshold)
    finds = np.full(M, NONE)
    finds[sure] = found_objects(truth, results.part(sure))
    on = np.where(finds >= 0, finds, NONE)
    found_by = np.full(N, NONE)
    found_by[finds[finds >= 0]] = np.flatnonzero(finds >= 0)
    missed, closest = np.full(N, "", dtype="<U11"), np.full(N, NONE)
    wrong = np.full(M, "", dtype="<U11")
    real = np.flatnonzero(~truth.crowd)
    missed[real] = "nothing"
    missed[found_by >= 0] = ""

    of_image = by_image(truth.of_image, ~truth.crowd)
    for image, own in by_image(results.image_ids, known & (sure | (results.scores >= HEARD))).items():
        objects = of_image.get(image, np.zeros(0, dtype=int))
        alarms = own[sure[own] & (finds[own] == NONE)]
        if not len(objects):
            wrong[alarms] = "background"
            continue
        ious = overlaps(results.boxes[own], truth.boxes[objects], np.zeros(len(objects), dtype=bool))  # (m, n)
        same = results.category_ids[own][:, None] == truth.of_category[objects]  # (m, n)
        for i in np.flatnonzero(np.isin(own, alarms)).tolist():
            wrong[own[i]], n = _kind(ious[i], same[i])
            on[own[i]] = objects[n] if n >= 0 else NONE
        speaks_of = ious.argmax(1)  # (m,)
        rows = np.arange(len(own))
        iou, right = ious[rows, speaks_of], same[rows, speaks_of]
        speaks = (finds[own] == NONE) & (iou >= np.where(right, NEAR, SAME))
        for i in sorted(np.flatnonzero(speaks).tolist(), key=lambda i: float(results.scores[own[i]])):
            n = objects[speaks_of[i]]
            if found_by[n] == NONE:  # the surest comes last
                closest[n] = own[i]
                missed[n] = "other_class" if not right[i] else "poor_box" if iou[i] < SAME else "low_score"
    if without_query is not None:
        missed[without_query & (missed != "")] = "no_query"
    return Outcomes(truth, results, threshold, found_by, missed, closest, wrong, on)


def _kind(ious: np.ndarray, same: np.ndarray) -> tuple[str, int]:
    """What a false alarm is, by its IoU with the n objects of its image, and on which of them it lies."""
    own, others = np.where(same, ious, 0), np.where(same, 0, ious)
    if own.max() >= SAME:
        return "duplicate", int(own.argmax())
    if others.max() >= SAME:
        return "other_class", int(others.argmax())
    if own.max() >= NEAR:
        return "poor_box", int(own.argmax())
    return "background", NONE
