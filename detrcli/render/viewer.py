"""Data of the image viewer: predictions of every layer, matching, costs and attention. viewer.js shows them.

Large arrays are packed as integers and encoded as base64, the largest compressed.
"""

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detrcli.inspection.attention import cross_attention
from detrcli.inspection.matching import LayerMatching, Pair
from detrcli.inspection.record import ImageRecord
from detrcli.render.attention_figure import image_window
from detrcli.render.color import heat
from detrcli.render.page import Section, data_url, shrunk, write_page
from detrcli.system.text import escape_controls

SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
STYLE = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
COLORS = base64.b64encode(heat(np.linspace(0, 1, 256)).tobytes()).decode()
MAX_CELLS = 48  # of a map's longer side; finer maps are summed
BOX_STEPS, SCORE_STEPS, WEIGHT_STEPS, COST_STEPS = 8192, 65535, 32767, 1000  # integers per unit, as in viewer.js


@dataclass(frozen=True)
class ObjectView:
    """An object of the ground truth."""

    label: str
    box: Sequence[float]  # cxcywh in [0, 1] of the image
    id: int | None = None  # of the annotation
    outcome: str = ""
    missed: bool = False
    closest: int | None = None  # for missed objects, the query with the closest prediction
    mask: Mapping[str, Any] | None = None  # run-length encoded, in the image's size


@dataclass(frozen=True)
class ImageView:
    """The predictions of Q queries of L layers in an image, and their matching with its N objects."""

    file: str
    width: int
    height: int
    names: Sequence[str]  # of the classes
    boxes: np.ndarray  # (L, Q, 4), cxcywh in [0, 1] of the image
    scores: np.ndarray  # (L, Q), of the most probable class
    labels: np.ndarray  # (L, Q), the most probable class
    no_object: np.ndarray  # (L, Q) bool, whether the no-object class is more probable
    threshold: float
    objects: Sequence[ObjectView] = ()
    pairs: Sequence[Sequence[Pair]] = ()  # of each layer
    false_positives: Mapping[int, str] = field(default_factory=dict)  # kinds, by query
    masks: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)  # of the last layer, by query

    def document(self, url: str) -> dict[str, Any]:
        """Return the view for JSON; `url` is that of the image."""
        layers = zip(self.boxes, self.scores, self.labels, self.no_object, strict=True)
        return {
            "file": escape_controls(self.file),
            "width": self.width,
            "height": self.height,
            "url": url,
            "threshold": self.threshold,
            "targets": [{**asdict(target), "label": escape_controls(target.label)} for target in self.objects],
            "layers": [
                {
                    "boxes": _packed(boxes * BOX_STEPS, "<i2"),
                    "scores": _packed(scores.clip(0, 1) * SCORE_STEPS, "<u2"),
                    "labels": _packed(labels, "<i2"),
                    "noObject": np.flatnonzero(no_object).tolist(),
                }
                for boxes, scores, labels, no_object in layers
            ],
            "pairs": [[_pair(pair) for pair in pairs] for pairs in self.pairs],
            "falsePositives": {str(query): kind for query, kind in self.false_positives.items()},
            "masks": {str(query): mask for query, mask in self.masks.items()},
        }


def view_of_record(record: ImageRecord, threshold: float) -> ImageView:
    """Return the view of an image without ground truth."""
    height, width = record.size
    boxes = np.stack([layer.boxes for layer in record.layers]) / [width, height, width, height]  # (L, Q, 4)
    names, labels = np.unique(np.stack([layer.labels for layer in record.layers]), return_inverse=True)
    return ImageView(
        file=record.name,
        width=width,
        height=height,
        names=names.tolist(),
        boxes=cxcywh(boxes),
        scores=np.stack([layer.scores for layer in record.layers]),
        labels=labels.reshape(len(record.layers), -1),
        no_object=record.no_object,
        threshold=threshold,
    )


