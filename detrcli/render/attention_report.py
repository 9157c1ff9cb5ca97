"""Looking into a picture: maps with their figure, table, document, arrays and page."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from detrcli.data.masks import Mask, masks_of
from detrcli.errors import UsageError
from detrcli.inference.detector import Detector
from detrcli.inference.stream import ImageSource
from detrcli.inspection.attention import (
    AttentionFindings,
    CrossAttention,
    EncoderAttention,
    QueryAttention,
    SampledPoints,
    cross_attention,
    encoder_attention,
    query_attention,
)
from detrcli.inspection.choices import Head, chosen_heads, chosen_layers
from detrcli.inspection.comparison import ComparedQuery, MapComparison, compare_maps
from detrcli.inspection.faithfulness import SHARES
from detrcli.inspection.look import PictureRecord, QueryPrediction, check_points, chosen_queries, record_picture
from detrcli.inspection.maps import Point
from detrcli.inspection.mask_attention import MaskAttention, mask_attention
from detrcli.inspection.tables import Cell
from detrcli.model.inspectable import Ability
from detrcli.render.attention_figure import Matrix, Samples, Tile, matrix_figure, stacked, tiles_figure
from detrcli.render.draw import Mark
from detrcli.render.plot import Panel, plot
from detrcli.render.viewer import inside_of, view_of_record, write_viewer_page

Kind = Literal["cross", "encoder", "self", "mask", "relevance", "faithfulness"]

NEEDED: dict[Kind, Ability] = {
    "cross": "cross-attention",
    "encoder": "encoder attention",
    "self": "query attention",
    "relevance": "relevance",
    "faithfulness": "cross-attention",
}


@dataclass(frozen=True)
class AttentionReport:
    """What was found in a picture, in all the ways it is told."""

    record: PictureRecord
    queries: Sequence[int]  # that are shown; none where places are
    findings: AttentionFindings

    @property
    def maps(self) -> np.ndarray:
        """(L, n, heads, h, w) of queries or places, (L, heads, Q, Q) among queries, (n, maps, h, w) compared."""
        return self.findings.maps

    @property
    def columns(self) -> Sequence[str]:
        """Of the table."""
        return self.findings.columns

    @property
    def rows(self) -> Sequence[Sequence[Cell]]:
        """Of the table."""
        return self.findings.rows

    @property
    def remarks(self) -> Sequence[str]:
        """What stands below the table."""
        return self.findings.remarks

    @property
    def document(self) -> dict[str, Any]:
        """All of it in plain values, for JSON."""
        height, width = self.record.size
        return {
            "schema": "detr.visualize-attn/1",
            "file": self.record.name,
            "width": width,
            "height": height,
            "cells": list(self.record.forward.cells),
            "layers": list(self.findings.layers),
            **self.findings.document,
        }

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The numbers by name, for an .npz."""
        return {
            **self.findings.arrays,
            "layers": np.array(self.findings.layers),
            "image_size": np.array(self.record.size),
        }

    @cached_property
    def figure(self) -> Image.Image:
        """The maps over the picture."""
        match self.findings:
            case CrossAttention():
                return _cross_figure(self.findings)
            case EncoderAttention():
                return _encoder_figure(self.findings)
            case QueryAttention():
                return _query_figure(self.findings)
            case MaskAttention():
                return _mask_figure(self.findings)
            case MapComparison():
                return _comparison_figure(self.findings)
            case _:
                raise TypeError(type(self.findings))

    def page(self, path: Path) -> None:
        """Write a page to move through the queries with their cross-attention in all layers and heads."""
        if not self.queries:
            raise UsageError("The page shows queries, and this shows places: one at a time.")
        self.record.inspectable.require("cross-attention")
        write_viewer_page(
            path,
            f"Where queries look in {self.record.name}",
            f"The {self.record.inspectable.looks_by} over the picture, and what each layer predicts.",
            view_of_record(self.record, min(0.5, float(self.record.last.scores[list(self.queries)].min()))),
            self.record.image,
            inside_of(self.record, self.queries),
            self.queries[0],
        )

    def _repr_png_(self) -> bytes:
        data = io.BytesIO()
        self.figure.save(data, "PNG")
        return data.getvalue()


