"""Attention compared with relevance, and their faithfulness: a query's score as the cells of a map are deleted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from detrcli.boxes import iou
from detrcli.config import Preprocessing
from detrcli.data.masks import Mask
from detrcli.inference.detector import Detector
from detrcli.inspection.attention import AttentionFindings, cross_attention
from detrcli.inspection.maps import MAP_COLUMNS, MapFacts
from detrcli.inspection.record import Head, ImageRecord, QueryPrediction
from detrcli.inspection.relevance import relevance
from detrcli.inspection.tables import Cell, Table
from detrcli.reporter import SILENT, Reporter
from detrcli.structures import Batch
from detrcli.system.devices import exact_float32
from detrcli.system.text import normalize_name

# The share of the cells that is deleted, or inserted, after each step. Maps differ most in the first cells.
SHARES = np.linspace(0, 1, 13) ** 2
BATCH_SIZE = 8
RANDOM_ORDERS = 3
SAME_OBJECT = 0.5  # minimum IoU between a query's box and that of its object's mask

# A query's score after each step as the cells of a map are deleted ("deletion") and inserted ("insertion"), by
# descending weight. For a good map, the area under the first curve is small, and under the second large.
Curves = Mapping[str, np.ndarray]


def area(scores: np.ndarray) -> float:
    """Return the area under a curve over SHARES, in [0, 1]."""
    return float(np.trapezoid(scores, SHARES))


@torch.inference_mode()
def deletion_and_insertion(detector: Detector, pixels: Tensor, query: int, maps: Sequence[np.ndarray]) -> list[Curves]:
    """Return the curves of maps (h, w) of a query in an image (3, H, W).

    The score is that of the class that is most probable in the whole image. Deleted cells get the mean color.
    """

    def scores(images: Tensor) -> Tensor:
        """Class probabilities (B, K) of the query in images (B, 3, H, W)."""
        return detector.scoring.probabilities(detector.model(Batch(images, None)).last.logits[:, query])

    steps = [deletion_steps(torch.from_numpy(map_)) for map_ in maps]  # each (steps, h, w)
    deleted = torch.cat([part for step in steps for part in (step, ~step)]).to(pixels.device)
    label, color = scores(pixels[None])[0].argmax(), mean_color(detector.preprocessing).to(pixels)
    values = torch.cat([scores(delete(pixels, part, color))[:, label] for part in torch.split(deleted, BATCH_SIZE)])
    by_map = values.view(len(maps), 2, len(SHARES)).cpu().numpy()
    return [{"deletion": deletion, "insertion": insertion} for deletion, insertion in by_map]


def mean_color(preprocessing: Preprocessing) -> Tensor:
    """Return the mean color of ImageNet as network input, (3,): 0 where inputs are normalized by it."""
    mean = torch.tensor(Preprocessing().mean)
    return (mean - torch.tensor(preprocessing.mean)) / torch.tensor(preprocessing.std)


def deletion_steps(map_: Tensor) -> Tensor:
    """Return which cells are deleted after each step, (steps, h, w) bool: none at first, all at the end."""
    order = map_.flatten().argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))  # 0 for the cell with the largest weight
    count = torch.from_numpy(SHARES * len(order)).round()
    return (rank < count[:, None]).view(len(SHARES), *map_.shape)


def delete(pixels: Tensor, deleted: Tensor, color: Tensor) -> Tensor:
    """Return an image (3, H, W) with cells (n, h, w) replaced by a color (3,), as (n, 3, H, W)."""
    mask = F.interpolate(deleted[:, None].to(pixels.dtype), pixels.shape[-2:]).bool()  # (n, 1, H, W)
    return torch.where(mask, color[:, None, None], pixels)


def random_maps(cells: tuple[int, int], count: int, seed: int = 0) -> list[np.ndarray]:
    """Return maps that order the cells at random."""
    generator = np.random.default_rng(seed)
    return [generator.permutation(cells[0] * cells[1]).reshape(cells).astype(np.float32) for _ in range(count)]


@dataclass(frozen=True)
class ComparedQuery:
    """The maps of a query, by name."""

    prediction: QueryPrediction
    maps: Mapping[str, np.ndarray]  # (h, w) each: attention, and relevance where the model has dense attention
    facts: Mapping[str, MapFacts]  # of the same maps
    curves: Mapping[str, Curves]  # of the same maps and of random orders, where faithfulness was measured


@dataclass(frozen=True)
class MapComparison(AttentionFindings):
    """Attention of a layer beside relevance through all layers. `maps` is (n, M, h, w), M maps of each query."""

    compared: Sequence[ComparedQuery]  # n queries
    with_masks: bool

    @property
    def measured(self) -> bool:
        return bool(self.compared[0].curves)

    @property
    def table(self) -> Table:
        rows: list[Sequence[Cell]] = []
        facts = 3 + self.with_masks
        for query in self.compared:
            first = (query.prediction.query, query.prediction.name, f"{query.prediction.score:.3f}")
            for name in query.curves or query.facts:
                cells = query.facts[name].cells()[:facts] if name in query.facts else [""] * facts
                areas = (f"{area(scores):.3f}" for scores in query.curves.get(name, {}).values())
                rows.append((*first, name, *cells, *areas))
        measures = ("deletion", "insertion") if self.measured else ()
        return Table("", ("query", "label", "score", "map", *MAP_COLUMNS[:facts], *measures), rows)

    @property
    def remarks(self) -> list[str]:
        if not self.measured:
            return []
        better, other = ("relevance", "attention") if "relevance" in self.compared[0].maps else ("attention", "random")
        pairs = [(query.curves[better], query.curves[other]) for query in self.compared]
        deletion = sum(area(a["deletion"]) < area(b["deletion"]) for a, b in pairs)
        insertion = sum(area(a["insertion"]) > area(b["insertion"]) for a, b in pairs)
        return [
            "Deletion and insertion: area under the score as the cells of the map are deleted (lower is better) and "
            "inserted (higher is better).",
            f"{better.capitalize()} beats {other} for {deletion} of {len(pairs)} queries by deletion, "
            f"for {insertion} by insertion.",
        ]

    def _document(self) -> dict[str, Any]:
        missing, queries = {"in_mask": None} if self.with_masks else {}, []
        for query in self.compared:
            maps: dict[str, Any] = {name: missing | facts.document() for name, facts in query.facts.items()}
            for name, curves in query.curves.items():
                entry = maps.setdefault(name, {})
                for kind, scores in curves.items():
                    entry |= {f"{kind}_area": round(area(scores), 6), kind: scores.round(6).tolist()}
            queries.append({**query.prediction.document(), "maps": maps})
        shares = {"shares_hidden": SHARES.round(6).tolist()} if self.measured else {}
        return {"kind": "relevance", "queries": queries, **shares}

    def _arrays(self) -> dict[str, np.ndarray]:
        by_name = dict(zip(self.compared[0].maps, self.maps.swapaxes(0, 1), strict=True))  # each (n, h, w)
        attention = by_name.pop("attention")[None, :, None]  # (1, n, 1, h, w)
        return {"cross": attention, **by_name, **self.predictions()}


def compare_maps(
    record: ImageRecord,
    queries: Sequence[int],
    layer: int,
    head: Head,
    *,
    measured: bool = False,
    masks: Sequence[Mask] | None = None,
    reporter: Reporter = SILENT,
) -> MapComparison:
    """Compare attention with relevance, query by query; with `measured`, by deletion and insertion too.

    A model without relevance can still be measured: its attention is compared with random orders.
    """
    if not measured:
        record.inspectable.require("relevance")
    with exact_float32():
        maps = {"attention": cross_attention(record, queries, [layer], [head]).maps[0, :, 0]}  # (n, h, w)
        if "relevance" in record.inspectable.abilities:
            maps["relevance"] = relevance(record.detector, record.pixels, queries).cpu().numpy()
    compared = []
    with reporter.progress("measuring queries", len(queries)) as advance:
        for i, query in enumerate(queries):
            of_query = {name: values[i] for name, values in maps.items()}
            prediction, box = record.prediction(-1, query), record.box_in_input(-1, query)
            mask = _mask_of(masks or (), prediction)
            facts = {name: MapFacts.of(map_, record, box, mask) for name, map_ in of_query.items()}
            curves = _curves(record, query, of_query) if measured else {}
            compared.append(ComparedQuery(prediction, of_query, facts, curves))
            advance(1)
    stacked = np.stack(list(maps.values()), axis=1)  # (n, M, h, w)
    return MapComparison(record, queries, [layer], [head], stacked, compared, masks is not None)


def _curves(record: ImageRecord, query: int, maps: Mapping[str, np.ndarray]) -> dict[str, Curves]:
    """Return the curves of maps by name, with the mean of random orders."""
    orders = random_maps(record.forward.cells, RANDOM_ORDERS)
    with exact_float32():
        curves = deletion_and_insertion(record.detector, record.pixels, query, [*maps.values(), *orders])
    random = {kind: np.mean([scores[kind] for scores in curves[len(maps) :]], axis=0) for kind in curves[0]}
    return {**dict(zip(maps, curves, strict=False)), "random": random}


def _mask_of(masks: Sequence[Mask], prediction: QueryPrediction) -> np.ndarray | None:
    """Return the mask of the object that a query detects: of its class, with an IoU of at least SAME_OBJECT."""
    masks = [mask for mask in masks if normalize_name(mask.label) == normalize_name(prediction.label)]
    if not masks:
        return None
    height, width = masks[0].pixels.shape
    box = torch.tensor(prediction.box, dtype=torch.float64).clamp(torch.zeros(4), torch.tensor([width, height] * 2))
    ious = iou(box, torch.from_numpy(np.stack([mask.box for mask in masks])))
    return masks[int(ious.argmax())].pixels if ious.max() >= SAME_OBJECT else None
