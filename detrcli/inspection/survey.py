"""One pass over a split: the detections of every decoder layer and the matching of each image."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from detrcli.evaluation.class_mapping import UNKNOWN_CLASS
from detrcli.evaluation.panoptic import FoundSegment, segments_of
from detrcli.evaluation.results import Results, join, of_detections
from detrcli.inference.detector import Detector
from detrcli.inspection.matching import Pair, explain_group
from detrcli.inspection.session import InspectionSession
from detrcli.inspection.suspects import Predictions, Suspicions
from detrcli.inspection.usage import Usage, UsageCounter
from detrcli.losses.scoring import NO_OBJECT
from detrcli.resize import Placement
from detrcli.segmentation.maps import MapRequest, PanopticMap, Predicted
from detrcli.structures import Detections, Output, Prediction
from detrcli.system.devices import exact_float32

MIN_SCORE = 0.5  # of a query that is counted as a detection


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
    segments: Sequence[FoundSegment] | None = None  # of the panoptic map, if requested


@dataclass(frozen=True)
class Survey:
    """All images of one pass."""

    images: Sequence[SurveyedImage]
    usage: Usage | None  # None for models that do not expose their matching
    complete: bool  # whether the pass reached the end of the split

    def results(self, layer: int = -1) -> Results:
        """Return the detections of a layer, image by image, with the ids of the data."""
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
    counter = None if session.loss.matcher is None else UsageCounter(session, MIN_SCORE)
    images: list[SurveyedImage] = []
    complete = True

    def predictions(index: int, last: Prediction) -> Predictions:
        probabilities = detector.scoring.probabilities(last.logits[0]).cpu().numpy()[:, known]
        return session.pixels(index, last.boxes[0]), probabilities

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
                boxes=session.pixels(index, decoder.boxes[:, 0]),
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
) -> Sequence[FoundSegment]:
    assert detector.segmentation is not None
    predicted = Predicted(output.last, 0, size, placement)
    with exact_float32():
        map_ = detector.segmentation.map_of(predicted, detector.classes, detector.scoring, MapRequest("panoptic"))
    assert isinstance(map_, PanopticMap)
    return segments_of(map_)
