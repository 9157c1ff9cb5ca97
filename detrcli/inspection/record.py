"""A recorded forward pass of an image, with the prediction of every query in every decoder layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detrcli.boxes import cxcywh_to_xyxy, to_pixels
from detrcli.data.images import File
from detrcli.data.preprocessing import collate, prepare
from detrcli.errors import DivergedError, UsageError
from detrcli.inference.detector import Detector
from detrcli.inference.stream import ImageSource, read_image
from detrcli.losses.scoring import NO_OBJECT
from detrcli.messages import argument
from detrcli.model.inspectable import ForwardRecord, Inspectable
from detrcli.resize import Placement
from detrcli.structures import Detections, Masks
from detrcli.system.devices import exact_float32

Head = int | Literal["mean"]
Point = tuple[float, float]  # x, y


@dataclass(frozen=True)
class QueryPrediction:
    """The prediction of a query in a decoder layer: its most probable class and its box."""

    query: int
    category_id: int
    label: str
    score: float
    no_object: bool  # whether the no-object class is more probable than any other
    box: tuple[float, float, float, float]  # xyxy in pixels of the image

    def __str__(self) -> str:
        return "no object" if self.no_object else f"{self.label} {self.score:.2f}"

    @property
    def name(self) -> str:
        return f"no object, at best {self.label}" if self.no_object else self.label

    def document(self) -> dict[str, Any]:
        fields = vars(self) | {"box": list(self.box)}
        return {"nothing": fields.pop("no_object"), **fields}


@dataclass(frozen=True)
class ImageRecord:
    """An image with the predictions of all queries, and the record of the forward pass."""

    detector: Detector
    name: str
    image: Image.Image  # RGB, EXIF orientation applied
    pixels: Tensor  # (3, H, W), the network's input
    inspectable: Inspectable
    forward: ForwardRecord
    layers: Sequence[Detections]  # for each decoder layer, all Q queries, each with its most probable class
    no_object: np.ndarray  # (L, Q) bool, where the no-object class is more probable than any other
    masks: Masks | None  # of the last layer's queries, if the model has a mask head

    @property
    def size(self) -> tuple[int, int]:  # height, width
        return self.image.height, self.image.width

    @property
    def placement(self) -> Placement:
        return self.detector.preprocessing.resize.place(*self.size)

    @property
    def last(self) -> Detections:
        return self.layers[-1]

    def prediction(self, layer: int, query: int) -> QueryPrediction:
        detections = self.layers[layer]
        x0, y0, x1, y1 = (round(value, 3) for value in detections.boxes[query].tolist())
        return QueryPrediction(
            query=query,
            category_id=int(detections.category_ids[query]),
            label=str(detections.labels[query]),
            score=round(float(detections.scores[query]), 6),
            no_object=bool(self.no_object[layer, query]),
            box=(x0, y0, x1, y1),
        )

    def box_in_input(self, layer: int, query: int) -> np.ndarray:
        """Return a query's box, xyxy in [0, 1] of the network's input, (4,)."""
        box: np.ndarray = cxcywh_to_xyxy(self.forward.output.decoder.boxes[layer, 0, query].float()).cpu().numpy()
        return box


def record_image(detector: Detector, source: ImageSource, name: str | None = None) -> ImageRecord:
    """Run the plain model on an image in float32 and record the forward pass."""
    image = read_image(source).image
    if name is None:
        name = Path(str(source)).name if isinstance(source, str | Path | File) else "the image"
    pixels = prepare(image, detector.preprocessing).to(detector.device)
    inspectable = detector.inspect()
    with inspectable.recorded() as forward, exact_float32(), torch.inference_mode():
        decoder = detector.model(collate([pixels])).decoder
    scores, labels = detector.scoring.probabilities(decoder.logits[:, 0]).max(-1)  # (L, Q)
    placement = detector.preprocessing.resize.place(image.height, image.width)
    boxes = to_pixels(decoder.boxes[:, 0].float(), image.height, image.width, placement)  # (L, Q, 4)
    if not (scores.isfinite().all() and boxes.isfinite().all()):
        raise DivergedError("The model's predictions are not finite.\nIts weights are broken or do not fit its config.")
    classes, queries = detector.classes, np.arange(labels.shape[1])
    return ImageRecord(
        detector=detector,
        name=name,
        image=image,
        pixels=pixels,
        inspectable=inspectable,
        forward=forward,
        layers=[
            Detections(xyxy, score, classes.ids[label], queries, classes.names[label])
            for xyxy, score, label in zip(*(v.cpu().numpy() for v in (boxes, scores, labels)), strict=True)
        ],
        no_object=detector.scoring.top_class(decoder.logits[:, 0]).cpu().numpy() == NO_OBJECT,
        masks=decoder.masks,
    )


def select_layers(layers: str | int, count: int) -> list[int]:
    """Return the layers that `layers` selects of `count` layers: `last`, `all` or a number from 0."""
    return [count - 1] if layers == "last" else _select("layers", layers, "last", count)


def select_heads(heads: str | int, count: int) -> list[Head]:
    """Return the heads that `heads` selects of `count` heads: `mean`, `all` or a number from 0."""
    return ["mean"] if heads == "mean" else [*_select("heads", heads, "mean", count)]


def _select(name: str, value: str | int, default: str, count: int) -> list[int]:
    if value == "all":
        return list(range(count))
    if not str(value).isdecimal() or int(value) >= count:
        raise UsageError(f"{argument(name, value)}: must be {default}, all or a number from 0 to {count - 1}.")
    return [int(value)]


def select_queries(record: ImageRecord, queries: Sequence[int] | None, threshold: float) -> list[int]:
    """Return the given queries, or by default those with a score of at least the threshold, by descending score."""
    scores = record.last.scores
    if invalid := [query for query in queries or () if not 0 <= query < len(scores)]:
        raise UsageError(f"{argument('queries', invalid[0])}: the model has queries 0 to {len(scores) - 1}.")
    above = np.flatnonzero(scores >= threshold)
    selected = list(dict.fromkeys(queries or ())) or above[np.argsort(-scores[above], kind="stable")].tolist()
    if not selected:
        best = record.prediction(-1, int(scores.argmax()))
        raise UsageError(
            f"No query reaches the threshold {threshold:g}; the best is query {best.query}, {best.label} "
            f"{best.score:.2f}.\nLower {argument('threshold')}, or select {argument('queries')}."
        )
    return selected


def check_points(points: Sequence[Point], width: int, height: int) -> None:
    """Raise UsageError unless all points, in pixels, lie inside an image."""
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            point = argument("points", f"{x:g},{y:g}")
            raise UsageError(f"{point}: outside the image, which has {width} x {height} pixels.")
