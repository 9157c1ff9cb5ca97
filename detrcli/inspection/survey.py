"""A split gone through once: what every decoder layer detects in each image, and how objects were matched."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from detrcli.evaluation.class_mapping import UNKNOWN_CLASS
from detrcli.evaluation.panoptic import FoundSegment, segments_of
from detrcli.evaluation.results import Results, join, of_detections
from detrcli.inspection import usage as using
from detrcli.inspection.explained import GroupMatching, explain_group
from detrcli.inspection.matching import Pair
from detrcli.inspection.session import InspectionSession
from detrcli.losses.criterion import Criterion
from detrcli.losses.scoring import NO_OBJECT
from detrcli.segmentation.maps import MapRequest, PanopticMap, Predicted
from detrcli.structures import Detections, Output, Prediction
from detrcli.system.devices import exact_float32

SURE = 0.5  # score from which a query counts as used for something


@dataclass(frozen=True)
class Predictions:
    """What Q queries of the last layer say of K classes of the data."""

    boxes: np.ndarray  # (Q, 4), x0, y0, x1, y1 in pixels
    probabilities: np.ndarray  # (Q, K)


@dataclass(frozen=True)
class SurveyedImage:
    """An image of the split with what was predicted in it."""

    place: int  # in the session
    image_id: int
    detections: Sequence[Detections]  # of each decoder layer, in the data's ids
    boxes: np.ndarray  # (L, Q, 4) float32, of all queries, x0, y0, x1, y1 in pixels
    scores: np.ndarray  # (L, Q) float32, of the likeliest class
    labels: np.ndarray  # (L, Q) int16, that class
    nothing: np.ndarray  # (L, Q) bool, whether "no object" is likelier
    annotation_ids: Sequence[int]  # of the N objects that were matched
    pairs: Sequence[Sequence[Pair]] | None  # of each layer; None where the model does not match
    segments: Sequence[FoundSegment] | None = None  # of its panoptic map, where that was asked for

    def results(self, layer: int = -1) -> Results:
        """What a layer detects, in the data's ids."""
        return of_detections(self.image_id, self.detections[layer])


@dataclass(frozen=True)
class Survey:
    """All images that were gone through."""

    images: Sequence[SurveyedImage]
    usage: using.Usage | None  # None where the model does not match
    complete: bool  # whether there was time for all of them

    @property
    def layers(self) -> int:
        """How many decoder layers there are."""
        return len(self.images[0].detections)

    def results(self, layer: int = -1) -> Results:
        """What a layer detects, in the data's ids, image by image."""
        return join([one.results(layer) for one in self.images])

    def queries(self) -> np.ndarray:
        """The query of each entry of the last layer's results, (M,)."""
        found = [one.detections[-1] for one in self.images]
        return np.concatenate([one.queries[one.category_ids != UNKNOWN_CLASS] for one in found])

    def without_query(self, annotation_ids: np.ndarray) -> np.ndarray:
        """Which of these objects the last layer has no query for, (N,) bool."""
        left = [
            annotation
            for one in self.images
            if one.pairs is not None
            for annotation in np.delete(one.annotation_ids, [pair.target for pair in one.pairs[-1]]).tolist()
        ]
        return np.isin(annotation_ids, left)


def survey(
    session: InspectionSession,
    looked: Callable[[SurveyedImage, Sequence[Predictions]], None] = lambda image, predictions: None,
    *,
    mirrored: bool = False,
    panoptic: bool = False,
    limit: int | None = None,
    seconds: float | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Survey:
    """Go through a split, at most so many images and seconds.

    `looked` is given each image and what its queries say of all classes; with `mirrored` what those of its mirror
    image say, too, their boxes where they lie in the image. With `panoptic` each image gets its map.
    """
    began = time.monotonic()
    images: list[SurveyedImage] = []
    matches = session.loss.matcher is not None
    detector = session.detector.with_classes(session.classes)
    known = session.classes.ids != UNKNOWN_CLASS
    loss = session.loss
    ones = {term.name: 1.0 for term in loss.terms} if isinstance(loss, Criterion) else None
    complete = True

    def each() -> Iterator[using.ExplainedImage | None]:
        nonlocal complete
        for place, example, output in session:
            late = seconds is not None and time.monotonic() - began > seconds
            if images and (late or len(images) == limit):
                complete = False
                return
            matching = explain_group(output.decoder, example.target, loss, ones) if matches else None
            one = seen(place, example.image_id, output, matching)
            images.append(one)
            predictions = [said(place, output.last)]
            if mirrored:
                last = detector.output([example.pixels.flip(-1)]).last
                boxes = torch.cat([1 - last.boxes[..., :1], last.boxes[..., 1:]], -1)
                predictions.append(said(place, Prediction(last.logits, boxes)))
            looked(one, predictions)
            advance()
            yield None if matching is None else using.explained(session, place, example.image_id, matching)

    def said(place: int, last: Prediction) -> Predictions:
        probabilities = detector.scoring.probabilities(last.logits[0]).cpu().numpy()[:, known]
        return Predictions(session.pixels(place, last.boxes[0]), probabilities)

    def seen(place: int, image_id: int, output: Output, matching: GroupMatching | None) -> SurveyedImage:
        size = session.size(place)
        layers = [detector.detections(output, size, layer) for layer in range(len(output.decoder))]
        logits = output.decoder.logits[:, 0]  # (L, Q, R)
        best = detector.scoring.probabilities(logits).max(-1)
        return SurveyedImage(
            place=place,
            image_id=image_id,
            detections=layers,
            boxes=session.pixels(place, output.decoder.boxes[:, 0]),
            scores=best.values.float().cpu().numpy(),
            labels=best.indices.cpu().numpy().astype(np.int16),
            nothing=detector.scoring.top_class(logits).cpu().numpy() == NO_OBJECT,
            annotation_ids=session.annotation_ids(place),
            pairs=None if matching is None else [layer.pairs for layer in matching.layers],
            segments=segments_of(map_of(place, output)) if panoptic else None,
        )

    def map_of(place: int, output: Output) -> PanopticMap:
        assert detector.segmentation is not None
        of = Predicted(output.last, 0, session.size(place), session.placement(place))
        with exact_float32():
            made = detector.segmentation.map_of(of, detector.classes, detector.scoring, MapRequest("panoptic"))
        assert isinstance(made, PanopticMap)
        return made

    if matches:
        explained = (one for one in each() if one is not None)
        terms = tuple(term.name for term in loss.terms) if isinstance(loss, Criterion) else ()
        weights = loss.matcher.weights if loss.matcher is not None else {}
        usage = using.summed(explained, session.classes, weights, terms, SURE, using.MOST)
    else:
        usage = None
        for _ in each():
            pass
    return Survey(images, usage, complete)
