"""Where queries and cells of a picture look: maps, with what there is to say of each."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detrcli.boxes import to_pixels
from detrcli.inspection.choices import Head
from detrcli.inspection.look import PictureRecord, QueryPrediction
from detrcli.inspection.maps import Point, box_coverage, brightest, cell_at, to_input, to_picture
from detrcli.inspection.tables import Cell
from detrcli.model.inspectable import Attention, Sampled

MOST_LOOKED_AT = 5  # queries that are named


@dataclass(frozen=True)
class MapFact:
    """What there is to say of a map."""

    brightest: Point  # the centre of its brightest cell, in pixels of the picture
    most: float  # the share of the weight that lies on that cell
    in_box: float | None = None  # that lies in the query's box
    in_mask: float | None = None  # that lies in the mask of its object

    @classmethod
    def of(cls, map_: np.ndarray, record: PictureRecord, box: np.ndarray | None = None) -> "MapFact":
        """Of a map (h, w), and of a box x0, y0, x1, y1 in [0, 1] of the network's input."""
        x, y = to_picture(np.array(brightest(map_)), record.size, record.placement).tolist()
        inside = None if box is None else round(float((map_ * box_coverage(box, map_.shape)).sum()), 6)
        return cls((round(x, 1), round(y, 1)), round(float(map_.max()), 6), inside)

    def document(self) -> dict[str, Any]:
        """In plain values."""
        fields: dict[str, Any] = {"brightest": list(self.brightest), "most": self.most}
        return fields if self.in_box is None else {**fields, "in_box": self.in_box}

    def cells(self) -> list[str]:
        """For a table."""
        x, y = self.brightest
        inside = [] if self.in_box is None else [f"{100 * self.in_box:.0f}%"]
        return [f"{x:.0f},{y:.0f}", f"{100 * self.most:.1f}%", *inside]


@dataclass(frozen=True)
class SampledPoints:
    """Where attention by sampled points has taken its samples, in L layers, in pixels of the picture."""

    points: np.ndarray  # (L, n, heads, levels, points, 2), x and y; the mean of the heads has the points of all
    weights: np.ndarray  # (L, n, heads, levels, points), summing to 1 over levels and points of a head
    references: np.ndarray  # (L, n, 2 or 4), cx, cy, and w, h where it is a box
    of_mean: bool  # whether maps are the mean of the heads

    def arrays(self) -> dict[str, np.ndarray]:
        """By name."""
        return {"points": self.points, "weights": self.weights, "references": self.references}


class AttentionFindings(ABC):
    """One kind of attention in a picture, in all the forms it is shown in."""

    record: PictureRecord
    layers: Sequence[int]
    heads: Sequence[Head]
    maps: np.ndarray
    sampled: SampledPoints | None = None  # where attention is by sampled points; maps are then their density

    @property
    @abstractmethod
    def columns(self) -> Sequence[str]:
        """Of the table."""

    @property
    @abstractmethod
    def rows(self) -> Sequence[Sequence[Cell]]:
        """Of the table."""

    @property
    @abstractmethod
    def document(self) -> dict[str, Any]:
        """For JSON."""

    @property
    @abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """For an .npz."""

    @property
    def remarks(self) -> Sequence[str]:
        """What stands below the table."""
        return ()

    def each(self) -> Iterator[tuple[int, int, int, Head]]:
        """Every layer and head, after their places."""
        for i, layer in enumerate(self.layers):
            for j, head in enumerate(self.heads):
                yield i, j, layer, head


@dataclass(frozen=True)
class QueryMap:
    """A map of a query, in one layer and head."""

    layer: int
    head: Head
    map: np.ndarray  # (h, w)
    prediction: QueryPrediction  # of this layer
    last: QueryPrediction  # of the last layer
    fact: MapFact


