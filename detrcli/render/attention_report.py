"""Attention in an image, with its figure and its page."""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detrcli.errors import UsageError
from detrcli.inspection import attention
from detrcli.inspection.attention import AttentionFindings
from detrcli.inspection.record import QueryPrediction
from detrcli.inspection.relevance import SHARES, MapComparison
from detrcli.render.attention_figure import Tile, draw_matrix, matrices_figure, tiles_figure
from detrcli.render.draw import Mark, png, stacked
from detrcli.render.plot import Panel, plot
from detrcli.render.viewer import attention_and_costs, view_of_record, write_viewer_page


@dataclass(frozen=True)
class AttentionReport:
    """Attention in an image as a table, JSON, arrays, a figure and a page."""

    findings: AttentionFindings

    @property
    def maps(self) -> np.ndarray:
        """Maps (L, n, heads, h, w) of queries or points, (L, heads, Q, Q) among queries, (n, maps, h, w) compared."""
        return self.findings.maps

    @property
    def document(self) -> dict[str, Any]:
        return self.findings.document

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return self.findings.arrays

    @cached_property
    def figure(self) -> Image.Image:
        return attention_figure(self.findings)

    def page(self, path: Path) -> None:
        """Write a page to browse the cross-attention of the queries in all layers and heads."""
        record, queries = self.findings.record, self.findings.queries
        if not queries:
            raise UsageError("The page shows the attention of queries, not of points.")
        record.inspectable.require("cross-attention")
        names, view = view_of_record(record, min(0.5, float(record.last.scores[list(queries)].min())))
        title = f"Attention of queries in {record.name}"
        text = f"The {record.inspectable.attention_name} over the image, and the predictions of each layer."
        maps = attention_and_costs(record, queries)
        write_viewer_page(path, title, text, names, view, record.image, maps, queries[0])

    def _repr_png_(self) -> bytes:
        return png(self.figure)


def attention_figure(findings: AttentionFindings) -> Image.Image:
    record, heads, layers = findings.record, len(findings.heads), len(findings.layers)
    tiles: list[Tile] = []
    across: int | None = None
    match findings:
        case attention.QueryAttention():
            return _query_figure(findings)
        case MapComparison():
            return _comparison_figure(findings)
        case attention.CrossAttention():
            kind = f"{record.inspectable.attention_name} of queries"
            across = heads if heads > 1 else layers if layers > 1 else None
            if heads == layers == 1:
                tiles.append(Tile("the image"))
            for entry in findings.entries:
                prediction = record.prediction(entry.layer, findings.queries[entry.index])
                caption = _caption(findings, entry, f"query {prediction.query}: {prediction}")
                tiles.append(Tile(caption, entry.values, entry.sampled, [_mark(prediction)]))
        case attention.EncoderAttention():
            kind = "encoder self-attention of points"
            points = [(x, y, str(n)) for n, (x, y) in enumerate(findings.points)]
            tiles.append(Tile("the image", points=points))
            for entry in findings.entries:
                x, y, number = points[entry.index]
                caption = _caption(findings, entry, f"point {number}: {x:g},{y:g}")
                tiles.append(Tile(caption, entry.values, entry.sampled, points=[points[entry.index]]))
        case attention.MaskAttention():
            kind = "attention of the mask head"
            across = 4 if heads == 1 and len(findings.queries) > 1 else 1 + heads
            for i, entry in enumerate(findings.entries):
                prediction = record.prediction(-1, findings.queries[entry.index])
                if i % heads == 0:  # before the maps of the query
                    mark = replace(_mark(prediction), mask=findings.masks[entry.index])
                    tiles.append(Tile(f"query {prediction.query}: {prediction}, its mask", marks=[mark]))
                tiles.append(Tile(_caption(findings, entry, f"query {prediction.query}"), entry.values))
        case _:
            raise TypeError(type(findings))
    title = f"{record.name}: {kind}, {_layers_and_heads(findings)}; {_colors(findings)}"
    return tiles_figure(record.image, title, tiles, across, record.placement)


def _query_figure(findings: attention.QueryAttention) -> Image.Image:
    queries, record = list(findings.queries), findings.record
    names = [_mark(record.prediction(-1, query)).name for query in queries]
    matrices = []
    for (i, layer), (j, head) in product(enumerate(findings.layers), enumerate(findings.heads)):
        shares = findings.maps[i, j, queries]  # (n, Q)
        values, columns = shares[:, queries], list(map(str, queries))
        if len(queries) < shares.shape[1]:
            values = np.hstack([values, np.maximum(0, 1 - values.sum(1, keepdims=True))])
            columns.append("rest")
        caption = f"layer {layer}" + (f", head {head}" if len(findings.heads) > 1 else "")
        caption += " (no effect)" if findings.equal_values[i] else ""
        matrices.append((draw_matrix(values, names, columns), caption))
    kind = f"decoder self-attention between queries, {_layers_and_heads(findings)}, in percent"
    return matrices_figure(f"{record.name}: {kind}; the queries that attend are on the left", matrices)


def _comparison_figure(findings: MapComparison) -> Image.Image:
    record, tiles, panels = findings.record, [], []
    for query, maps, by_map in zip(findings.queries, findings.maps, findings.curves, strict=True):
        prediction = record.prediction(-1, query)
        for name, map_ in zip(findings.names, maps, strict=True):
            tiles.append(Tile(f"query {query}: {prediction.name}, {name}", map_, marks=[_mark(prediction)]))
        for kind in ("deletion", "insertion") if by_map else ():
            drawn = {
                name: list(zip((100 * SHARES).tolist(), curves[kind].tolist(), strict=True))
                for name, curves in by_map.items()
            }
            panels.append(Panel(f"query {query}: {kind}", "% of the image", drawn, y_min=0, y_max=1))
    relevance = " beside relevance through all layers" if "relevance" in findings.names else ""
    title = f"{record.name}: attention of layer {findings.layers[0]}{relevance}; {_colors(findings)}"
    across = findings.maps.shape[1] * (1 if len(findings.queries) <= 3 else 2)
    figure = tiles_figure(record.image, title, tiles, across, record.placement)
    if not panels:
        return figure
    curves = plot(panels)
    if curves.width > figure.width:
        size = figure.width, round(curves.height * figure.width / curves.width)
        curves = curves.resize(size, Image.Resampling.LANCZOS)
    return stacked([figure, curves])


def _mark(prediction: QueryPrediction) -> Mark:
    label, score = ("no object", None) if prediction.no_object else (prediction.label, prediction.score)
    return Mark(prediction.box, f"{prediction.query} {label}", prediction.category_id, score)


def _caption(findings: AttentionFindings, entry: attention.AttentionMap, text: str) -> str:
    layer = [f"layer {entry.layer}"] if len(findings.layers) > 1 else []
    head = [f"head {entry.head}"] if len(findings.heads) > 1 else []
    return ", ".join([*layer, *head, text])


def _layers_and_heads(findings: AttentionFindings) -> str:
    layer = f"layer {findings.layers[0]}" if len(findings.layers) == 1 else "all layers"
    head = f"head {findings.heads[0]}" if len(findings.heads) == 1 else "each head"
    return f"{layer}, {'mean of the heads' if findings.heads[0] == 'mean' else head}"


def _colors(findings: AttentionFindings) -> str:
    h, w = findings.maps.shape[-2:]
    colors = f"colors: share of the attention in a cell, of {w} x {h}"
    if findings.sampled is not None:
        colors += "; dots: the sampled points, sized by their weight; cross: their reference"
    return colors
