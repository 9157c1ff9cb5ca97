"""Annotations that are probably wrong: labels, boxes, what is missing and what stands twice, by falling suspicion."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detrcli.evaluation.pairing import NEAR, SAME, groups, overlaps
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth
from detrcli.inspection.survey import Predictions

KINDS = {
    "wrong_label": "another class is predicted where this object is",
    "missing_label": "an object is predicted where none is annotated",
    "loose_box": "the box that is predicted for this object is another one",
    "duplicate": "the same object is annotated twice",
    "poor_mask": "the mask that is predicted for this object is another one",
}
APART = 0.3  # IoU below which a prediction lies on no annotated object
TIGHT = 0.75  # IoU from which two boxes say the same
TWICE = 0.85  # IoU from which two annotations of a class mean one object
LEAST = 0.1  # suspicion that is worth a look
UNSURE = 0.01  # probability that says nothing
CONFIDENT = 0.3  # score from which a prediction on nothing is worth one


@dataclass(frozen=True)
class Suspect:
    """An annotation that is probably wrong, or a place where one is probably missing.

    Boxes are x, y, w, h in pixels.
    """

    kind: str  # of KINDS
    suspicion: float
    image_id: int
    category_id: int  # as annotated; of what is missing, as predicted
    box: tuple[float, ...]
    score: float  # of the prediction; of a duplicate the IoU
    annotation_id: int | None = None  # None for what is missing
    suggested_category_id: int | None = None
    suggested_box: tuple[float, ...] | None = None
    iou: float | None = None  # of the two boxes, or masks
    of: int | None = None  # the annotation that it stands beside
    mask: Mapping[str, Any] | None = None  # as annotated, in run lengths
    suggested_mask: Mapping[str, Any] | None = None


@dataclass
class Suspicions:
    """Gathers suspects image by image."""

    truth: Truth
    category_ids: np.ndarray  # (K,), of the classes that predictions are of
    found: list[Suspect] = field(default_factory=list)

    def look(self, image_id: int, predictions: Sequence[Predictions], detections: Results) -> None:
        """At what a model says of one image: of all classes by each query, once or twice, and what it detects."""
        t = self.truth
        objects = np.flatnonzero((t.of_image == image_id) & ~t.crowd)
        self.found += self._wrong_labels(objects, predictions)
        loose, used = self._loose_boxes(objects, detections)
        self.found += loose
        crowds = np.flatnonzero((t.of_image == image_id) & t.crowd)
        self.found += self._missing(image_id, np.concatenate([objects, crowds]), detections, used)

    def _wrong_labels(self, objects: np.ndarray, predictions: Sequence[Predictions]) -> Iterator[Suspect]:
        """By the queries of each object: those that overlap it by half, and no other one more."""
        t = self.truth
        if not len(self.category_ids):
            return
        said = [self._said_of(objects, one) for one in predictions]
        for n, place in enumerate(objects.tolist()):
            heard = [vector for one in said if (vector := one[n]) is not None]
            own = np.flatnonzero(self.category_ids == t.of_category[place])
            if not heard or not len(own):
                continue
            best = np.mean(heard, axis=0)  # (K,)
            annotated = float(best[own[0]])
            others = np.where(self.category_ids == t.of_category[place], -1.0, best)
            other = int(others.argmax())
            # How many times as likely the other class is: of a model that is sure of little, too.
            suspicion = (float(others[other]) + UNSURE) / (float(others[other]) + annotated + 2 * UNSURE)
            if others[other] >= LEAST and suspicion > 0.5:
                yield Suspect(
                    "wrong_label",
                    suspicion,
                    int(t.of_image[place]),
                    int(t.of_category[place]),
                    tuple(t.boxes[place].tolist()),
                    float(others[other]),
                    annotation_id=int(t.annotation_ids[place]),
                    suggested_category_id=int(self.category_ids[other]),
                )

    def _said_of(self, objects: np.ndarray, predictions: Predictions) -> list[np.ndarray | None]:
        """The highest probability of each class (K,) among the queries of each object; None where it has none."""
        if not len(objects):
            return []
        boxes = predictions.boxes.astype(np.float64).copy()  # (Q, 4)
        boxes[:, 2:] -= boxes[:, :2]
        ious = overlaps(boxes, self.truth.boxes[objects])  # (Q, n)
        speaks_of = np.where(ious.max(1) >= SAME, ious.argmax(1), -1)  # (Q,)
        return [
            predictions.probabilities[speaks_of == n].max(0) if (speaks_of == n).any() else None
            for n in range(len(objects))
        ]

    def _loose_boxes(self, objects: np.ndarray, detections: Results) -> tuple[list[Suspect], np.ndarray]:
        """By the surest detection of its class that speaks of an object; and which detections those are."""
        t, found, used = self.truth, [], np.zeros(len(detections), dtype=bool)
        if not len(objects) or not len(detections):
            return [], used
        ious = overlaps(detections.boxes, t.boxes[objects])  # (m, n)
        same = detections.category_ids[:, None] == t.of_category[objects]  # (m, n)
        ious = np.where(same, ious, 0)
        speaks_of = np.where(ious.max(1) >= NEAR, ious.argmax(1), -1)  # (m,)
        for n, place in enumerate(objects.tolist()):
            own = np.flatnonzero(speaks_of == n)
            if not len(own):
                continue
            best = own[detections.scores[own].argmax()]
            iou, score = float(ious[best, n]), float(detections.scores[best])
            if iou < TIGHT and score * (1 - iou) >= LEAST:
                used[best] = True
                found.append(
                    Suspect(
                        "loose_box",
                        score * (1 - iou),
                        int(t.of_image[place]),
                        int(t.of_category[place]),
                        tuple(t.boxes[place].tolist()),
                        score,
                        annotation_id=int(t.annotation_ids[place]),
                        suggested_box=tuple(detections.boxes[best].tolist()),
                        iou=iou,
                    )
                )
        return found, used

    def _missing(self, image_id: int, objects: np.ndarray, detections: Results, used: np.ndarray) -> Iterator[Suspect]:
        """Detections that lie on nothing, each place once."""
        t = self.truth
        apart = ~used & (detections.scores >= CONFIDENT)
        if len(objects):
            ious = overlaps(detections.boxes, t.boxes[objects], t.crowd[objects])  # (m, n)
            apart &= ious.max(1) < APART
        places = np.flatnonzero(apart)
        places = places[np.argsort(-detections.scores[places], kind="stable")]
        kept: list[int] = []
        for place in places.tolist():
            others = detections.boxes[kept]
            if len(kept) and overlaps(detections.boxes[[place]], others).max() >= SAME:
                continue
            kept.append(place)
            score = float(detections.scores[place])
            yield Suspect(
                "missing_label",
                score,
                image_id,
                int(detections.category_ids[place]),
                tuple(detections.boxes[place].tolist()),
                score,
            )

    def sorted(self) -> Mapping[str, Sequence[Suspect]]:
        """All of them by kind, the most suspicious first; duplicates are told by the annotations alone."""
        every = [*self.found, *duplicates(self.truth)]
        return {
            kind: sorted((one for one in every if one.kind == kind), key=lambda one: -one.suspicion) for kind in KINDS
        }


def duplicates(truth: Truth) -> Iterator[Suspect]:
    """Annotations of a class in the same place as one before them."""
    t = truth
    real = np.flatnonzero(~t.crowd)
    order = np.lexsort((t.of_category[real], t.of_image[real]))
    for (image, category), own in groups(t.of_image[real], t.of_category[real], order):
        places = np.sort(real[own])
        ious = np.triu(overlaps(t.boxes[places], t.boxes[places]), 1)
        for n in np.flatnonzero(ious.max(0) >= TWICE).tolist():
            first = int(ious[:, n].argmax())
            iou = float(ious[first, n])
            yield Suspect(
                "duplicate",
                iou,
                image,
                category,
                tuple(t.boxes[places[n]].tolist()),
                iou,
                annotation_id=int(t.annotation_ids[places[n]]),
                iou=iou,
                of=int(t.annotation_ids[places[first]]),
            )


def document(suspect: Suspect, file: str) -> dict[str, Any]:
    """In plain values: boxes as x0, y0, x1, y1."""
    entry: dict[str, Any] = {}
    if suspect.annotation_id is not None:
        entry["annotation_id"] = suspect.annotation_id
    entry |= {"image_id": suspect.image_id, "file": file, "category_id": suspect.category_id}
    if suspect.suggested_category_id is not None:
        entry["suggested_category_id"] = suspect.suggested_category_id
    entry["box"] = corners(suspect.box)
    if suspect.suggested_box is not None:
        entry["suggested_box"] = corners(suspect.suggested_box)
    if suspect.suggested_mask is not None:
        entry["suggested_mask"] = dict(suspect.suggested_mask)
    if suspect.iou is not None:
        entry["iou"] = round(suspect.iou, 6)
    if suspect.of is not None:
        entry["of"] = suspect.of
    else:
        entry["score"] = round(suspect.score, 6)
    return entry


def corners(box: Sequence[float]) -> list[float]:
    """x, y, w, h to x0, y0, x1, y1."""
    x, y, w, h = box
    return [round(value, 3) for value in (x, y, x + w, y + h)]
