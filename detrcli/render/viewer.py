"""Data of the image viewer: predictions of every layer, matching, costs and attention. viewer.js shows them.

Large arrays are packed as integers and encoded as base64, the largest compressed.
"""

import base64
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from detrcli.boxes import from_pixels
from detrcli.inspection.attention import cross_attention
from detrcli.inspection.maps import boxes_to_image
from detrcli.inspection.match_report import MatchReport
from detrcli.inspection.matching import LayerMatching, Pair
from detrcli.inspection.record import ImageRecord
from detrcli.losses.scoring import NO_OBJECT
from detrcli.render.attention_figure import image_window
from detrcli.render.color import heat
from detrcli.render.page import Section, data_url, shrunk, write_page
from detrcli.system.text import escape_controls

SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
STYLE = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
COLORS = base64.b64encode(heat(np.linspace(0, 1, 256)).tobytes()).decode()
MAX_CELLS = 48  # of a map's longer side; finer maps are summed
BOX_STEPS, SCORE_STEPS, WEIGHT_STEPS, COST_STEPS = 8192, 65535, 32767, 1000  # integers per unit, as in viewer.js


def view_document(
    *,
    file: str,
    size: tuple[int, int],
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    no_object: np.ndarray,
    threshold: float,
    targets: Sequence[Mapping[str, Any]] = (),
    pairs: Sequence[Sequence[Pair]] = (),
    false_positives: Mapping[int, str] | None = None,
    masks: Mapping[int, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return the predictions of Q queries of L layers in an image (height, width) for JSON, with its ground truth.

    - `boxes` (L, Q, 4) are cxcywh in [0, 1] of the image. `scores` and `labels` (L, Q) are those of the most probable
      class, `no_object` (L, Q) bool tells where the no-object class is more probable.
    - `targets` have a label, a box, the id of the annotation and the outcome. `pairs` are given by layer.
    - `false_positives` (their kinds) and `masks` of the last layer are given by query.
    """
    height, width = size
    return {
        "file": escape_controls(file),
        "width": width,
        "height": height,
        "threshold": threshold,
        "targets": [{**target, "label": escape_controls(target["label"])} for target in targets],
        "layers": [
            {
                "boxes": _packed(boxes[i] * BOX_STEPS, "<i2"),
                "scores": _packed(scores[i].clip(0, 1) * SCORE_STEPS, "<u2"),
                "labels": _packed(labels[i], "<i2"),
                "noObject": np.flatnonzero(no_object[i]).tolist(),
            }
            for i in range(len(boxes))
        ],
        "pairs": [[_pair(pair) for pair in of_layer] for of_layer in pairs],
        "falsePositives": {str(query): kind for query, kind in (false_positives or {}).items()},
        "masks": {str(query): mask for query, mask in (masks or {}).items()},
    }


def view_of_record(record: ImageRecord, threshold: float) -> tuple[list[str], dict[str, Any]]:
    """Return the class names and the view of an image without ground truth."""
    boxes = torch.from_numpy(np.stack([layer.boxes for layer in record.layers])).double()  # (L, Q, 4)
    names, labels = np.unique(np.stack([layer.labels for layer in record.layers]), return_inverse=True)
    view = view_document(
        file=record.name,
        size=record.size,
        boxes=from_pixels(boxes, *record.size).numpy(),
        scores=np.stack([layer.scores for layer in record.layers]),
        labels=labels.reshape(len(record.layers), -1),
        no_object=record.no_object,
        threshold=threshold,
    )
    return names.tolist(), view


def view_of_matching(report: MatchReport) -> dict[str, Any]:
    missed = {n: f"missed: {report.miss_reason(layers[-1])}" for n, layers in report.missed.items()}
    boxes = boxes_to_image(report.target.boxes.numpy(), report.placement)  # (N, 4)
    return view_document(
        file=report.file,
        size=(report.height, report.width),
        boxes=np.stack([boxes_to_image(layer.boxes, report.placement) for layer in report.layers]),
        scores=np.stack([layer.scores for layer in report.layers]),
        labels=np.stack([layer.labels for layer in report.layers]),
        no_object=np.stack([layer.top == NO_OBJECT for layer in report.layers]),
        threshold=report.threshold,
        targets=[
            {
                "label": report.target_name(n),
                "box": [round(value, 5) for value in box],
                "id": annotation,
                "outcome": missed.get(n, "detected"),
                "missed": n in missed,
            }
            for n, (box, annotation) in enumerate(zip(boxes.tolist(), report.annotation_ids, strict=True))
        ],
        pairs=[layer.pairs for layer in report.layers],
        false_positives={fp.query: report.describe(fp) for fp in report.false_positives},
    )


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
        costs = [
            [*(weight * layer.terms[name] for name, weight in weights.items()), layer.total] for layer in layers
        ]  # (L, terms, Q, N)
        values = _packed(np.array(costs) * COST_STEPS, "<i2", compress=True)
        document["costs"] = {"terms": [*weights, "total"], "values": values}
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
    names: Sequence[str],
    view: Mapping[str, Any],
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
            "names": [escape_controls(name) for name in names],
            "colors": COLORS,
            "view": {**view, "url": data_url(shrunk(image))},
            "attention": attention,
            "selection": None if query is None else {"query": query},
        },
        script=f"{SCRIPT}showPage();",
    )


def _pair(pair: Pair) -> dict[str, Any]:
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in vars(pair).items()}


def _packed(values: np.ndarray, kind: str, *, compress: bool = False) -> str:
    """Round values to integers of a kind, clip them to its range, and encode them as base64."""
    limits = np.iinfo(kind)
    data = np.ascontiguousarray(values.round().clip(limits.min, limits.max)).astype(kind).tobytes()
    return base64.b64encode(zlib.compress(data, 6) if compress else data).decode()
