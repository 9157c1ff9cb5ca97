"""A pass over a split: the errors of a model with their reasons, and the annotations that are probably wrong."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torchvision.ops import batched_nms, box_convert

from detrcli.data.checks import Split
from detrcli.evaluation.class_mapping import UNKNOWN_CLASS
from detrcli.evaluation.comparison import Interval, interval_of_ap
from detrcli.evaluation.curves import Curves, curves_of
from detrcli.evaluation.metrics import Scores, boundary_evaluation, has_hotcoco, paired_ious, score
from detrcli.evaluation.outcomes import ErrorKind, Outcomes, errors_of, outcomes_of
from detrcli.evaluation.panoptic import PanopticQuality, PredictedSegment, quality_of, segments_of
from detrcli.evaluation.results import Results, join, of_detections
from detrcli.evaluation.thresholds import Thresholds, best_thresholds
from detrcli.evaluation.truth import Truth, truth_masks, truth_of
from detrcli.inference.detector import Detector
from detrcli.inspection.matching import Pair, explain_group
from detrcli.inspection.session import InspectionSession
from detrcli.inspection.suspects import SUSPECT_KINDS, Predictions, Suspect, Suspicions, duplicates, poor_masks
from detrcli.inspection.usage import Usage, UsageCounter
from detrcli.losses.scoring import NO_OBJECT
from detrcli.resize import Placement
from detrcli.segmentation.maps import ImagePrediction, MapRequest, PanopticMap
from detrcli.structures import Detections, Output, Prediction
from detrcli.system.devices import exact_float32

MIN_QUERY_SCORE = 0.5  # of a query that is counted as a detection
NMS_IOU = 0.7
DEFAULT_THRESHOLD = 0.5  # of a model without any true positive


@dataclass(frozen=True)
class SurveyedImage:
    """An image of the split with its predictions."""

    index: int  # in the session
    image_id: int
    detections: Sequence[Detections]  # of each decoder layer, with the ids of the data
    boxes: np.ndarray  # (L, Q, 4) float32, of all queries, xyxy in pixels
    scores: np.ndarray  # (L, Q) float32, of the most probable class
    labels: np.ndarray  # (L, Q) int16, the most probable class
    no_object: np.ndarray  # (L, Q) bool, whether the no-object class is more probable
    annotation_ids: Sequence[int]  # of the N objects that were matched
    pairs: Sequence[Sequence[Pair]] | None  # of each layer; None for models that do not expose their matching
    segments: Sequence[PredictedSegment] | None = None  # of the panoptic map, if requested


@dataclass(frozen=True)
class Survey:
    """The images of a split that a pass reached."""

    images: Sequence[SurveyedImage]
    usage: Usage | None  # None for models that do not expose their matching
    complete: bool  # whether the pass reached the end of the split

    def results(self, layer: int = -1) -> Results:
        return join([of_detections(image.image_id, image.detections[layer]) for image in self.images])


def survey(
    session: InspectionSession,
    suspicions: Suspicions | None = None,
    *,
    mirrored: bool = False,
    panoptic: bool = False,
    limit: int | None = None,
    seconds: float | None = None,
) -> Survey:
    """Run the model once on the images of a split, on at most `limit` images and for at most about `seconds`.

    Suspects are added to `suspicions`; with `mirrored`, also by the predictions for mirrored images. `panoptic` makes
    the panoptic map of each image.
    """
    start = time.monotonic()
    detector = session.detector.with_classes(session.classes)
    known = session.classes.ids != UNKNOWN_CLASS
    counter = None if session.loss.matcher is None else UsageCounter(session, MIN_QUERY_SCORE)
    images: list[SurveyedImage] = []
    complete = True

    def predictions(index: int, last: Prediction) -> Predictions:
        probabilities = detector.scoring.probabilities(last.logits[0]).cpu().numpy()[:, known]
        return session.boxes_in_pixels(index, last.boxes[0]), probabilities

    with session.reporter.progress("analyzing images", len(session)) as advance:
        for index, example, output in session:
            late = seconds is not None and time.monotonic() - start > seconds
            if images and (late or len(images) == limit):
                complete = False
                break
            decoder, pairs, size = output.decoder, None, session.size(index)
            if counter is not None:
                matching = explain_group(decoder, example.target, session.loss, normalized=False)
                counter.add(index, example.image_id, matching)
                pairs = [layer.pairs for layer in matching.layers]
            best = detector.scoring.probabilities(decoder.logits[:, 0]).max(-1)  # (L, Q)
            image = SurveyedImage(
                index=index,
                image_id=example.image_id,
                detections=[detector.detections(output, size, layer) for layer in range(len(decoder))],
                boxes=session.boxes_in_pixels(index, decoder.boxes[:, 0]),
                scores=best.values.float().cpu().numpy(),
                labels=best.indices.cpu().numpy().astype(np.int16),
                no_object=detector.scoring.top_class(decoder.logits[:, 0]).cpu().numpy() == NO_OBJECT,
                annotation_ids=session.annotation_ids(index),
                pairs=pairs,
                segments=_segments(detector, output, size, session.placement(index)) if panoptic else None,
            )
            images.append(image)
            if suspicions is not None:
                passes = [predictions(index, output.last)]
                if mirrored:
                    last = detector.output([example.pixels.flip(-1)]).last
                    boxes = torch.cat([1 - last.boxes[..., :1], last.boxes[..., 1:]], -1)  # mirrored back
                    passes.append(predictions(index, Prediction(last.logits, boxes)))
                suspicions.add(image.image_id, passes, of_detections(image.image_id, image.detections[-1]))
            advance(1)
    return Survey(images, None if counter is None else counter.usage(), complete)


def _segments(
    detector: Detector, output: Output, size: tuple[int, int], placement: Placement
) -> Sequence[PredictedSegment]:
    assert detector.segmentation is not None
    predicted = ImagePrediction(output.last, 0, size, placement)
    with exact_float32():
        map_ = detector.segmentation.map_of(predicted, detector.classes, detector.scoring, MapRequest("panoptic"))
    assert isinstance(map_, PanopticMap)
    return segments_of(map_)


@dataclass(frozen=True)
class MaskFailures:
    """The masks of N objects and M detections."""

    scores: Scores
    boundaries: Scores  # by boundary IoU
    objects: np.ndarray  # (N,) of RunLengths
    detections: np.ndarray  # (M,) of RunLengths
    ious: np.ndarray  # (N,), of an object's mask with that of its detection; NaN for missed objects

    @property
    def mean_iou(self) -> float:
        """The mean over detected objects; -1 if there are none."""
        detected = self.ious[np.isfinite(self.ious)]
        return float(detected.mean()) if len(detected) else -1.0

    def document(self) -> dict[str, float]:
        boundary_ap = self.boundaries.metrics["AP"]
        return {**self.scores.metrics, "boundary_AP": boundary_ap, "mean_iou": round(self.mean_iou, 6)}


@dataclass(frozen=True)
class Failures:
    """The analysis of a model on a split."""

    session: InspectionSession
    split: str
    survey: Survey
    truth: Truth  # of the images of the survey
    results: Results
    scores: Scores
    interval: Interval | None
    thresholds: Thresholds
    outcomes: Outcomes
    errors: Sequence[ErrorKind]
    curves: Curves
    layers: Sequence[Mapping[str, float]]  # layer, AP, AP50, duplicates at the threshold, and AP_suppressed (by NMS)
    suspects: Mapping[str, Sequence[Suspect]]  # by kind
    masks: MaskFailures | None = None  # if the model and the data have masks
    panoptic: PanopticQuality | None = None  # if the data is panoptic as well

    @cached_property
    def queries(self) -> np.ndarray:
        """The query of each entry of the results, (M,)."""
        last = [image.detections[-1] for image in self.survey.images]
        return np.concatenate([detections.queries[detections.category_ids != UNKNOWN_CLASS] for detections in last])

    @cached_property
    def images(self) -> Mapping[int, SurveyedImage]:
        return {image.image_id: image for image in self.survey.images}

    def file(self, image_id: int) -> str:
        return self.session.file(self.images[image_id].index)

    @property
    def metrics(self) -> dict[str, float]:
        """The twelve COCO metrics, and the confidence interval of AP."""
        low, high = (-1.0, -1.0) if self.interval is None else (self.interval.low, self.interval.high)
        return {**self.scores.metrics, "AP_low": low, "AP_high": high}

    def worst_first(self) -> list[SurveyedImage]:
        """Return all images, alternating between those with the most errors and those with the worst suspects."""
        objects, detected, false_positives = self.outcomes.per_image
        errors = dict(zip(self.truth.image_ids.tolist(), (objects - detected + false_positives).tolist(), strict=True))
        suspicion: dict[int, float] = {}
        for suspect in (suspect for suspects in self.suspects.values() for suspect in suspects):
            suspicion[suspect.image_id] = max(suspicion.get(suspect.image_id, 0), suspect.suspicion)
        by_errors = sorted(self.images, key=lambda image: -errors[image])
        by_suspicion = sorted(self.images, key=lambda image: -suspicion.get(image, 0))
        ordered = dict.fromkeys(image for pair in zip(by_errors, by_suspicion, strict=True) for image in pair)
        return [self.images[image] for image in ordered]

    def document(self) -> dict[str, Any]:
        outcomes = self.outcomes
        return {
            "schema": "detr.report/1",
            "split": self.split,
            "weights": self.session.detector.checkpoint.source,
            "images": len(self.truth.images),
            "complete": self.survey.complete,
            "threshold": round(outcomes.threshold, 6),
            "metrics": self.metrics,
            "masks": None if self.masks is None else self.masks.document(),
            "panoptic": None if self.panoptic is None else self.panoptic.document(),
            "objects": {"total": outcomes.objects, "found": outcomes.found, "missed": outcomes.missed_by_kind},
            "false_alarms": outcomes.false_positives_by_kind,
            "errors": [asdict(error) for error in self.errors],
            "layers": list(self.layers),
            "thresholds": self.thresholds.document(),
            "suspects": {
                kind: [suspect.document(self.file(suspect.image_id)) for suspect in suspects]
                for kind, suspects in self.suspects.items()
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
) -> Failures:
    """Analyze a model on a split. The default threshold is that of the best F1.

    With `learned`, the labels are those that the model was trained on, and suspects are also based on mirrored images,
    which a model knows less by heart. At most `limit` images are read, for at most about `seconds`.
    """
    whole = truth_of(split)
    suspicions = Suspicions(whole, session.classes.ids[np.isin(session.classes.ids, whole.classes.ids)])
    panoptic = session.detector.has_masks and split.written.maps is not None and has_hotcoco()
    surveyed = survey(session, suspicions, mirrored=learned, panoptic=panoptic, limit=limit, seconds=seconds)
    truth = whole.part(np.isin(whole.image_ids, [image.image_id for image in surveyed.images]))
    results = surveyed.results()
    thresholds = best_thresholds(truth, results)
    if threshold is None:
        threshold = thresholds.overall.threshold if thresholds.overall.f1 > 0 else DEFAULT_THRESHOLD
    unmatched = [
        np.delete(image.annotation_ids, [pair.target for pair in image.pairs[-1]])
        for image in surveyed.images
        if image.pairs is not None
    ]
    without_query = np.isin(truth.annotation_ids, np.concatenate([*unmatched, np.zeros(0, dtype=int)]))
    outcomes = outcomes_of(truth, results, threshold, without_query)
    suspects = [*suspicions.suspects, *duplicates(truth)]
    quality, masks = None, mask_failures(outcomes)
    if masks is not None:
        suspects += poor_masks(outcomes, masks.ious, masks.objects, masks.detections)
        if panoptic:
            segments = {image.image_id: image.segments for image in surveyed.images if image.segments is not None}
            quality = quality_of(truth, masks.objects, segments)
    suspects.sort(key=lambda suspect: -suspect.suspicion)
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
        layers=[
            _layer_score(layer, truth, surveyed.results(layer), threshold)
            for layer in range(len(surveyed.images[0].detections))
        ],
        suspects={kind: [suspect for suspect in suspects if suspect.kind == kind] for kind in SUSPECT_KINDS},
        masks=masks,
        panoptic=quality,
    )


def mask_failures(outcomes: Outcomes) -> MaskFailures | None:
    """Compare the masks of objects and detections. Returns None unless all of them have masks."""
    truth, results = outcomes.truth, outcomes.results
    masks = None if results.masks is None else truth_masks(truth)
    if masks is None or results.masks is None:
        return None
    detected = np.flatnonzero(outcomes.found_by >= 0)
    ious = np.full(len(masks), np.nan)
    ious[detected] = paired_ious(results.masks[outcomes.found_by[detected]], masks[detected])
    return MaskFailures(
        scores=score(truth, results, masks=masks),
        boundaries=score(truth, results, masks=masks, backend=boundary_evaluation),
        objects=masks,
        detections=results.masks,
        ious=ious,
    )


def _layer_score(layer: int, truth: Truth, results: Results, threshold: float) -> dict[str, float]:
    boxes = box_convert(torch.from_numpy(results.boxes), "xywh", "xyxy")
    _, groups = np.unique(np.stack([results.image_ids, results.category_ids]), axis=1, return_inverse=True)
    kept = batched_nms(boxes, torch.from_numpy(results.scores), torch.from_numpy(groups.reshape(-1)), NMS_IOU)
    suppressed = score(truth, results.part(np.sort(kept.numpy()))).metrics
    metrics = score(truth, results).metrics
    return {
        "layer": layer,
        "AP": metrics["AP"],
        "AP50": metrics["AP50"],
        "duplicates": outcomes_of(truth, results, threshold).false_positives_by_kind["duplicate"],
        "AP_suppressed": suppressed["AP"],
    }