@dataclass(frozen=True)
class CrossAttention(AttentionFindings):
    """Where n queries look in the picture: the decoder's cross-attention."""

    record: PictureRecord
    queries: Sequence[int]
    layers: Sequence[int]
    heads: Sequence[Head]
    maps: np.ndarray  # (L, n, heads, h, w)
    sampled: SampledPoints | None

    @property
    def columns(self) -> tuple[str, ...]:
        return ("query", "label", "score", "layer", "head", "most at", "in a cell", "in its box")

    @property
    def entries(self) -> list[QueryMap]:
        """All maps, query by query."""
        record = self.record
        return [
            QueryMap(
                layer=layer,
                head=head,
                map=self.maps[i, n, j],
                prediction=record.prediction(layer, query),
                last=record.prediction(-1, query),
                fact=MapFact.of(self.maps[i, n, j], record, record.box_in_input(layer, query)),
            )
            for n, query in enumerate(self.queries)
            for i, j, layer, head in self.each()
        ]

    @property
    def rows(self) -> list[tuple[Cell, ...]]:
        return [
            (
                one.prediction.query,
                one.prediction.name,
                f"{one.prediction.score:.3f}",
                one.layer,
                head_name(one.head),
                *one.fact.cells(),
            )
            for one in self.entries
        ]

    @property
    def document(self) -> dict[str, Any]:
        queries: dict[int, dict[str, Any]] = {}
        for one in self.entries:
            entry = queries.setdefault(one.last.query, {**one.last.document(), "maps": []})
            fact = {"layer": one.layer, "head": _head(one.head), **one.fact.document()}
            if len(self.layers) > 1:  # what the layer itself predicts
                predicted = one.prediction.document()
                fact |= {key: predicted[key] for key in ("label", "score", "nothing", "box")}
            entry["maps"].append(fact)
        return {"kind": "decoder", "queries": list(queries.values())}

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        sampled = {} if self.sampled is None else self.sampled.arrays()
        return {"cross": self.maps, **sampled, **of_queries(self.record, self.queries)}


@dataclass(frozen=True)
class PointMap:
    """A map of a place in the picture, in one layer and head."""

    number: int
    point: Point
    layer: int
    head: Head
    map: np.ndarray  # (h, w)
    fact: MapFact


@dataclass(frozen=True)
class EncoderAttention(AttentionFindings):
    """Where places of the picture look in it: the encoder's self-attention."""

    record: PictureRecord
    points: Sequence[Point]  # in pixels of the picture
    cells: Sequence[int]  # where they are, counted row by row
    layers: Sequence[int]
    heads: Sequence[Head]
    maps: np.ndarray  # (L, n, heads, h, w)
    sampled: SampledPoints | None

    @property
    def columns(self) -> tuple[str, ...]:
        return ("point", "layer", "head", "most at", "in a cell")

    @property
    def entries(self) -> list[PointMap]:
        """All maps, point by point."""
        return [
            PointMap(n, point, layer, head, self.maps[i, n, j], MapFact.of(self.maps[i, n, j], self.record))
            for n, point in enumerate(self.points)
            for i, j, layer, head in self.each()
        ]

    @property
    def rows(self) -> list[tuple[Cell, ...]]:
        return [
            (f"{one.point[0]:g},{one.point[1]:g}", one.layer, head_name(one.head), *one.fact.cells())
            for one in self.entries
        ]

    @property
    def document(self) -> dict[str, Any]:
        points: list[dict[str, Any]] = [
            {"point": list(point), "cell": cell, "maps": []}
            for point, cell in zip(self.points, self.cells, strict=True)
        ]
        for one in self.entries:
            fact = {"layer": one.layer, "head": _head(one.head), **one.fact.document()}
            points[one.number]["maps"].append(fact)
        return {"kind": "encoder", "points": points}

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        asked = np.array(self.points, dtype=np.float32)
        if self.sampled is None:
            return {"encoder": self.maps, "points": asked}
        return {"encoder": self.maps, "asked_points": asked, **self.sampled.arrays()}


@dataclass(frozen=True)
class QueryAttention(AttentionFindings):
    """Which of Q queries look at which: the decoder's self-attention."""

    record: PictureRecord
    queries: Sequence[int]  # that are shown
    layers: Sequence[int]
    heads: Sequence[Head]
    maps: np.ndarray  # (L, heads, Q, Q), the looking one first
    alike: Sequence[bool]  # of each layer: all queries have the same to give, so that nothing comes of it

    @property
    def columns(self) -> tuple[str, ...]:
        return ("query", "label", "layer", "head", "looks most at queries")

    @property
    def document(self) -> dict[str, Any]:
        return {
            "kind": "self",
            "pairs": [
                {
                    "layer": layer,
                    "head": _head(head),
                    "query": query,
                    "effect": not self.alike[i],
                    "at": [{"query": other, "share": round(float(shares[other]), 6)} for other in _most(shares)],
                }
                for i, j, layer, head in self.each()
                for query in self.queries
                for shares in [self.maps[i, j, query]]
            ],
        }

    @property
    def rows(self) -> list[tuple[Cell, ...]]:
        return [
            (query, self.record.prediction(-1, query).name, layer, head_name(head), _looks_at(query, shares))
            for i, j, layer, head in self.each()
            for query in self.queries
            for shares in [self.maps[i, j, query]]
        ]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return {"self": self.maps, "queries": np.array(self.queries)}

    @property
    def remarks(self) -> list[str]:
        return [
            f"Layer {layer}: all queries have the same to give there, so who looks at whom has no effect."
            for layer, alike in zip(self.layers, self.alike, strict=True)
            if alike
        ]


