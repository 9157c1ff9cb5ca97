"""Why each object of a split was missed and each detection is wrong; and kinds of errors by cost in AP (TIDE)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from detrcli.evaluation.metrics import hotcoco_evaluation, require_hotcoco
from detrcli.evaluation.pairing import FOUND_IOU, NEAR_IOU, NONE, by_image, found_objects, overlaps
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth

MIN_SCORE = 0.05  # predictions with a lower score explain nothing
MISSED = {
    "other_class": "classification error",
    "poor_box": f"localization error (IoU below {FOUND_IOU})",
    "low_score": "score below the threshold",
    "no_query": "unmatched (more objects than queries)",
    "nothing": "no prediction",
}
FALSE_POSITIVES = {
    "duplicate": "duplicate",
    "other_class": "classification error",
    "poor_box": f"localization error (IoU {NEAR_IOU} to {FOUND_IOU})",
    "background": "background",
}
ERROR_KINDS = {  # hotcoco's name and a description
    "class": ("Cls", f"classification error (wrong class, IoU {FOUND_IOU} or more)"),
    "box": ("Loc", f"localization error (correct class, IoU {NEAR_IOU} to {FOUND_IOU})"),
    "both": ("Both", f"classification and localization error (wrong class, IoU {NEAR_IOU} to {FOUND_IOU})"),
    "duplicate": ("Dupe", "duplicate of a detection with a higher score"),
    "background": ("Bkg", f"false positive on background (IoU below {NEAR_IOU} with all objects)"),
    "missed": ("Miss", "missed object (no detection nearby)"),
}


@dataclass(frozen=True)
class Outcomes:
    """The outcomes of N objects and M predictions; predictions that reach the threshold are detections."""

    truth: Truth
    results: Results
    threshold: float
    found_by: np.ndarray  # (N,), the detection that finds an object, or NONE
    missed: np.ndarray  # (N,), a key of MISSED; "" for objects that are found, and for crowds
    closest: np.ndarray  # (N,), the prediction that explains a missed object (the highest score), or NONE
    wrong: np.ndarray  # (M,), a key of FALSE_POSITIVES; "" for all other predictions
    on: np.ndarray  # (M,), the object that a detection finds or overlaps, or NONE

    @cached_property
    def objects(self) -> int:  # not counting crowds
        return int((~self.truth.crowd).sum())

    @property
    def found(self) -> int:
        return int((self.found_by >= 0).sum())

    @property
    def false_positives(self) -> int:
        return int((self.wrong != "").sum())

    @cached_property
    def per_image(self) -> np.ndarray:
        """The numbers of objects, found objects and false positives of each image, (3, I)."""
        t = self.truth
        image_ids = t.of_image[~t.crowd], t.of_image[self.found_by >= 0], self.results.image_ids[self.wrong != ""]
        return np.stack([np.bincount(np.searchsorted(t.image_ids, ids), minlength=len(t.images)) for ids in image_ids])

    @property
    def image_scores(self) -> np.ndarray:
        """F1 of each image, (I,); 1 for an image without objects and detections."""
        objects, found, false_positives = self.per_image
        total = objects + found + false_positives
        return np.where(total > 0, 2 * found / np.maximum(total, 1), 1.0)

    @property
    def missed_by_kind(self) -> Mapping[str, int]:
        return {kind: int((self.missed == kind).sum()) for kind in MISSED}

    @property
    def false_positives_by_kind(self) -> Mapping[str, int]:
        return {kind: int((self.wrong == kind).sum()) for kind in FALSE_POSITIVES}


def outcomes_of(truth: Truth, results: Results, threshold: float, without_query: np.ndarray | None = None) -> Outcomes:
    """Classify missed objects and false positives among detections, which have score >= threshold.

    A prediction refers to the object that it overlaps most, if the IoU is at least 0.1 for the same class or 0.5 for
    another. A missed object is explained by the prediction with the highest score that refers to it and finds no other
    object. `without_query`, (N,) bool, marks objects left unmatched because there are more objects than queries.
    """
    N, M = len(truth.of_image), len(results)
    known = results.known_to(truth)
    detected = known & (results.scores >= threshold)
    finds = np.full(M, NONE)  # (M,), the object that a detection finds, NONE or IGNORED
    finds[detected] = found_objects(truth, results.part(detected))
    on = np.where(finds >= 0, finds, NONE)
    found_by = np.full(N, NONE)
    found_by[finds[finds >= 0]] = np.flatnonzero(finds >= 0)
    missed = np.where(truth.crowd | (found_by >= 0), "", np.array("nothing", dtype="<U11"))
    closest, wrong = np.full(N, NONE), np.full(M, "", dtype="<U11")

    objects_of = by_image(truth.of_image, ~truth.crowd)
    explaining = known & (detected | (results.scores >= MIN_SCORE))
    for image, predictions in by_image(results.image_ids, explaining).items():
        objects = objects_of.get(image, np.zeros(0, dtype=int))
        false_positive = detected[predictions] & (finds[predictions] == NONE)  # (m,)
        if not len(objects):
            wrong[predictions[false_positive]] = "background"
            continue
        ious = overlaps(results.boxes[predictions], truth.boxes[objects], np.zeros(len(objects), dtype=bool))  # (m, n)
        same_class = results.category_ids[predictions][:, None] == truth.of_category[objects]  # (m, n)
        for i in np.flatnonzero(false_positive).tolist():
            wrong[predictions[i]], overlapped = _false_positive(ious[i], same_class[i])
            on[predictions[i]] = objects[overlapped] if overlapped >= 0 else NONE
        nearest = ious.argmax(1)  # (m,), the object that a prediction refers to
        iou, correct = (np.take_along_axis(values, nearest[:, None], 1)[:, 0] for values in (ious, same_class))  # (m,)
        refers = np.flatnonzero((finds[predictions] == NONE) & (iou >= np.where(correct, NEAR_IOU, FOUND_IOU)))
        for i in sorted(refers.tolist(), key=lambda i: float(results.scores[predictions[i]])):
            n = objects[nearest[i]]
            if found_by[n] == NONE:  # scores ascend, so the highest is kept
                closest[n] = predictions[i]
                missed[n] = "other_class" if not correct[i] else "poor_box" if iou[i] < FOUND_IOU else "low_score"
    if without_query is not None:
        missed[without_query & (missed != "")] = "no_query"
    return Outcomes(truth, results, threshold, found_by, missed, closest, wrong, on)


def _false_positive(ious: np.ndarray, same_class: np.ndarray) -> tuple[str, int]:
    """Return the kind of a false positive, and the overlapped object; `ious` (n,) are with the objects of its image."""
    own_ious, other_ious = np.where(same_class, ious, 0), np.where(same_class, 0, ious)
    for kind, overlap, minimum in (
        ("duplicate", own_ious, FOUND_IOU), ("other_class", other_ious, FOUND_IOU), ("poor_box", own_ious, NEAR_IOU)
    ):  # fmt: skip
        if overlap.max() >= minimum:
            return kind, int(overlap.argmax())
    return "background", NONE


@dataclass(frozen=True)
class ErrorKind:
    kind: str  # a key of ERROR_KINDS
    count: int
    cost: float  # the gain in AP50 if only these errors were fixed


def errors_of(truth: Truth, results: Results) -> Sequence[ErrorKind]:
    """Return the errors of each kind, as in TIDE (arXiv 2008.08115); results of other images or classes are ignored."""
    require_hotcoco("The classification of errors")
    if not len(truth.classes):
        return [ErrorKind(kind, 0, 0.0) for kind in ERROR_KINDS]
    evaluation = hotcoco_evaluation(truth, results)
    evaluation.evaluate()
    errors = evaluation.tide_errors(pos_thr=FOUND_IOU, bg_thr=NEAR_IOU)
    return [
        ErrorKind(kind, int(errors["counts"][name]), float(errors["delta_ap"][name]))
        for kind, (name, _) in ERROR_KINDS.items()
    ]