def look(
    detector: Detector,
    picture: ImageSource,
    *,
    queries: Sequence[int] | None = None,
    threshold: float = 0.7,
    layers: str | int = "last",
    heads: str | int = "mean",
    kind: Kind = "cross",
    points: Sequence[Point] = (),
    masks: str | Path | Sequence[Mask] | None = None,
    advance: Callable[[], None] = lambda: None,
) -> AttentionReport:
    """Show where a model looks in a picture.

    - cross: where queries look in the picture. encoder: where its `points`, in pixels, look. self: which queries
      look at which. mask: which cells the mask head goes by, and the masks. relevance: gradient-weighted relevance
      beside attention. faithfulness: the two measured by hiding parts.
    - Queries are those given, else all whose score reaches the threshold.
    - `layers` is last, all or a number from 0; `heads` is mean, all or a number.
    - `masks`, of objects or the COCO file that has them, tell how much of a map lies in a query's object.
    - `advance` is called after each query that is compared.
    """
    if (kind == "encoder") != bool(points):
        raise UsageError("Points are for the encoder's attention, which is looked at from points.")
    if points and queries:
        raise UsageError("The encoder's attention is that of points, the others' of queries: one at a time.")
    compared = kind in ("relevance", "faithfulness")
    if compared and "all" in (layers, heads):
        raise UsageError("Relevance is compared with one layer and one head, or their mean: not with all.")
    if kind == "mask" and layers != "last":
        raise UsageError("Masks are those of the last layer: no other layer has any.")
    if masks is not None and not compared:
        raise UsageError("Masks are compared with relevance and faithfulness only.")
    record = record_picture(detector, picture)
    if kind == "mask":  # a mask head is no part of what is inspectable
        asked = chosen_queries(record, queries, threshold)
        return AttentionReport(record, asked, mask_attention(record, asked, heads))
    of_encoder = kind == "encoder"
    count = record.inspectable.encoder_layers if of_encoder else record.inspectable.decoder_layers
    record.inspectable.require(NEEDED[kind])
    chosen, of = chosen_layers(layers, count), chosen_heads(heads, record.inspectable.heads)
    if of_encoder:
        check_points(record, points)
        return AttentionReport(record, [], encoder_attention(record, points, chosen, of))
    asked = chosen_queries(record, queries, threshold)
    if kind == "cross":
        return AttentionReport(record, asked, cross_attention(record, asked, chosen, of))
    if kind == "self":
        return AttentionReport(record, asked, query_attention(record, asked, chosen, of))
    known = masks_of(Path(masks), record.name, *record.size) if isinstance(masks, str | Path) else masks
    comparison = compare_maps(
        record, asked, chosen[0], of[0], measured=kind == "faithfulness", masks=known, advance=advance
    )
    return AttentionReport(record, asked, comparison)


def _cross_figure(found: CrossAttention) -> Image.Image:
    record = found.record
    places = [(i, n, j) for n in range(len(found.queries)) for i, j, *_ in found.each()]
    tiles = [
        Tile(
            ", ".join([*_place(one.layer, one.head, found), f"query {one.prediction.query}: {one.prediction}"]),
            one.map,
            _samples(found.sampled, *place),
            [_mark(one.prediction)],
        )
        for one, place in zip(found.entries, places, strict=True)
    ]
    if len(found.heads) == len(found.layers) == 1:  # else tiles stand in rows of their own
        tiles.insert(0, Tile("the picture"))
    looks_by = record.inspectable.looks_by
    kind = f"where queries look ({looks_by}), {_which(found)}; {_colours(found)}"
    across = max(len(found.heads), 1) if len(found.heads) > 1 else len(found.layers)
    return tiles_figure(record.image, f"{record.name}: {kind}", tiles, across if across > 1 else None, record.placement)


def _mask_figure(found: MaskAttention) -> Image.Image:
    record = found.record
    tiles = []
    for n, query in enumerate(found.queries):
        prediction = record.prediction(-1, query)
        whole = replace(_mark(prediction), mask=found.masks[n])
        tiles.append(Tile(f"query {query}: {prediction}, its mask", marks=[whole]))
        tiles += [
            Tile(", ".join([*_place(found.layers[0], one.head, found), f"query {query}"]), one.map)
            for place, one in found.entries()
            if place == n
        ]
    kind = f"which cells the mask head goes by, {_which(found)}; {_colours(found, found.maps.shape[-2:])}"
    across = 1 + len(found.heads)
    if across == 2 and len(found.queries) > 1:
        across = 4
    return tiles_figure(record.image, f"{record.name}: {kind}", tiles, across, record.placement)


