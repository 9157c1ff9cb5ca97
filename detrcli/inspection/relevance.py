"""Relevance of image cells for a query's prediction, compared with attention, and the faithfulness of both.

Relevance implements the rules of Chefer, Gur and Wolf, "Generic Attention-model Explainability" (arXiv 2103.15679), for
an encoder and a decoder. Relevance R measures how much of each token is contained in another: R of cells in cells is
(S, S), of queries in queries (Q, Q), of cells in queries (Q, S). Faithfulness is measured by a query's score as the
cells of a map are deleted and inserted (Petsiuk, Das and Saenko, arXiv 1806.07421).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from detrcli.boxes import iou
from detrcli.config import Preprocessing
from detrcli.data.layouts.coco import Mask
from detrcli.data.preprocessing import collate
from detrcli.inference.detector import Detector
from detrcli.inspection.attention import AttentionFindings, cross_attention
from detrcli.inspection.maps import MAP_COLUMNS, MapFacts
from detrcli.inspection.record import Head, ImageRecord, QueryPrediction
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


def relevance(detector: Detector, pixels: Tensor, queries: Sequence[int]) -> Tensor:
    """Return the relevance of an image (3, H, W) for the best class of each query.

    Maps are (n, h, w) and sum to 1, or are all 0. Raises UsageError for models without dense attention.
    """
    with torch.enable_grad(), detector.inspect().with_gradient() as recorded:
        logits = detector.model(collate([pixels])).last.logits[0]  # (Q, R)
        record = recorded()
    labels = detector.scoring.probabilities(logits.detach()).argmax(-1)  # (Q,)
    weights = [*record.encoder, *(attention for layer in record.decoder for attention in layer)]

    maps = []
    for query in queries:
        gradients = torch.autograd.grad(logits[query, labels[query]], weights, retain_graph=True)
        shares = [positive_share(w[0].detach(), g[0]) for w, g in zip(weights, gradients, strict=True)]
        encoder, decoder = shares[: len(record.encoder)], shares[len(record.encoder) :]
        maps.append(relevance_of_cells(encoder, list(zip(decoder[::2], decoder[1::2], strict=True)))[query])
    rows = torch.stack(maps)  # (n, S)
    return (rows / rows.sum(-1, keepdim=True).clamp(min=1e-30)).view(len(queries), *record.cells)


def positive_share(weights: Tensor, gradient: Tensor) -> Tensor:
    """Return attention (heads, A, S) times its gradient, negative values set to 0, averaged over the heads, (A, S)."""
    return (gradient * weights).clamp(min=0).mean(0)


def relevance_of_cells(encoder: Sequence[Tensor], decoder: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the relevance of cells in queries, (Q, S).

    `encoder` has the share of self-attention of each layer, (S, S); `decoder` has those of self-attention (Q, Q) and
    cross-attention (Q, S).
    """
    _, cross = decoder[0]
    Q, S = cross.shape
    cells = torch.eye(S, device=cross.device)  # at first, each token contains itself
    queries = torch.eye(Q, device=cross.device)
    cells_in_queries = torch.zeros_like(cross)
    for attention in encoder:
        cells = cells + attention @ cells
    normalized_cells = normalize(cells)
    for self_, cross in decoder:
        cells_in_queries = cells_in_queries + self_ @ cells_in_queries
        queries = queries + self_ @ queries
        cells_in_queries = cells_in_queries + normalize(queries).T @ cross @ normalized_cells
    return cells_in_queries


def normalize(relevance: Tensor) -> Tensor:
    """Scale relevance (A, A) so that all other tokens together contribute as much as the token itself."""
    identity = torch.eye(len(relevance), device=relevance.device)
    others = relevance - identity
    total = others.sum(-1, keepdim=True)
    return identity + torch.where(total > 0, others / total, 0)


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
    generator = np.random.default_rng(seed)
    return [generator.permutation(cells[0] * cells[1]).reshape(cells).astype(np.float32) for _ in range(count)]


@dataclass(frozen=True)
class MapComparison(AttentionFindings):
    """Attention of a layer beside relevance through all layers. `maps` is (n, M, h, w), M maps of each query."""

    names: Sequence[str]  # of the maps: attention, and relevance where the model has dense attention
    facts: Sequence[Mapping[str, MapFacts]]  # of the maps of each query, by name
    curves: Sequence[Mapping[str, Curves]]  # of the maps of each query and random orders; empty if not measured
    with_masks: bool

    @property
    def table(self) -> Table:
        rows: list[Sequence[Cell]] = []
        count = 3 + self.with_masks
        for n, (facts, curves) in enumerate(zip(self.facts, self.curves, strict=True)):
            prediction = self.record.prediction(-1, self.queries[n])
            for name in curves or facts:
                cells = facts[name].cells()[:count] if name in facts else [""] * count
                areas = (f"{area(scores):.3f}" for scores in curves.get(name, {}).values())
                rows.append((prediction.query, prediction.name, f"{prediction.score:.3f}", name, *cells, *areas))
        measures = ("deletion", "insertion") if self.curves[0] else ()
        return Table("", ("query", "label", "score", "map", *MAP_COLUMNS[:count], *measures), rows)

    @property
    def remarks(self) -> list[str]:
        if not self.curves[0]:
            return []
        better, other = ("relevance", "attention") if "relevance" in self.names else ("attention", "random")
        pairs = [(curves[better], curves[other]) for curves in self.curves]
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
        for query, facts, of_query in zip(self.queries, self.facts, self.curves, strict=True):
            maps: dict[str, Any] = {name: missing | facts[name].document() for name in facts}
            for name, curves in of_query.items():
                entry = maps.setdefault(name, {})
                for kind, scores in curves.items():
                    entry |= {f"{kind}_area": round(area(scores), 6), kind: scores.round(6).tolist()}
            queries.append({**self.record.prediction(-1, query).document(), "maps": maps})
        shares = {"shares_hidden": SHARES.round(6).tolist()} if self.curves[0] else {}
        return {"kind": "relevance", "queries": queries, **shares}

    def _arrays(self) -> dict[str, np.ndarray]:
        by_name = dict(zip(self.names, self.maps.swapaxes(0, 1), strict=True))  # each (n, h, w)
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
    all_facts, all_curves = [], []
    with reporter.progress("measuring queries", len(queries)) as advance:
        for i, query in enumerate(queries):
            of_query = {name: values[i] for name, values in maps.items()}
            box, mask = record.box_in_input(-1, query), _mask_of(masks or (), record.prediction(-1, query))
            all_facts.append({name: MapFacts.of(map_, record, box, mask) for name, map_ in of_query.items()})
            all_curves.append(_curves(record, query, of_query) if measured else {})
            advance(1)
    stacked = np.stack(list(maps.values()), axis=1)  # (n, M, h, w)
    with_masks = masks is not None
    return MapComparison(record, queries, [layer], [head], stacked, list(maps), all_facts, all_curves, with_masks)


def _curves(record: ImageRecord, query: int, maps: Mapping[str, np.ndarray]) -> dict[str, Curves]:
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