def cxcywh(boxes: np.ndarray) -> np.ndarray:
    """Convert boxes (..., 4) from xyxy to cxcywh."""
    first, second = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([(first + second) / 2, second - first], -1)


def attention_and_costs(
    record: ImageRecord,
    queries: Sequence[int],
    layers: Sequence[LayerMatching] = (),
    weights: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return, for JSON, the cross-attention of queries if the model shows it, and the weighted matching costs."""
    document: dict[str, Any] = {}
    if "cross-attention" in record.inspectable.abilities and queries:
        document |= _attention(record, queries)
    if layers and layers[0].total.size and weights is not None:
        costs = np.stack(
            [
                np.stack([*(weight * layer.terms[name] for name, weight in weights.items()), layer.total])
                for layer in layers
            ]
        )  # (L, terms, Q, N)
        document["costs"] = {"terms": [*weights, "total"], "values": _packed(costs * COST_STEPS, "<i2", compress=True)}
    return document


def _attention(record: ImageRecord, queries: Sequence[int]) -> dict[str, Any]:
    attention = cross_attention(record, queries, range(len(record.layers)), ["mean", *range(record.inspectable.heads)])
    maps = _coarsened(attention.maps.swapaxes(0, 1))  # (n, L, 1 + heads, h, w)
    most = maps.max((-2, -1))  # (n, L, 1 + heads)
    h, w = maps.shape[-2:]
    document = {
        "cells": [h, w],
        "window": image_window((h, w), record.placement),
        "heads": record.inspectable.heads,
        "queries": list(queries),
        "most": np.round(most.ravel().astype(float), 6).tolist(),
        "maps": _packed(255 * maps / np.where(most > 0, most, 1)[..., None, None], "u1", compress=True),
    }
    if attention.sampled is not None:
        height, width = record.size
        points = attention.sampled.points / [width, height]  # (L, n, heads, levels, points, 2)
        values = np.concatenate([points * BOX_STEPS, (attention.sampled.weights * WEIGHT_STEPS)[..., None]], -1)
        L, n, heads, *_ = values.shape
        values = values.reshape(L, n, heads, -1, 3).swapaxes(0, 1)  # (n, L, heads, levels * points, 3)
        document["points"] = {"count": values.shape[3], "values": _packed(values, "<i2", compress=True)}
    return document


def _coarsened(maps: np.ndarray) -> np.ndarray:
    """Sum neighboring cells of maps (..., h, w) until the longer side has at most MAX_CELLS."""
    *_, h, w = maps.shape
    factor = -(-max(h, w) // MAX_CELLS)
    if factor == 1:
        return maps
    rows, columns = np.arange(0, h, factor), np.arange(0, w, factor)
    summed: np.ndarray = np.add.reduceat(np.add.reduceat(maps, rows, axis=-2), columns, axis=-1)
    return summed


def write_viewer_page(
    path: Path,
    title: str,
    introduction: str,
    view: ImageView,
    image: Image.Image,
    attention: Mapping[str, Any],
    query: int | None = None,
) -> None:
    """Write a page with the viewer of an image. `query` is selected at first, else the first object."""
    write_page(
        path,
        title,
        introduction,
        [Section("", html='<div id="viewer"></div>')],
        style=STYLE,
        data={
            "names": [escape_controls(name) for name in view.names],
            "colors": COLORS,
            "view": view.document(data_url(shrunk(image))),
            "attention": attention,
            "selection": None if query is None else {"query": query},
        },
        script=f"{SCRIPT}showPage();",
    )


def _pair(pair: Pair) -> dict[str, Any]:
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in asdict(pair).items()}


def _packed(values: np.ndarray, kind: str, *, compress: bool = False) -> str:
    """Round values to integers of a kind, clip them to its range, and encode them as base64."""
    limits = np.iinfo(kind)
    data = np.ascontiguousarray(values.round().clip(limits.min, limits.max)).astype(kind).tobytes()
    return base64.b64encode(zlib.compress(data, 6) if compress else data).decode()
