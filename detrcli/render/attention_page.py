"""A page on which one moves through the queries, layers and heads of a picture."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detrcli.render.attention_figure import SEEN_THROUGH, in_grey, window
from detrcli.render.colour import colour_of, contrast, heat
from detrcli.render.draw import Box
from detrcli.render.page import Section, as_url, write_page
from detrcli.resize import Placement
from detrcli.system.text import visible

LONGEST = 900  # pixels of the picture on the page

WIDGET = """
<p><label>query <select id="query"></select></label>
&ensp;<label>layer <input id="layer" type="range" min="0" step="1"></label> <output id="layername"></output>
&ensp;<label>head <select id="head"></select></label>
&ensp;<label><input id="box" type="checkbox" checked> box</label></p>
<canvas id="canvas" style="max-width: 100%; cursor: pointer"></canvas>
<p>0 <canvas id="bar" width="256" height="12"></canvas> <span id="most"></span></p>
<p id="said" aria-live="polite"></p>
"""


@dataclass(frozen=True)
class Answer:
    """What a decoder layer predicts by a query, on the page."""

    text: str
    category: int
    box: Box  # x0, y0, x1, y1 in pixels


def write_attention_page(
    path: Path,
    name: str,
    image: Image.Image,
    queries: Sequence[int],
    answers: Sequence[Sequence[Answer]],
    maps: np.ndarray,
    placement: Placement | None = None,
) -> None:
    """The page for the answers of n queries in L layers each, and maps (L, n, 1 + heads, h, w), the mean first.

    Maps are over the network's input; without a placement the picture fills that.
    """
    layers, _, kinds, h, w = maps.shape
    told: list[dict[str, Any]] = []
    for query, of_layers, own in zip(queries, answers, maps.swapaxes(0, 1), strict=True):
        most = own.max((-2, -1))  # (L, 1 + heads)
        steps = (255 * own / np.where(most > 0, most, 1)[..., None, None]).round().astype(np.uint8)
        told.append(
            {
                "query": query,
                "layers": [_said(answer, image) for answer in of_layers],
                "most": [float(value) for value in most.ravel()],
                "maps": _text(steps),
            }
        )
    scale = LONGEST / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    shown = image.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)
    write_page(
        path,
        f"Where queries look in {name}",
        "The decoder's cross-attention over the picture. A click on the picture chooses the smallest box there.",
        [
            Section(
                f"{len(queries)} queries, {layers} layers, {kinds - 1} heads, {w} x {h} cells", widget=WIDGET
            )
        ],
        data={
            "picture": as_url(in_grey(shown)),
            "cells": [h, w],
            "window": window((h, w), placement),
            "heads": ["mean", *map(str, range(kinds - 1))],
            "colours": _text(heat(np.linspace(0, 1, 256))),
            "seen_through": SEEN_THROUGH,
            "queries": told,
        },
        script=Path(__file__).with_name("attention.js").read_text(encoding="utf-8"),
    )


def _said(answer: Answer, image: Image.Image) -> dict[str, Any]:
    colour = colour_of(answer.category)
    x0, y0, x1, y1 = answer.box
    return {
        "text": visible(answer.text),
        "colour": f"rgb{colour}",
        "ink": f"rgb{contrast(colour)}",
        "box": [x0 / image.width, y0 / image.height, x1 / image.width, y1 / image.height],
    }


def _text(numbers: np.ndarray) -> str:
    """Bytes as text."""
    return base64.b64encode(np.ascontiguousarray(numbers).tobytes()).decode()