def _encoder_figure(found: EncoderAttention) -> Image.Image:
    record = found.record
    places = [(i, n, j) for n in range(len(found.points)) for i, j, *_ in found.each()]
    tiles = [Tile("the picture", points=[(x, y, str(n)) for n, (x, y) in enumerate(found.points)])]
    for one, place in zip(found.entries, places, strict=True):
        x, y = one.point
        caption = [*_place(one.layer, one.head, found), f"point {one.number}: {x:g},{y:g}"]
        samples = _samples(found.sampled, *place)
        tiles.append(Tile(", ".join(caption), one.map, samples, points=[(x, y, str(one.number))]))
    kind = f"where places look (encoder self-attention), {_which(found)}; {_colours(found)}"
    return tiles_figure(record.image, f"{record.name}: {kind}", tiles, placement=record.placement)


def _query_figure(found: QueryAttention) -> Image.Image:
    queries, record = list(found.queries), found.record
    names = [_mark(record.prediction(-1, query)).name for query in queries]
    matrices = []
    for i, j, layer, head in found.each():
        values = found.maps[i, j, queries]  # (n, Q)
        among, heading = values[:, queries], list(map(str, queries))
        if len(queries) < values.shape[1]:  # the others, together
            among = np.hstack([among, np.maximum(0, 1 - among.sum(1, keepdims=True))])
            heading.append("rest")
        caption = ", ".join([f"layer {layer}", *([f"head {head}"] if len(found.heads) > 1 else [])])
        matrices.append(Matrix(caption + (" (without effect)" if found.alike[i] else ""), among, names, heading))
    kind = f"which query looks at which (decoder self-attention), {_which(found)}, in percent"
    return matrix_figure(f"{record.name}: {kind}; those who look stand at the side", matrices)


def _comparison_figure(found: MapComparison) -> Image.Image:
    record = found.record
    tiles = [
        Tile(f"query {one.prediction.query}: {one.prediction.name}, {name}", map_, marks=[_mark(one.prediction)])
        for one in found.queries
        for name, map_ in one.maps.items()
    ]
    beside = " beside relevance through all layers" if "relevance" in found.queries[0].maps else ""
    title = f"{record.name}: attention of layer {found.layers[0]}{beside}; {_colours(found)}"
    across = found.maps.shape[1] * (1 if len(found.queries) <= 3 else 2)
    figure = tiles_figure(record.image, title, tiles, across, record.placement)
    panels = [panel for one in found.queries for panel in _panels(one)]
    return stacked([figure, plot(panels)]) if panels else figure


def _panels(one: ComparedQuery) -> list[Panel]:
    """The score as cells go, and as they come."""
    if not one.curves:
        return []

    def points(scores: np.ndarray) -> list[tuple[float, float]]:
        return list(zip((100 * SHARES).tolist(), scores.tolist(), strict=True))

    ways = {
        "deletion": {name: points(curve.deletion) for name, curve in one.curves.items()},
        "insertion": {name: points(curve.insertion) for name, curve in one.curves.items()},
    }
    return [
        Panel(f"query {one.prediction.query}: {way}", "% of the picture", drawn, least=0, most=1)
        for way, drawn in ways.items()
    ]


def _samples(sampled: SampledPoints | None, layer: int, n: int, head: int) -> Samples | None:
    """The samples of a map, by its place; those of all heads where the map is their mean."""
    if sampled is None:
        return None
    points, weights = sampled.points[layer, n], sampled.weights[layer, n]  # of all heads that are kept
    part = slice(None) if sampled.of_mean else slice(head, head + 1)
    return Samples(points[part], weights[part], sampled.references[layer, n])


def _mark(said: QueryPrediction) -> Mark:
    """A query's box and class, with its number."""
    label = "no object" if said.nothing else said.label
    return Mark(said.box, f"{said.query} {label}", said.category_id, None if said.nothing else said.score)


def _place(layer: int, head: Head, found: AttentionFindings) -> list[str]:
    """Which layer and head, where there are several."""
    of_layer = [f"layer {layer}"] if len(found.layers) > 1 else []
    return [*of_layer, f"head {head}"] if len(found.heads) > 1 else of_layer


def _which(found: AttentionFindings) -> str:
    layers, heads = found.layers, found.heads
    layer = f"layer {layers[0]}" if len(layers) == 1 else "all layers"
    head = "mean of the heads" if heads[0] is None else f"head {heads[0]}" if len(heads) == 1 else "each head"
    return f"{layer}, {head}"


def _colours(found: AttentionFindings, cells: tuple[int, ...] | None = None) -> str:
    """What the colours of a map of so many cells mean, and what is drawn over them."""
    h, w = cells or found.record.forward.cells
    told = f"colours: share of the attention on a cell, of {w} x {h}"
    if found.sampled is not None:
        told += "; dots: the sampled points, as large as their weight; cross: the reference they are taken around"
    return told
