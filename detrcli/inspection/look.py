"""A picture that is looked into: a forward pass kept, with what every query of every decoder layer predicts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detrcli.boxes import cxcywh_to_xyxy, to_pixels
from detrcli.data.batching import collate
from detrcli.data.images import File, as_displayed, open_picture
from detrcli.data.preprocessing import prepare
from detrcli.errors import DataError, DivergedError, UsageError
from detrcli.inference.detector import Detector
from detrcli.inference.stream import ImageSource
from detrcli.inspection.maps import Point
from detrcli.losses.scoring import NO_OBJECT
from detrcli.model.inspectable import ForwardRecord, Inspectable
from detrcli.resize import Placement
from detrcli.structures import Detections, Masks, Prediction
from detrcli.system.precision import exact_float32


@dataclass(frozen=True)
class QueryPrediction:
    """What a decoder layer predicts by a query: its likeliest class, and its box."""

    query: int
    category_id: int
    label: str
    score: float
    nothing: bool  # whether "no object" is likelier than any class
    box: tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels of the picture

    def __str__(self) -> str:
        return "no object" if self.nothing else f"{self.label} {self.score:.2f}"

    @property
    def name(self) -> str:
        """The class, or that there is none."""
        return f"no object, at best {self.label}" if self.nothing else self.label

    def document(self) -> dict[str, Any]:
        """The prediction in plain values."""
        return {**asdict(self), "box": list(self.box)}


@dataclass(frozen=True)
class PictureRecord:
    """A picture with what every query predicts, and the record of how it got there."""

    detector: Detector
    name: str
    image: Image.Image  # RGB, as it is displayed
    pixels: Tensor  # (3, H, W), as the network saw it
    inspectable: Inspectable
    forward: ForwardRecord
    layers: Sequence[Detections]  # of each decoder layer: all queries in their order, with their likeliest class
    nothing: np.ndarray  # (L, Q) bool, where "no object" is likelier than any class
    masks: Masks | None  # of the last layer's queries, where the model has a mask head

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self.image.height, self.image.width

    @property
    def placement(self) -> Placement:
        """Where the picture lies in the network's input, which maps are over."""
        return self.detector.preprocessing.resize.place(*self.size)

    @property
    def last(self) -> Detections:
        """What the last layer predicts."""
        return self.layers[-1]

    def prediction(self, layer: int, query: int) -> QueryPrediction:
        """What a layer predicts by a query."""
        found = self.layers[layer]
        x0, y0, x1, y1 = (round(value, 3) for value in found.boxes[query].tolist())
        return QueryPrediction(
            query=query,
            category_id=int(found.category_ids[query]),
            label=str(found.labels[query]),
            score=round(float(found.scores[query]), 6),
            nothing=bool(self.nothing[layer, query]),
            box=(x0, y0, x1, y1),
        )

    def box_in_input(self, layer: int, query: int) -> np.ndarray:
        """A query's box x0, y0, x1, y1 in [0, 1] of the network's input, (4,)."""
        box: np.ndarray = cxcywh_to_xyxy(self.forward.output.decoder.boxes[layer, 0, query].float()).cpu().numpy()
        return box


def record_picture(detector: Detector, picture: ImageSource, name: str | None = None) -> PictureRecord:
    """Look at a picture once, by the plain model and in float32, and keep how it went."""
    image = _opened(picture)
    if name is None:
        name = Path(str(picture)).name if isinstance(picture, str | Path | File) else "the picture"
    pixels = prepare(image, detector.preprocessing).to(detector.device)
    inspectable = detector.inspect()
    with inspectable.recorded() as forward, exact_float32(), torch.inference_mode():
        output = detector.model(collate([pixels]))
    layers = [output.decoder.layer(i) for i in range(len(output.decoder))]
    return PictureRecord(
        detector=detector,
        name=name,
        image=image,
        pixels=pixels,
        inspectable=inspectable,
        forward=forward,
        layers=[best_of_queries(detector, layer, (image.height, image.width)) for layer in layers],
        nothing=np.stack([detector.scoring.top_class(layer.logits[0]).cpu().numpy() == NO_OBJECT for layer in layers]),
        masks=output.decoder.masks,
    )


def best_of_queries(detector: Detector, prediction: Prediction, size: tuple[int, int]) -> Detections:
    """The likeliest class of every query of a single picture of this (height, width), in their order."""
    scores, labels = detector.scoring.probabilities(prediction.logits[0]).max(-1)  # (Q,)
    placement = detector.preprocessing.resize.place(*size)
    boxes = to_pixels(prediction.boxes[0].float(), *size, placement)  # (Q, 4)
    if not (scores.isfinite().all() and boxes.isfinite().all()):
        raise DivergedError(
            "The model's predictions are not finite numbers.\nIts weights do not fit their config or are broken."
        )
    classes, index = detector.classes, labels.cpu().numpy()
    return Detections(
        boxes=boxes.cpu().numpy(),
        scores=scores.cpu().numpy(),
        category_ids=classes.ids[index],
        queries=np.arange(len(index)),
        labels=classes.names[index],
    )


def chosen_queries(record: PictureRecord, asked: Sequence[int] | None, threshold: float) -> list[int]:
    """Those asked for, else all whose score suffices, the surest first."""
    scores = record.last.scores
    if wrong := [query for query in asked or () if not 0 <= query < len(scores)]:
        raise UsageError(f"query {wrong[0]}: the model has queries 0 to {len(scores) - 1}.")
    kept = np.flatnonzero(scores >= threshold)
    queries = list(dict.fromkeys(asked or ())) or kept[np.argsort(-scores[kept], kind="stable")].tolist()
    if not queries:
        best = record.prediction(-1, int(scores.argmax()))
        raise UsageError(
            f"No query reaches the threshold {threshold:g}; the best is query {best.query}, {best.label} "
            f"{best.score:.2f}.\nGive a lower threshold, or a query."
        )
    return queries


def check_points(record: PictureRecord, points: Sequence[Point]) -> None:
    """Points are in pixels of the picture, and in it."""
    height, width = record.size
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            raise UsageError(f"point {x:g},{y:g}: the picture ends at {width - 1},{height - 1}; it begins at 0,0.")


def _opened(picture: ImageSource) -> Image.Image:
    if isinstance(picture, str | Path):
        picture = File(Path(picture))
    if isinstance(picture, File):
        try:
            return open_picture(picture.path, turn=picture.turn).image
        except DataError as error:
            raise DataError(f"{picture}: {error}.") from None
    return as_displayed(Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture)
