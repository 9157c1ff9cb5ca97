"""Attention of queries and of points in an image: maps, with a table, a document and arrays of each kind."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detrcli.boxes import to_pixels
from detrcli.inspection.maps import (
    Point,
    box_coverage,
    brightest,
    cell_at,
    mask_coverage,
    points_to_image,
    points_to_input,
)
from detrcli.inspection.record import Head, ImageRecord
from detrcli.inspection.tables import Cell, Table
from detrcli.model.inspectable import Attention, Sampled

TOP_QUERIES = 5  # that a query attends to most, listed in the table


@dataclass(frozen=True)
class MapFacts:
    """Numbers that describe a map."""

    brightest: Point  # the center of the cell with the largest share, in pixels of the image
    most: float  # the share of that cell
    in_box: float | None = None  # the share inside the query's box
    in_mask: float | None = None  # the share inside the mask of the query's object

    @classmethod
    def of(
        cls, map_: np.ndarray, record: ImageRecord, box: np.ndarray | None = None, mask: np.ndarray | None = None
    ) -> "MapFacts":
        """Describe a map (h, w). The box is xyxy in [0, 1] of the network's input, the mask (H, W) of the image."""

        def share(coverage: np.ndarray) -> float:
            return round(float((map_ * coverage).sum()), 6)

        x, y = points_to_image(np.array(brightest(map_)), record.size, record.placement).tolist()
        return cls(
            brightest=(round(x, 1), round(y, 1)),
            most=round(float(map_.max()), 6),
            in_box=None if box is None else share(box_coverage(box, map_.shape)),
            in_mask=None if mask is None else share(mask_coverage(mask, map_.shape, record.placement)),
        )

    def document(self) -> dict[str, Any]:
        fields = {"most": self.most, "in_box": self.in_box, "in_mask": self.in_mask}
        return {"brightest": list(self.brightest)} | {k: value for k, value in fields.items() if value is not None}

    def cells(self) -> list[str]:
        """Return the facts for the columns of MAP_COLUMNS."""
        x, y = self.brightest
        return [f"{x:.0f},{y:.0f}", f"{100 * self.most:.1f}%", percent(self.in_box), percent(self.in_mask)]


MAP_COLUMNS = ("most at", "in a cell", "in its box", "in its mask")


def percent(share: float | None) -> str:
    """Format a share for a table; None gives an empty cell."""
    return "" if share is None else f"{100 * share:.0f}%"


@dataclass(frozen=True)
class SampledPoints:
    """Sampled points of deformable attention, in pixels of the image: of L layers and n queries, or of one map."""

    points: np.ndarray  # (L, n, heads, levels, points, 2), x and y; of all heads where the maps are their mean
    weights: np.ndarray  # (L, n, heads, levels, points), summing to 1 over the levels and points of a head
    references: np.ndarray  # (L, n, 2 or 4), cx, cy, and w, h where the reference is a box


@dataclass(frozen=True)
class AttentionMap:
    """A map of a query or point in one layer and head."""

    index: int  # the position of its query or point among those shown
    layer: int
    head: Head
    values: np.ndarray  # (h, w), summing to 1
    facts: MapFacts
    sampled: SampledPoints | None  # without the axes L and n; None where attention is dense