def cross_attention(
    record: PictureRecord, queries: Sequence[int], layers: Sequence[int], heads: Sequence[Head]
) -> CrossAttention:
    """Where queries look in the picture."""
    record.inspectable.require("cross-attention")
    seen = [record.forward.cross(layer, queries) for layer in layers]
    maps = np.stack([of_heads(one.density()[0], heads, 1) for one in seen])  # (L, n, heads, h, w)
    return CrossAttention(record, queries, layers, heads, maps, _sampled(record, seen, heads))


def encoder_attention(
    record: PictureRecord, points: Sequence[Point], layers: Sequence[int], heads: Sequence[Head]
) -> EncoderAttention:
    """Where places, in pixels of the picture, look in it."""
    record.inspectable.require("encoder attention")
    places = to_input(points, record.size, record.placement)  # (n, 2)
    cells = [cell_at(x, y, record.forward.encoder_cells) for x, y in places.tolist()]
    seen = [record.forward.encoder(layer, cells) for layer in layers]
    maps = np.stack([of_heads(one.density()[0], heads, 1) for one in seen])  # (L, n, heads, h, w)
    return EncoderAttention(record, points, cells, layers, heads, maps, _sampled(record, seen, heads))


def query_attention(
    record: PictureRecord, queries: Sequence[int], layers: Sequence[int], heads: Sequence[Head]
) -> QueryAttention:
    """Which queries look at which."""
    record.inspectable.require("query attention")
    maps = [of_heads(record.forward.among_queries(layer)[0], heads, 0) for layer in layers]
    alike = [record.forward.queries_are_alike(layer) for layer in layers]
    return QueryAttention(record, queries, layers, heads, np.stack(maps), alike)


def of_heads(maps: Tensor, heads: Sequence[Head], axis: int) -> np.ndarray:
    """Some heads of what has them along an axis, or the mean of all, on the CPU."""
    kept = [maps.mean(axis, keepdim=True) if head is None else maps.narrow(axis, head, 1) for head in heads]
    return torch.cat(kept, axis).float().cpu().numpy()


def of_queries(record: PictureRecord, queries: Sequence[int]) -> dict[str, np.ndarray]:
    """What the last layer predicts by some queries, as arrays."""
    found = record.last.part(np.array(queries, dtype=np.int64))
    return {"queries": np.array(queries), "boxes": found.boxes, "scores": found.scores, "labels": found.labels}


def head_name(head: Head) -> str:
    """For a table."""
    return str(_head(head))


def _head(head: Head) -> str | int:
    return "mean" if head is None else head


def _most(shares: np.ndarray) -> list[int]:
    """The queries with the largest shares."""
    return [int(other) for other in np.argsort(-shares, kind="stable")[:MOST_LOOKED_AT]]


def _looks_at(query: int, shares: np.ndarray) -> str:
    return ", ".join(f"{'itself' if other == query else other} {100 * shares[other]:.0f}%" for other in _most(shares))


def _sampled(record: PictureRecord, layers: Sequence[Attention], heads: Sequence[Head]) -> SampledPoints | None:
    sampled = [one for one in layers if isinstance(one, Sampled)]
    if not sampled:
        return None
    count = sampled[0].weights.shape[2]
    kept = list(range(count)) if None in heads else [head for head in heads if head is not None]
    points = np.stack([one.points[0, :, kept].float().cpu().numpy() for one in sampled])
    # Some begin with a point and go on with boxes: a point is then a box without extent.
    most = max(one.references.shape[-1] for one in sampled)
    references = torch.stack(  # (L, n, 2 or 4)
        [F.pad(one.references[0].float().cpu(), (0, most - one.references.shape[-1])) for one in sampled]
    )
    centres = to_picture(references[..., :2].numpy(), record.size, record.placement)
    if references.shape[-1] == 4:
        boxes = to_pixels(references, *record.size, record.placement).numpy()
        centres = np.concatenate([centres, boxes[..., 2:] - boxes[..., :2]], -1)
    return SampledPoints(
        points=to_picture(points, record.size, record.placement),
        weights=np.stack([one.weights[0, :, kept].float().cpu().numpy() for one in sampled]),
        references=centres,
        of_mean=None in heads,
    )
