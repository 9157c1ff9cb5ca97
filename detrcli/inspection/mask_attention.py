"""Which cells a mask head goes by, query by query, and the masks that come of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from detrcli.errors import UsageError
from detrcli.inspection.attention import AttentionFindings, MapFact, head_name, of_heads, of_queries
from detrcli.inspection.choices import Head, chosen_heads
from detrcli.inspection.look import PictureRecord, QueryPrediction
from detrcli.inspection.maps import mask_coverage
from detrcli.inspection.tables import Cell
from detrcli.model.masks import QueryMasks
from detrcli.run_lengths import MaskRows
from detrcli.segmentation.published import masks_of_queries
from detrcli.system.devices import exact_float32


@dataclass(frozen=True)
class MaskMap:
    """A map of a query, in one head."""

    head: Head
    map: np.ndarray  # (h, w), summing to 1
    prediction: QueryPrediction
    fact: MapFact


@dataclass(frozen=True)
class MaskAttention(AttentionFindings):
    """Which cells the mask head goes by for n queries."""

    record: PictureRecord
    queries: Sequence[int]
    layers: Sequence[int]  # the last one, which alone has masks
    heads: Sequence[Head]
    maps: np.ndarray  # (1, n, heads, h, w)
    masks: MaskRows  # (n,)

    @property
    def columns(self) -> tuple[str, ...]:
        return ("query", "label", "score", "pixels", "head", "most at", "in a cell", "in its box", "in its mask")

    def entries(self) -> list[tuple[int, MaskMap]]:
        """All maps, query by query, after the query's place."""
        found = []
        for n, query in enumerate(self.queries):
            prediction = self.record.prediction(-1, query)
            box = self.record.box_in_input(-1, query)
            covered = mask_coverage(self.masks[n], self.maps.shape[-2:], self.record.placement)
            for j, head in enumerate(self.heads):
                map_ = self.maps[0, n, j]
                fact = MapFact.of(map_, self.record, box)
                fact = replace(fact, in_mask=round(float((map_ * covered).sum()), 6))
                found.append((n, MaskMap(head, map_, prediction, fact)))
        return found

    @property
    def rows(self) -> list[tuple[Cell, ...]]:
        return [
            (
                one.prediction.query,
                one.prediction.name,
                f"{one.prediction.score:.3f}",
                int(self.masks[n].sum()),
                head_name(one.head),
                *one.fact.cells(),
                f"{100 * (one.fact.in_mask or 0):.0f}%",
            )
            for n, one in self.entries()
        ]

    @property
    def document(self) -> dict[str, Any]:
        queries: list[dict[str, Any]] = [
            {**self.record.prediction(-1, query).document(), "mask": self.masks.rle(n), "maps": []}
            for n, query in enumerate(self.queries)
        ]
        for n, one in self.entries():
            head = "mean" if one.head is None else one.head
            fact = {**one.fact.document(), "in_mask": one.fact.in_mask}
            queries[n]["maps"].append({"head": head, **fact})
        return {"kind": "mask", "queries": queries}

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        masks = np.stack([self.masks[n] for n in range(len(self.masks))])  # (n, H, W) bool
        return {"mask_attention": self.maps[0], "masks": masks, **of_queries(self.record, self.queries)}


def mask_attention(record: PictureRecord, queries: Sequence[int], heads: str | int) -> MaskAttention:
    """Which cells the mask head goes by for some queries. A head's map is its share of all heads' together."""
    masks = record.masks
    if not isinstance(masks, QueryMasks) or masks.weights is None:
        raise UsageError("This model has no mask head to look into.")
    chosen = chosen_heads(heads, masks.heads)
    asked = torch.tensor(queries, device=record.pixels.device)
    with torch.inference_mode(), exact_float32():
        maps = masks.attention(torch.zeros_like(asked), asked)  # (n, heads, h, w)
        found = masks_of_queries(masks, 0, asked, record.size, record.placement)
    shown = of_heads(maps[None], chosen, 2)  # (1, n, heads, h, w)
    shown /= shown.sum((3, 4), keepdims=True).clip(min=np.finfo(np.float32).tiny)
    return MaskAttention(record, queries, [len(record.layers) - 1], chosen, shown, found)
