"""Annotations that are probably wrong: labels, boxes and masks, missing objects and duplicates."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detrcli.evaluation.outcomes import Outcomes
from detrcli.evaluation.pairing import FOUND_IOU, NEAR_IOU, groups, overlaps
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import RunLengths, Truth

SUSPECT_KINDS = {
    "wrong_label": "another class is predicted for this object",
    "missing_label": "an object is predicted where none is annotated",
    "loose_box": "a different box is predicted for this object",
    "duplicate": "the object is annotated twice",
    "poor_mask": "a different mask is predicted for this object",
}
FREE_IOU = 0.3  # below this IoU with all annotated objects, a prediction is of none of them
TIGHT_IOU = 0.75  # at this IoU or more, two boxes or masks agree
DUPLICATE_IOU = 0.85  # at this IoU or more, two annotations of a class are of the same object
MIN_SUSPICION = 0.1
MIN_PROBABILITY = 0.01  # smooths the ratio of two small probabilities
MIN_SCORE = 0.3  # of a detection that suggests a missing label

Predictions = tuple[np.ndarray, np.ndarray]  # boxes (Q, 4), xyxy in pixels, and probabilities (Q, K)


@dataclass(frozen=True)
class Suspect:
    """An annotation that is probably wrong, or a place without one. Boxes are x, y, w, h in pixels."""

    kind: str  # a key of SUSPECT_KINDS
    suspicion: float
    image_id: int
    category_id: int  # as annotated; as predicted where an annotation is missing
    box: tuple[float, ...]
    score: float  # of the prediction; for a duplicate, the IoU
    annotation_id: int | None = None  # None where an annotation is missing
    suggested_category_id: int | None = None
    suggested_box: tuple[float, ...] | None = None
    iou: float | None = None  # of the two boxes or masks
    of: int | None = None  # for a duplicate, the id of the other annotation
    mask: Mapping[str, Any] | None = None  # as annotated, run-length encoded
    suggested_mask: Mapping[str, Any] | None = None

    @classmethod
    def annotated(cls, kind: str, truth: Truth, n: int, suspicion: float, score: float, **details: Any) -> "Suspect":
        image_id, category_id = int(truth.of_image[n]), int(truth.of_category[n])
        details["annotation_id"] = int(truth.annotation_ids[n])
        return cls(kind, suspicion, image_id, category_id, tuple(truth.boxes[n].tolist()), score, **details)

    def document(self, file: str) -> dict[str, Any]:
        entry = vars(self) | {
            "file": file,
            "box": xyxy(self.box),
            "score": round(self.score, 6) if self.of is None else None,
            "iou": None if self.iou is None else round(self.iou, 6),
            "suggested_box": None if self.suggested_box is None else xyxy(self.suggested_box),
        }
        omitted = ("kind", "suspicion", "mask")
        return {name: value for name, value in entry.items() if value is not None and name not in omitted}


@dataclass
class Suspicions:
    """The suspects of a split, collected image by image."""

    truth: Truth
    category_ids: np.ndarray  # (K,), the classes of predictions
    suspects: list[Suspect] = field(default_factory=list)

    def add(self, image_id: int, predictions: Sequence[Predictions], detections: Results) -> None:
        """Add the suspects of an image, from the predictions of all queries in it, and possibly in its mirror image."""
        of_image = np.flatnonzero(self.truth.of_image == image_id)
        objects = of_image[~self.truth.crowd[of_image]]
        self.suspects += self._wrong_labels(objects, predictions)
        loose = self._loose_boxes(objects, detections)
        self.suspects += loose.values()
        is_loose = np.isin(np.arange(len(detections)), list(loose))  # (m,)
        self.suspects += self._missing_labels(image_id, of_image, detections, is_loose)

    def _wrong_labels(self, objects: np.ndarray, predictions: Sequence[Predictions]) -> Iterator[Suspect]:
        passes = [self.probabilities(objects, *boxes_and_probabilities) for boxes_and_probabilities in predictions]
        for n, of_object in zip(objects.tolist(), zip(*passes, strict=True), strict=True):
            known = [probabilities for probabilities in of_object if probabilities is not None]
            own = np.flatnonzero(self.category_ids == self.truth.of_category[n])
            if not known or not len(own):
                continue
            mean = np.mean(known, axis=0)  # (K,)
            annotated = float(mean[own[0]])
            mean[own] = -1
            other = int(mean.argmax())
            score = float(mean[other])
            # The ratio of the two probabilities, so that models with low scores have suspects too.
            suspicion = (score + MIN_PROBABILITY) / (score + annotated + 2 * MIN_PROBABILITY)
            if score >= MIN_SUSPICION and suspicion > 0.5:
                suggested = {"suggested_category_id": int(self.category_ids[other])}
                yield Suspect.annotated("wrong_label", self.truth, n, suspicion, score, **suggested)

    def probabilities(
        self, objects: np.ndarray, boxes: np.ndarray, probabilities: np.ndarray
    ) -> list[np.ndarray | None]:
        """Return the highest probability of each class (K,) for each object; None for objects without a query.

        A query belongs to the object that it overlaps most, if their IoU is at least 0.5.
        """
        if not len(objects):
            return []
        corners = boxes.astype(np.float64)
        xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)  # (Q, 4)
        assigned = _assigned(overlaps(xywh, self.truth.boxes[objects]), FOUND_IOU)
        return [probabilities[own].max(0) if (own := assigned == n).any() else None for n in range(len(objects))]

    def _loose_boxes(self, objects: np.ndarray, detections: Results) -> dict[int, Suspect]:
        """Return the objects whose best detection has a different box, by the index of this detection."""
        loose: dict[int, Suspect] = {}
        if not len(objects) or not len(detections):
            return loose
        same_class = detections.category_ids[:, None] == self.truth.of_category[objects]  # (m, n)
        ious = np.where(same_class, overlaps(detections.boxes, self.truth.boxes[objects]), 0)
        assigned = _assigned(ious, NEAR_IOU)
        for column, n in enumerate(objects.tolist()):
            own = np.flatnonzero(assigned == column)
            if len(own):
                best = int(own[detections.scores[own].argmax()])
                if suspect := _different("loose_box", self.truth, n, detections, best, float(ious[best, column])):
                    loose[best] = suspect
        return loose

    def _missing_labels(
        self, image_id: int, objects: np.ndarray, detections: Results, is_loose: np.ndarray
    ) -> Iterator[Suspect]:
        """Yield detections that overlap no object, and no such detection with a higher score."""
        free = ~is_loose & (detections.scores >= MIN_SCORE)
        if len(objects):
            ious = overlaps(detections.boxes, self.truth.boxes[objects], self.truth.crowd[objects])  # (m, n)
            free &= ious.max(1) < FREE_IOU
        candidates = np.flatnonzero(free)
        kept: list[int] = []
        for m in candidates[np.argsort(-detections.scores[candidates], kind="stable")].tolist():
            if kept and overlaps(detections.boxes[[m]], detections.boxes[kept]).max() >= FOUND_IOU:
                continue
            kept.append(m)
            score, box = float(detections.scores[m]), tuple(detections.boxes[m].tolist())
            yield Suspect("missing_label", score, image_id, int(detections.category_ids[m]), box, score)


def _assigned(ious: np.ndarray, minimum: float) -> np.ndarray:
    """Return the object with the largest IoU (m, n) for each prediction, or -1 if it is below the minimum, (m,)."""
    return np.where(ious.max(1) >= minimum, ious.argmax(1), -1)


def _different(
    kind: str, truth: Truth, n: int, detections: Results, m: int, iou: float, **masks: Any
) -> Suspect | None:
    """Return an object as a suspect if its box or mask differs from that of detection `m`; `iou` compares the two."""
    score, box = float(detections.scores[m]), tuple(detections.boxes[m].tolist())
    if iou >= TIGHT_IOU or score * (1 - iou) < MIN_SUSPICION:
        return None
    return Suspect.annotated(kind, truth, n, score * (1 - iou), score, suggested_box=box, iou=iou, **masks)


def duplicates(truth: Truth) -> Iterator[Suspect]:
    """Yield annotations of the same class and nearly the same box as an earlier annotation."""
    objects = np.flatnonzero(~truth.crowd)
    of_image, of_category = truth.of_image[objects], truth.of_category[objects]
    for _, own in groups(of_image, of_category, np.lexsort((of_category, of_image))):
        members = np.sort(objects[own])
        ious = np.triu(overlaps(truth.boxes[members], truth.boxes[members]), 1)  # [i, j]: i is earlier than j
        for column in np.flatnonzero(ious.max(0) >= DUPLICATE_IOU).tolist():
            first = int(ious[:, column].argmax())
            iou, of = float(ious[first, column]), int(truth.annotation_ids[members[first]])
            yield Suspect.annotated("duplicate", truth, int(members[column]), iou, iou, iou=iou, of=of)


def poor_masks(outcomes: Outcomes, ious: np.ndarray, annotated: np.ndarray, predicted: np.ndarray) -> Iterator[Suspect]:
    """Yield detected objects whose mask differs from that of their detection.

    `ious` (N,) compares the two, and is NaN for other objects; `annotated` (N,) and `predicted` (M,) are RunLengths.
    """
    for n in np.flatnonzero(np.isfinite(ious)).tolist():
        m = int(outcomes.found_by[n])
        masks = {"mask": rle_document(annotated[n]), "suggested_mask": rle_document(predicted[m])}
        if suspect := _different("poor_mask", outcomes.truth, n, outcomes.results, m, float(ious[n]), **masks):
            yield suspect


def xyxy(box: Sequence[float]) -> list[float]:
    """Convert a box from x, y, w, h to rounded xyxy."""
    x, y, w, h = box
    return [round(value, 3) for value in (x, y, x + w, y + h)]


def rle_document(mask: RunLengths) -> dict[str, Any]:
    return {"size": list(mask["size"]), "counts": mask["counts"].decode("ascii")}
