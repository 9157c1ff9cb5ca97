"""Attention of queries and of points in an image: maps, with a table, a document and arrays of each kind."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detrcli.boxes import from_pixels, to_pixels
from detrcli.errors import UsageError
from detrcli.inspection.maps import MAP_COLUMNS, MapFacts, cell_at, percent, points_to_image
from detrcli.inspection.record import Head, ImageRecord, Point, select_heads
from detrcli.inspection.tables import Cell, Table
from detrcli.model.inspectable import Attention, Sampled
from detrcli.model.masks import QueryMasks
from detrcli.run_lengths import MaskRows
from detrcli.segmentation.detr import DETRSegmentation
from detrcli.system.devices import exact_float32

TOP_QUERIES = 5  # that a query attends to most, listed in the table


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
        entries = []
        layers, heads = enumerate(self.layers), enumerate(self.heads)
        for n, (i, layer), (j, head) in product(range(self.maps.shape[1]), layers, heads):
            map_, sampled = self.maps[i, n, j], self.sampled
            if sampled is not None:
                part = i, n, slice(None) if head == "mean" else slice(j, j + 1)
                sampled = SampledPoints(sampled.points[part], sampled.weights[part], sampled.references[i, n])
            entries.append(AttentionMap(n, layer, head, map_, self._facts(n, layer, map_), sampled))
        return entries

    def predictions(self) -> dict[str, np.ndarray]:
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
        maps = [self._map_document(entry) for entry in self.entries]
        count = len(self.layers) * len(self.heads)
        return [{**item, "maps": maps[n * count : (n + 1) * count]} for n, item in enumerate(items)]


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
        rows: list[Sequence[Cell]] = []
        for entry in self.entries:
            x, y = self.points[entry.index]
            rows.append((f"{x:g},{y:g}", entry.layer, str(entry.head), *entry.facts.cells()[:2]))
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
        for (i, layer), (j, head), query in product(enumerate(self.layers), enumerate(self.heads), self.queries):
            shares = self.maps[i, j, query]  # (Q,)
            top = np.argsort(-shares, kind="stable")[:TOP_QUERIES].tolist()
            at = [{"query": k, "share": round(float(shares[k]), 6)} for k in top]
            pairs.append({"layer": layer, "head": head, "query": query, "effect": not self.equal_values[i], "at": at})
        return {"kind": "self", "pairs": pairs}

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"self": self.maps, "queries": np.array(self.queries)}


@dataclass(frozen=True)
class MaskAttention(AttentionFindings):
    """Attention of a mask head: the cells that the masks of n queries are made from. Only the last layer has masks."""

    masks: MaskRows  # (n,)

    @property
    def table(self) -> Table:
        rows: list[Sequence[Cell]] = []
        for entry in self.entries:
            prediction, pixels = self.record.prediction(-1, self.queries[entry.index]), self.masks[entry.index].sum()
            facts = (str(entry.head), *entry.facts.cells())
            rows.append((prediction.query, prediction.name, f"{prediction.score:.3f}", int(pixels), *facts))
        return Table("", ("query", "label", "score", "pixels", "head", *MAP_COLUMNS), rows)

    def _document(self) -> dict[str, Any]:
        queries = [
            {**self.record.prediction(-1, query).document(), "mask": self.masks.rle(n)}
            for n, query in enumerate(self.queries)
        ]
        return {"kind": "mask", "queries": self._with_maps(queries)}

    def _facts(self, n: int, layer: int, map_: np.ndarray) -> MapFacts:
        return MapFacts.of(map_, self.record, self.record.box_in_input(-1, self.queries[n]), self.masks[n])

    def _map_document(self, entry: AttentionMap) -> dict[str, Any]:
        return {"head": entry.head, **entry.facts.document()}

    def _arrays(self) -> dict[str, np.ndarray]:
        masks = np.stack([self.masks[n] for n in range(len(self.masks))])  # (n, H, W) bool
        return {"mask_attention": self.maps[0], "masks": masks, **self.predictions()}


def cross_attention(
    record: ImageRecord, queries: Sequence[int], layers: Sequence[int], heads: Sequence[Head]
) -> CrossAttention:
    maps, sampled = _maps(record, [record.forward.cross(layer, queries) for layer in layers], heads)
    return CrossAttention(record, queries, layers, heads, maps, sampled=sampled)


def encoder_attention(
    record: ImageRecord, points: Sequence[Point], layers: Sequence[int], heads: Sequence[Head]
) -> EncoderAttention:
    """Return the encoder's self-attention of points, in pixels of the image."""
    corners = torch.tensor(points, dtype=torch.float64).reshape(-1, 2).repeat(1, 2)  # (n, 4), boxes without extent
    centers = from_pixels(corners, *record.size, record.placement)[:, :2]  # (n, 2), fractions of the input
    cells = [cell_at(x, y, record.forward.encoder_cells) for x, y in centers.tolist()]
    maps, sampled = _maps(record, [record.forward.encoder(layer, cells) for layer in layers], heads)
    return EncoderAttention(record, (), layers, heads, maps, points, cells, sampled=sampled)


def query_attention(
    record: ImageRecord, queries: Sequence[int], layers: Sequence[int], heads: Sequence[Head]
) -> QueryAttention:
    maps = np.stack([_select_heads(record.forward.among_queries(layer)[0], heads, 0) for layer in layers])
    equal_values = [record.forward.queries_are_alike(layer) for layer in layers]
    return QueryAttention(record, queries, layers, heads, maps, equal_values)


def mask_attention(record: ImageRecord, queries: Sequence[int], heads: str | int) -> MaskAttention:
    """Return the attention of the mask head for queries. A head's map is its share of the attention of all heads."""
    masks = record.masks
    if not isinstance(masks, QueryMasks) or masks.weights is None:
        raise UsageError("This model has no mask head whose attention can be shown.")
    segmentation = record.detector.segmentation
    assert isinstance(segmentation, DETRSegmentation)
    selected = select_heads(heads, masks.heads)
    numbers = torch.tensor(queries, device=record.pixels.device)
    with torch.inference_mode(), exact_float32():
        attention = masks.attention(torch.zeros_like(numbers), numbers)  # (n, heads, h, w)
        rows = segmentation.masks_of(masks, 0, numbers, record.size, record.placement)
    maps = _select_heads(attention[None], selected, 2)  # (1, n, heads, h, w)
    maps /= maps.sum((3, 4), keepdims=True).clip(min=np.finfo(np.float32).tiny)
    return MaskAttention(record, queries, [len(record.layers) - 1], selected, maps, rows)


def _maps(
    record: ImageRecord, attentions: Sequence[Attention], heads: Sequence[Head]
) -> tuple[np.ndarray, SampledPoints | None]:
    """Return the maps (L, n, heads, h, w) of the attention of L layers, and the sampled points if it is deformable."""
    maps = np.stack([_select_heads(attention.density()[0], heads, 1) for attention in attentions])
    sampled = [layer for layer in attentions if isinstance(layer, Sampled)]
    if not sampled:
        return maps, None
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
    return maps, SampledPoints(
        points=points_to_image(points, record.size, record.placement),
        weights=np.stack([layer.weights[0, :, kept].float().cpu().numpy() for layer in sampled]),
        references=centers,
    )


def _select_heads(maps: Tensor, heads: Sequence[Head], axis: int) -> np.ndarray:
    """Return some heads along an axis, or the mean of all heads, on the CPU."""
    selected = [maps.mean(axis, keepdim=True) if head == "mean" else maps.narrow(axis, head, 1) for head in heads]
    return torch.cat(selected, axis).float().cpu().numpy()
