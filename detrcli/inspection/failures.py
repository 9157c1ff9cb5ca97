"""Why a model fails on a split: what it finds and misses, by which queries, and which annotations to fix."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torchvision.ops import batched_nms

from detrcli.data.checks import Split
from detrcli.evaluation.comparison import Interval, interval_of_ap
from detrcli.evaluation.curves import Curves, curves_of
from detrcli.evaluation.metrics import Scores, score
from detrcli.evaluation.outcomes import ErrorKind, Outcomes, errors_of, outcomes_of
from detrcli.evaluation.pairing import by_image
from detrcli.evaluation.panoptic import PanopticQuality, can_be_counted, quality_of
from detrcli.evaluation.results import Results
from detrcli.evaluation.thresholds import Thresholds, best_thresholds
from detrcli.evaluation.truth import Truth, truth_of
from detrcli.inspection.mask_failures import MaskFailures, mask_failures, poor_masks
from detrcli.inspection.session import InspectionSession
from detrcli.inspection.survey import Predictions, Survey, SurveyedImage, survey
from detrcli.inspection.suspects import Suspect, Suspicions, document

SUPPRESSED = 0.7  # IoU from which the less sure of two detections of a class goes in non-maximum suppression
UNLIKELY = 0.5  # the threshold of a model that nothing was ever right of


@dataclass(frozen=True)
class LayerScore:
    """How well a decoder layer detects, and what non-maximum suppression would still change."""

    layer: int
    AP: float
    AP50: float
    duplicates: int  # among detections at the threshold
    AP_suppressed: float  # after non-maximum suppression


@dataclass(frozen=True)
class Failures:
    """All that is known of a model on a split."""

    session: InspectionSession
    split: str
    survey: Survey
    truth: Truth  # of the images that were gone through
    results: Results
    scores: Scores
    interval: Interval | None
    thresholds: Thresholds
    outcomes: Outcomes
    errors: Sequence[ErrorKind]
    curves: Curves
    layers: Sequence[LayerScore]
    suspects: Mapping[str, Sequence[Suspect]]  # by kind
    masks: MaskFailures | None = None  # where model and data have masks
    panoptic: PanopticQuality | None = None  # where the data is panoptic too

    @cached_property
    def queries(self) -> np.ndarray:
        """The query of each entry of the results, (M,)."""
        return self.survey.queries()

    @cached_property
    def place_of(self) -> Mapping[int, int]:
        """The place of an image in the session, by its id."""
        return {one.image_id: one.place for one in self.survey.images}

    @cached_property
    def objects_of(self) -> Mapping[int, np.ndarray]:
        """The objects of an image, crowds too, counted through the truth."""
        return by_image(self.truth.of_image, np.ones(len(self.truth.of_image), dtype=bool))

    @cached_property
    def alarms_of(self) -> Mapping[int, np.ndarray]:
        """The false alarms of an image, counted through the results."""
        return by_image(self.results.image_ids, self.outcomes.wrong != "")

    def file(self, image_id: int) -> str:
        """An image's file, as the annotations name it."""
        return self.session.file(self.place_of[image_id])

    @property
    def metrics(self) -> dict[str, float]:
        """The twelve COCO numbers, and between what AP lies."""
        low, high = (-1.0, -1.0) if self.interval is None else (self.interval.low, self.interval.high)
        return {**self.scores.metrics, "AP_low": low, "AP_high": high}

    def document(self) -> dict[str, Any]:
        """All of it for programs."""
        found = self.outcomes
        return {
            "schema": "detr.report/1",
            "split": self.split,
            "weights": self.session.detector.checkpoint.source,
            "images": len(self.truth.images),
            "complete": self.survey.complete,
            "threshold": round(found.threshold, 6),
            "metrics": self.metrics,
            "masks": None if self.masks is None else self.masks.document(),
            "panoptic": None if self.panoptic is None else self.panoptic.document(),
            "objects": {"total": found.objects, "found": found.found, "missed": dict(found.missed_by_kind)},
            "false_alarms": dict(found.false_alarms_by_kind),
            "errors": [asdict(one) for one in self.errors],
            "layers": [asdict(one) for one in self.layers],
            "thresholds": self.thresholds.document(),
            "suspects": {
                kind: [document(one, self.file(one.image_id)) for one in members]
                for kind, members in self.suspects.items()
            },
        }


def failures_of(
    session: InspectionSession,
    split: Split,
    name: str,
    *,
    learned: bool = False,
    threshold: float | None = None,
    limit: int | None = None,
    seconds: float | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Failures:
    """Go through a split and gather what went wrong; detections reach the threshold, else that of the best F1.

    Where the labels are those that the model learned, mirror images are asked as well: what was learned by heart
    holds less for them.
    At most `limit` images are gone through, and as many as `seconds` allow.
    """
    whole = truth_of(split)
    known = session.classes.ids[np.isin(session.classes.ids, whole.classes.ids)]
    suspicions = Suspicions(whole, known)

    def looked(image: SurveyedImage, predictions: Sequence[Predictions]) -> None:
        suspicions.look(image.image_id, predictions, image.results())

    detector = session.detector
    panoptic = detector.has_masks and split.written.maps is not None and can_be_counted()
    surveyed = survey(
        session, looked, mirrored=learned, panoptic=panoptic, limit=limit, seconds=seconds, advance=advance
    )
    truth = whole.part(np.isin(whole.image_ids, [one.image_id for one in surveyed.images]))
    suspicions.truth = truth
    results = surveyed.results()
    thresholds = best_thresholds(truth, results)
    if threshold is None:
        threshold = thresholds.overall.threshold if thresholds.overall.f1 > 0 else UNLIKELY
    outcomes = outcomes_of(truth, results, threshold, surveyed.without_query(truth.annotation_ids))
    masks = mask_failures(truth, results, outcomes)
    quality = None
    if masks is not None:
        suspicions.found += poor_masks(truth, results, outcomes, masks)
        segments = {one.image_id: one.segments for one in surveyed.images if one.segments is not None}
        quality = quality_of(truth, masks.objects, segments) if panoptic else None
    return Failures(
        session=session,
        split=name,
        survey=surveyed,
        truth=truth,
        results=results,
        scores=score(truth, results),
        interval=interval_of_ap(truth, results),
        thresholds=thresholds,
        outcomes=outcomes,
        errors=errors_of(truth, results),
        curves=curves_of(truth, results, threshold),
        layers=[_layer_score(layer, truth, surveyed.results(layer), threshold) for layer in range(surveyed.layers)],
        suspects=suspicions.sorted(),
        masks=masks,
        panoptic=quality,
    )


def _layer_score(layer: int, truth: Truth, results: Results, threshold: float) -> LayerScore:
    metrics = score(truth, results).metrics
    duplicates = outcomes_of(truth, results, threshold).false_alarms_by_kind["duplicate"]
    suppressed = score(truth, results.part(_apart(results))).metrics
    return LayerScore(layer, metrics["AP"], metrics["AP50"], duplicates, suppressed["AP"])


def _apart(results: Results) -> np.ndarray:
    """The places of the detections that non-maximum suppression keeps, in their order."""
    boxes = torch.from_numpy(results.boxes)
    corners = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    _, groups = np.unique(np.stack([results.image_ids, results.category_ids]), axis=1, return_inverse=True)
    kept = batched_nms(corners, torch.from_numpy(results.scores), torch.from_numpy(groups.reshape(-1)), SUPPRESSED)
    return np.sort(kept.numpy())
