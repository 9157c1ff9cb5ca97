"""Raw attention beside relevance, and which of the two can be believed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from detrcli.data.masks import Mask
from detrcli.inspection.attention import AttentionFindings, MapFact, cross_attention, of_queries
from detrcli.inspection.choices import Head
from detrcli.inspection.faithfulness import RANDOM, SHARES, Curves, curves, mean, random_maps
from detrcli.inspection.look import PictureRecord, QueryPrediction
from detrcli.inspection.maps import iou, mask_coverage
from detrcli.inspection.relevance import relevance
from detrcli.inspection.tables import Cell
from detrcli.system.devices import exact_float32
from detrcli.system.text import normalize_name

SAME = 0.5  # IoU from which on a query's box and a mask mean the same object


@dataclass(frozen=True)
class ComparedQuery:
    """The maps of one query, by name."""

    prediction: QueryPrediction
    maps: Mapping[str, np.ndarray]  # (h, w) each: attention, and relevance where the model allows it
    facts: Mapping[str, MapFact]  # of the same
    curves: Mapping[str, Curves]  # of the same and of random orders, where they were measured


@dataclass(frozen=True)
class MapComparison(AttentionFindings):
    """Attention of a layer beside relevance through all layers, of n queries; measured by hiding where asked."""

    record: PictureRecord
    layers: Sequence[int]  # one
    heads: Sequence[Head]  # one, or the mean
    maps: np.ndarray  # (n, M, h, w), M maps of each query
    queries: Sequence[ComparedQuery]
    with_masks: bool

    @property
    def measured(self) -> bool:
        """Whether cells were hidden."""
        return any(one.curves for one in self.queries)

    @property
    def columns(self) -> list[str]:
        columns = ["query", "label", "score", "map", "most at", "in a cell", "in its box"]
        columns += ["in its mask"] if self.with_masks else []
        return columns + (["deletion", "insertion"] if self.measured else [])

    @property
    def rows(self) -> list[tuple[Cell, ...]]:
        rows: list[tuple[Cell, ...]] = []
        for one in self.queries:
            prediction = one.prediction
            for name in dict.fromkeys([*one.facts, *one.curves]):
                row = one.facts[name].cells() if name in one.facts else ["", "", ""]
                if self.with_masks:
                    inside = one.facts[name].in_mask if name in one.facts else None
                    row.append("" if inside is None else f"{100 * inside:.0f}%")
                if self.measured:
                    row += [f"{one.curves[name].deletion_area:.3f}", f"{one.curves[name].insertion_area:.3f}"]
                rows.append((prediction.query, prediction.name, f"{prediction.score:.3f}", name, *row))
        return rows

    @property
    def document(self) -> dict[str, Any]:
        shares = {"shares_hidden": SHARES.round(6).tolist()} if self.measured else {}
        return {"kind": "relevance", "queries": [self._entry(one) for one in self.queries], **shares}

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        stacks = {
            name: np.stack([one.maps[name] for one in self.queries]) for name in self.queries[0].maps
        }  # each (n, h, w)
        attention = stacks.pop("attention")[None, :, None]  # (1, n, 1, h, w)
        numbers = [one.prediction.query for one in self.queries]
        return {"cross": attention, **stacks, **of_queries(self.record, numbers)}

    @property
    def remarks(self) -> list[str]:
        if not self.measured:
            return []
        remarks = [
            "Deletion is the area under the score as the map's cells go: small is good. Insertion: as they come, "
            "large is good."
        ]
        better, than = ("relevance", "attention") if "relevance" in self.queries[0].maps else ("attention", "random")
        deletion = sum(one.curves[better].deletion_area < one.curves[than].deletion_area for one in self.queries)
        insertion = sum(one.curves[better].insertion_area > one.curves[than].insertion_area for one in self.queries)
        remarks.append(
            f"{better.capitalize()} beats {than} for {deletion} of {len(self.queries)} by deletion, "
            f"for {insertion} by insertion."
        )
        return remarks

    def _entry(self, one: ComparedQuery) -> dict[str, Any]:
        maps: dict[str, Any] = {}
        for name, fact in one.facts.items():
            maps[name] = fact.document() | ({"in_mask": fact.in_mask} if self.with_masks else {})
        for name, curve in one.curves.items():
            maps.setdefault(name, {}).update(
                deletion_area=round(curve.deletion_area, 6),
                insertion_area=round(curve.insertion_area, 6),
                deletion=curve.deletion.round(6).tolist(),
                insertion=curve.insertion.round(6).tolist(),
            )
        return {**one.prediction.document(), "maps": maps}


def compare_maps(
    record: PictureRecord,
    queries: Sequence[int],
    layer: int,
    head: Head,
    *,
    measured: bool = False,
    masks: Sequence[Mask] | None = None,
    advance: Callable[[], None] = lambda: None,
) -> MapComparison:
    """Attention beside relevance, query by query; `advance` is called after each.

    A model without relevance to show can still be measured: its attention then, beside random orders.
    """
    if not measured:
        record.inspectable.require("relevance")
    with exact_float32():
        by_name = {"attention": cross_attention(record, queries, [layer], [head]).maps[0, :, 0]}  # (n, h, w)
        if "relevance" in record.inspectable.abilities:
            by_name["relevance"] = relevance(record.detector, record.pixels, queries).cpu().numpy()
    compared = []
    for i, query in enumerate(queries):
        own = {name: of_all[i] for name, of_all in by_name.items()}
        compared.append(_compared(record, query, own, measured=measured, masks=masks))
        advance()
    maps = np.stack(list(by_name.values()), axis=1)  # (n, M, h, w)
    return MapComparison(record, [layer], [head], maps, compared, masks is not None)


def _compared(
    record: PictureRecord, query: int, maps: Mapping[str, np.ndarray], *, measured: bool, masks: Sequence[Mask] | None
) -> ComparedQuery:
    prediction = record.prediction(-1, query)
    found: dict[str, Curves] = {}
    if measured:
        chance = random_maps(record.forward.cells, RANDOM)
        with exact_float32():
            each = curves(record.detector, record.pixels, query, [*maps.values(), *chance])
        found = {**dict(zip(maps, each, strict=False)), "random": mean(each[len(maps) :])}
    box = record.box_in_input(-1, query)
    facts = {name: MapFact.of(map_, record, box) for name, map_ in maps.items()}
    if mask := _mask_of(masks or (), prediction):
        facts = {name: replace(fact, in_mask=_inside(maps[name], mask, record)) for name, fact in facts.items()}
    return ComparedQuery(prediction, maps, facts, found)


def _inside(map_: np.ndarray, mask: Mask, record: PictureRecord) -> float:
    return round(float((map_ * mask_coverage(mask.pixels, map_.shape, record.placement)).sum()), 6)


def _mask_of(masks: Sequence[Mask], prediction: QueryPrediction) -> Mask | None:
    """The object that a query found: of its class, and where its box is, as far as that is in the picture."""
    same = [mask for mask in masks if normalize_name(mask.label) == normalize_name(prediction.label)]
    fits = [iou(mask.box, np.clip(prediction.box, 0, [*mask.pixels.shape[::-1]] * 2)) for mask in same]
    return same[int(np.argmax(fits))] if max(fits, default=0) >= SAME else None
