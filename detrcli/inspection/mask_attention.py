"""Attention of a mask head: the cells that the masks of queries are made from, and the masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from detrcli.errors import UsageError
from detrcli.inspection.attention import MAP_COLUMNS, AttentionFindings, AttentionMap, MapFacts, select_heads_of
from detrcli.inspection.record import ImageRecord, select_heads
from detrcli.inspection.tables import Cell, Table
from detrcli.model.masks import QueryMasks
from detrcli.run_lengths import MaskRows
from detrcli.segmentation.detr import masks_of_queries
from detrcli.system.devices import exact_float32


@dataclass(frozen=True)
class MaskAttention(AttentionFindings):
    """Attention of the mask head for n queries. Only the last layer has masks, so L is 1."""

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


def mask_attention(record: ImageRecord, queries: Sequence[int], heads: str | int) -> MaskAttention:
    """Return the attention of the mask head for queries. A head's map is its share of the attention of all heads."""
    masks = record.masks
    if not isinstance(masks, QueryMasks) or masks.weights is None:
        raise UsageError("This model has no mask head whose attention can be shown.")
    selected = select_heads(heads, masks.heads)
    numbers = torch.tensor(queries, device=record.pixels.device)
    with torch.inference_mode(), exact_float32():
        attention = masks.attention(torch.zeros_like(numbers), numbers)  # (n, heads, h, w)
        rows = masks_of_queries(masks, 0, numbers, record.size, record.placement)
    maps = select_heads_of(attention[None], selected, 2)  # (1, n, heads, h, w)
    maps /= maps.sum((3, 4), keepdims=True).clip(min=np.finfo(np.float32).tiny)
    return MaskAttention(record, queries, [len(record.layers) - 1], selected, maps, rows)