@dataclass(frozen=True)
class AttentionFindings(ABC):
    """Attention of one kind in an image."""

    record: ImageRecord
    queries: Sequence[int]  # n queries; none where points are shown
    layers: Sequence[int]
    heads: Sequence[Head]
    maps: np.ndarray  # (L, n, heads, h, w), unless a kind says otherwise
    sampled: SampledPoints | None = field(default=None, kw_only=True)  # where `maps` is the density of sampled points

    @property
    @abstractmethod
    def table(self) -> Table: ...

    @property
    def remarks(self) -> Sequence[str]:
        """Sentences to show below the table."""
        return ()

    @property
    def document(self) -> dict[str, Any]:
        height, width = self.record.size
        return {
            "schema": "detr.visualize-attn/1",
            "file": self.record.name,
            "width": width,
            "height": height,
            "cells": list(self.record.forward.cells),
            "layers": list(self.layers),
            **self._document(),
        }

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return {**self._arrays(), "layers": np.array(self.layers), "image_size": np.array(self.record.size)}

    @cached_property
    def entries(self) -> list[AttentionMap]:
        """All maps, query by query or point by point."""
        entries = []
        for n in range(self.maps.shape[1]):
            for i, j, layer, head in self._layers_and_heads():
                map_, sampled = self.maps[i, n, j], self.sampled
                if sampled is not None:
                    part = i, n, slice(None) if head == "mean" else slice(j, j + 1)
                    sampled = SampledPoints(sampled.points[part], sampled.weights[part], sampled.references[i, n])
                entries.append(AttentionMap(n, layer, head, map_, self._facts(n, layer, map_), sampled))
        return entries

    def predictions(self) -> dict[str, np.ndarray]:
        """Return the last layer's predictions of the queries as arrays."""
        last = self.record.last.part(np.array(self.queries, dtype=np.int64))
        return {"queries": np.array(self.queries), "boxes": last.boxes, "scores": last.scores, "labels": last.labels}

    @abstractmethod
    def _document(self) -> dict[str, Any]: ...

    @abstractmethod
    def _arrays(self) -> dict[str, np.ndarray]: ...

    def _facts(self, n: int, layer: int, map_: np.ndarray) -> MapFacts:
        return MapFacts.of(map_, self.record, self.record.box_in_input(layer, self.queries[n]))

    def _map_document(self, entry: AttentionMap) -> dict[str, Any]:
        return {"layer": entry.layer, "head": entry.head, **entry.facts.document()}

    def _with_maps(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the documents of queries or points, each with those of its maps."""
        maps: list[list[dict[str, Any]]] = [[] for _ in items]
        for entry in self.entries:
            maps[entry.index].append(self._map_document(entry))
        return [{**item, "maps": own} for item, own in zip(items, maps, strict=True)]

    def _layers_and_heads(self) -> Iterator[tuple[int, int, int, Head]]:
        """Yield every layer and head, with their positions in `maps` in front."""
        for i, layer in enumerate(self.layers):
            for j, head in enumerate(self.heads):
                yield i, j, layer, head


@dataclass(frozen=True)
class CrossAttention(AttentionFindings):
    """Cross-attention of the decoder: which parts of the image queries attend to."""

    @property
    def table(self) -> Table:
        rows: list[Sequence[Cell]] = []
        for entry in self.entries:
            prediction = self.record.prediction(entry.layer, self.queries[entry.index])
            score, facts = f"{prediction.score:.3f}", entry.facts.cells()[:3]
            rows.append((prediction.query, prediction.name, score, entry.layer, str(entry.head), *facts))
        return Table("", ("query", "label", "score", "layer", "head", *MAP_COLUMNS[:3]), rows)

    def _document(self) -> dict[str, Any]:
        queries = [self.record.prediction(-1, query).document() for query in self.queries]
        return {"kind": "decoder", "queries": self._with_maps(queries)}

    def _map_document(self, entry: AttentionMap) -> dict[str, Any]:
        document = super()._map_document(entry)
        if len(self.layers) > 1:  # each layer has predictions of its own
            prediction = self.record.prediction(entry.layer, self.queries[entry.index]).document()
            document |= {key: prediction[key] for key in ("label", "score", "nothing", "box")}
        return document

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"cross": self.maps, **(vars(self.sampled) if self.sampled else {}), **self.predictions()}


@dataclass(frozen=True)
class EncoderAttention(AttentionFindings):
    """Self-attention of the encoder: which parts of the image points of the image attend to."""

    points: Sequence[Point]  # n points, in pixels of the image
    cells: Sequence[int]  # the row-major indices of their cells

    @property
    def table(self) -> Table:
        rows: list[Sequence[Cell]] = [
            (f"{x:g},{y:g}", entry.layer, str(entry.head), *entry.facts.cells()[:2])
            for entry in self.entries
            for x, y in [self.points[entry.index]]
        ]
        return Table("", ("point", "layer", "head", *MAP_COLUMNS[:2]), rows)

    def _document(self) -> dict[str, Any]:
        points = [{"point": list(point), "cell": cell} for point, cell in zip(self.points, self.cells, strict=True)]
        return {"kind": "encoder", "points": self._with_maps(points)}

    def _facts(self, n: int, layer: int, map_: np.ndarray) -> MapFacts:
        return MapFacts.of(map_, self.record)

    def _arrays(self) -> dict[str, np.ndarray]:
        points = np.array(self.points, dtype=np.float32)
        if self.sampled is None:
            return {"encoder": self.maps, "points": points}
        return {"encoder": self.maps, "asked_points": points, **vars(self.sampled)}


@dataclass(frozen=True)
class QueryAttention(AttentionFindings):
    """Self-attention of the decoder: which of all Q queries the queries attend to. `maps` is (L, heads, Q, Q)."""

    equal_values: Sequence[bool]  # of each layer: all queries have the same value, so that attention has no effect

    @property
    def table(self) -> Table:
        rows: list[Sequence[Cell]] = []
        for pair in self._document()["pairs"]:
            query, layer, head = pair["query"], pair["layer"], str(pair["head"])
            top = (f"{'itself' if at['query'] == query else at['query']} {percent(at['share'])}" for at in pair["at"])
            rows.append((query, self.record.prediction(-1, query).name, layer, head, ", ".join(top)))
        return Table("", ("query", "label", "layer", "head", "attends most to queries"), rows)

    @property
    def remarks(self) -> list[str]:
        return [
            f"Layer {layer}: all queries have the same value, so self-attention has no effect there."
            for layer, equal in zip(self.layers, self.equal_values, strict=True)
            if equal
        ]

    def _document(self) -> dict[str, Any]:
        pairs = []
        for i, j, layer, head in self._layers_and_heads():
            for query in self.queries:
                shares = self.maps[i, j, query]  # (Q,)
                top = np.argsort(-shares, kind="stable")[:TOP_QUERIES].tolist()
                at = [{"query": k, "share": round(float(shares[k]), 6)} for k in top]
                effect = not self.equal_values[i]
                pairs.append({"layer": layer, "head": head, "query": query, "effect": effect, "at": at})
        return {"kind": "self", "pairs": pairs}

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"self": self.maps, "queries": np.array(self.queries)}


def cross_attention(
    record: ImageRecord, queries: Sequence[int], layers: Sequence[int], heads: Sequence[Head]
) -> CrossAttention:
    record.inspectable.require("cross-attention")
    attentions = [record.forward.cross(layer, queries) for layer in layers]
    maps = np.stack(
        [select_heads_of(attention.density()[0], heads, 1) for attention in attentions]
    )  # (L, n, heads, h, w)
    return CrossAttention(record, queries, layers, heads, maps, sampled=_sampled(record, attentions, heads))


def encoder_attention(
    record: ImageRecord, points: Sequence[Point], layers: Sequence[int], heads: Sequence[Head]
) -> EncoderAttention:
    """Return the encoder's self-attention of points, in pixels of the image."""
    record.inspectable.require("encoder attention")
    fractions = points_to_input(points, record.size, record.placement)  # (n, 2)
    cells = [cell_at(x, y, record.forward.encoder_cells) for x, y in fractions.tolist()]
    attentions = [record.forward.encoder(layer, cells) for layer in layers]
    maps = np.stack(
        [select_heads_of(attention.density()[0], heads, 1) for attention in attentions]
    )  # (L, n, heads, h, w)
    sampled = _sampled(record, attentions, heads)
    return EncoderAttention(record, (), layers, heads, maps, points, cells, sampled=sampled)


def query_attention(
    record: ImageRecord, queries: Sequence[int], layers: Sequence[int], heads: Sequence[Head]
) -> QueryAttention:
    record.inspectable.require("query attention")
    maps = [select_heads_of(record.forward.among_queries(layer)[0], heads, 0) for layer in layers]
    equal_values = [record.forward.queries_are_alike(layer) for layer in layers]
    return QueryAttention(record, queries, layers, heads, np.stack(maps), equal_values)


def select_heads_of(maps: Tensor, heads: Sequence[Head], axis: int) -> np.ndarray:
    """Return some heads along an axis, or the mean of all heads, on the CPU."""
    selected = [maps.mean(axis, keepdim=True) if head == "mean" else maps.narrow(axis, head, 1) for head in heads]
    return torch.cat(selected, axis).float().cpu().numpy()


def _sampled(record: ImageRecord, layers: Sequence[Attention], heads: Sequence[Head]) -> SampledPoints | None:
    sampled = [layer for layer in layers if isinstance(layer, Sampled)]
    if not sampled:
        return None
    numbers = [head for head in heads if head != "mean"]
    kept = numbers if len(numbers) == len(heads) else list(range(sampled[0].weights.shape[2]))
    points = np.stack([layer.points[0, :, kept].float().cpu().numpy() for layer in sampled])
    # The first reference may be a point and later ones boxes. A point becomes a box of no extent.
    axes = max(layer.references.shape[-1] for layer in sampled)
    references = torch.stack(  # (L, n, 2 or 4)
        [F.pad(layer.references[0].float().cpu(), (0, axes - layer.references.shape[-1])) for layer in sampled]
    )
    centers = points_to_image(references[..., :2].numpy(), record.size, record.placement)
    if axes == 4:
        boxes = to_pixels(references, *record.size, record.placement).numpy()
        centers = np.concatenate([centers, boxes[..., 2:] - boxes[..., :2]], -1)
    return SampledPoints(
        points=points_to_image(points, record.size, record.placement),
        weights=np.stack([layer.weights[0, :, kept].float().cpu().numpy() for layer in sampled]),
        references=centers,
    )
