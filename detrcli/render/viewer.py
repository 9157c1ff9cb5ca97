"""What the viewer shows of an image: predictions of every layer, matching, costs, and where queries look.

The script beside it draws it. Large arrays are packed: numbers of 16 bits, deflated where there are many.
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
from detrcli.inspection.look import PictureRecord
from detrcli.inspection.matching import LayerMatching, Pair
from detrcli.render.attention_figure import window
from detrcli.render.colour import heat
from detrcli.render.page import Section, as_url, write_page
from detrcli.system.text import escape_controls

SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
STYLE = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
COLOURS = base64.b64encode(heat(np.linspace(0, 1, 256)).tobytes()).decode()
LONGEST = 900  # pixels of a picture on a page
MOST_CELLS = 48  # of a map's longer side on a page; finer ones are summed
IN_BOX, IN_SCORE, IN_COST = 8192, 65535, 1000  # what the packed numbers are multiples of


@dataclass(frozen=True)
class ObjectView:
    """An object of the ground truth. Boxes are cx, cy, w, h in [0, 1] of the picture."""

    label: str
    box: Sequence[float]
    id: int | None = None  # of its annotation
    fate: str = ""  # what became of it
    missed: bool = False
    closest: int | None = None  # the query that speaks of it, where it is missed
    mask: Mapping[str, Any] | None = None  # in run lengths, of the picture's size


@dataclass(frozen=True)
class ImageView:
    """What Q queries of L layers predict in an image, and how its N objects were matched with them."""

    file: str
    width: int
    height: int
    names: Sequence[str]  # of the classes
    boxes: np.ndarray  # (L, Q, 4), cx, cy, w, h in [0, 1] of the picture
    scores: np.ndarray  # (L, Q), of the likeliest class
    labels: np.ndarray  # (L, Q), that class
    nothing: np.ndarray  # (L, Q) bool, whether "no object" is likelier
    threshold: float
    objects: Sequence[ObjectView] = ()
    pairs: Sequence[Sequence[Pair]] = ()  # of each layer
    alarms: Mapping[int, str] = field(default_factory=dict)  # what is wrong with a query's detection
    masks: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)  # of queries, in the last layer

    def piece(self, picture: str) -> dict[str, Any]:
        """In plain values; `picture` is its URL."""
        return {
            "file": escape_controls(self.file),
            "width": self.width,
            "height": self.height,
            "picture": picture,
            "threshold": self.threshold,
            "targets": [{**asdict(one), "label": escape_controls(one.label)} for one in self.objects],
            "layers": [
                {
                    "boxes": _packed((boxes * IN_BOX).round().clip(-32768, 32767), "<i2"),
                    "scores": _packed((scores.clip(0, 1) * IN_SCORE).round(), "<u2"),
                    "labels": _packed(labels, "<i2"),
                    "nothing": np.flatnonzero(nothing).tolist(),
                }
                for boxes, scores, labels, nothing in zip(
                    self.boxes, self.scores, self.labels, self.nothing, strict=True
                )
            ],
            "pairs": [[_pair(pair) for pair in pairs] for pairs in self.pairs],
            "alarms": {str(query): text for query, text in self.alarms.items()},
            "masks": {str(query): mask for query, mask in self.masks.items()},
        }


def view_of_record(record: PictureRecord, threshold: float) -> ImageView:
    """Of a picture without ground truth."""
    height, width = record.size
    corners = np.stack([found.boxes for found in record.layers]) / [width, height, width, height]  # (L, Q, 4)
    names, labels = np.unique(np.stack([found.labels for found in record.layers]), return_inverse=True)
    return ImageView(
        file=record.name,
        width=width,
        height=height,
        names=[str(name) for name in names],
        boxes=centred(corners),
        scores=np.stack([found.scores for found in record.layers]),
        labels=labels.reshape(len(record.layers), -1),
        nothing=record.nothing,
        threshold=threshold,
    )


def centred(corners: np.ndarray) -> np.ndarray:
    """x0, y0, x1, y1 (..., 4) to cx, cy, w, h."""
    first, second = corners[..., :2], corners[..., 2:]
    return np.concatenate([(first + second) / 2, second - first], -1)


def inside_of(
    record: PictureRecord,
    queries: Sequence[int],
    layers: Sequence[LayerMatching] = (),
    weights: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Where queries look in every layer and head, if the model shows it; and the matching's weighted costs."""
    inside: dict[str, Any] = {}
    if "cross-attention" in record.inspectable.abilities and queries:
        inside |= _attention(record, queries)
    if layers and layers[0].total.size and weights is not None:
        terms = [*weights, "total"]
        factors = {**weights, "total": 1.0}
        values = np.stack(
            [
                np.stack([factors[name] * {**layer.terms, "total": layer.total}[name] for name in terms])
                for layer in layers
            ]
        )  # (L, terms, Q, N)
        packed = (values * IN_COST).round().clip(-32768, 32767)
        inside["costs"] = {"terms": terms, "values": _deflated(packed, "<i2")}
    return inside


def _attention(record: PictureRecord, queries: Sequence[int]) -> dict[str, Any]:
    layers = range(len(record.layers))
    found = cross_attention(record, queries, layers, [None, *range(record.inspectable.heads)])
    maps = _summed(found.maps.swapaxes(0, 1))  # (n, L, 1 + heads, h, w)
    most = maps.max((-2, -1))  # (n, L, 1 + heads)
    steps = 255 * maps / np.where(most > 0, most, 1)[..., None, None]
    h, w = maps.shape[-2:]
    inside = {
        "cells": [h, w],
        "window": window((h, w), record.placement),
        "heads": record.inspectable.heads,
        "queries": list(queries),
        "most": np.round(most.ravel().astype(float), 6).tolist(),
        "maps": _deflated(steps.round(), "u1"),
    }
    if found.sampled is not None:
        height, width = record.size
        places = found.sampled.points / [width, height]  # (L, n, heads, levels, points, 2)
        both = np.concatenate([places * IN_BOX, (found.sampled.weights * 32767)[..., None]], -1)  # x, y and weight
        L, n, heads, *_ = both.shape
        flat = both.reshape(L, n, heads, -1, 3).swapaxes(0, 1)  # (n, L, heads, levels * points, 3)
        inside["points"] = {"each": flat.shape[3], "values": _deflated(flat.round().clip(-32768, 32767), "<i2")}
    return inside


def _summed(maps: np.ndarray) -> np.ndarray:
    """Maps (..., h, w) with neighbouring cells summed until there are few enough."""
    *_, h, w = maps.shape
    factor = -(-max(h, w) // MOST_CELLS)
    if factor == 1:
        return maps
    rows, columns = np.arange(0, h, factor), np.arange(0, w, factor)
    whole: np.ndarray = np.add.reduceat(np.add.reduceat(maps, rows, axis=-2), columns, axis=-1)
    return whole


def shrunk(image: Image.Image) -> Image.Image:
    """A picture as large as pages show it."""
    scale = min(1, LONGEST / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image if scale == 1 else image.resize(size, Image.Resampling.LANCZOS)


def write_viewer_page(
    path: Path,
    title: str,
    introduction: str,
    view: ImageView,
    image: Image.Image,
    inside: Mapping[str, Any],
    query: int | None = None,
) -> None:
    """A page of one image, that needs nothing but itself."""
    write_page(
        path,
        title,
        introduction,
        [Section("", widget=f'<style>{STYLE}</style><div id="viewer"></div>')],
        data={
            "names": [escape_controls(name) for name in view.names],
            "colours": COLOURS,
            "piece": view.piece(as_url(shrunk(image))),
            "inside": inside,
            "chosen": None if query is None else {"query": query},
        },
        script=SCRIPT + _ALONE,
    )


_ALONE = """
const data = JSON.parse(document.getElementById("data").textContent);
const viewer = new Viewer(document.getElementById("viewer"), data.names, data.colours);
viewer.show(data.piece, data.chosen);
viewer.look(data.inside).then(() => (document.body.dataset.ready = "yes"));
document.onkeydown = (event) => {
  const own = event.target.tagName === "SELECT" || event.target.type === "range";
  if (!own && viewer.key(event.key)) event.preventDefault();
};
"""


def _pair(pair: Pair) -> dict[str, Any]:
    entry = asdict(pair)
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in entry.items()}


def _packed(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values).astype(kind).tobytes()).decode()


def _deflated(values: np.ndarray, kind: str) -> str:
    data = np.ascontiguousarray(values).astype(kind).tobytes()
    return base64.b64encode(zlib.compress(data, 6)).decode()
