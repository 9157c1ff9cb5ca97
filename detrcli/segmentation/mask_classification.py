"""Masks and maps as published with MaskFormer (arXiv 2107.06278): a query predicts a class and a mask, but no box."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detrcli.boxes import masks_to_boxes
from detrcli.errors import NOT_FINITE, DivergedError
from detrcli.losses.scoring import Scoring
from detrcli.resize import Placement
from detrcli.run_lengths import MaskRows, encode
from detrcli.segmentation.maps import PanopticMap, Predicted, Segmentation, SemanticMap
from detrcli.segmentation.published import TOGETHER, confident_queries, first_of_stuff, in_image, segment_of
from detrcli.structures import Classes, Detections


@dataclass(frozen=True)
class MaskClassification(Segmentation):
    """Scores include the mean mask probability, boxes enclose masks, and maps are made of probabilities."""

    side: int | None = None  # masks are enlarged to this square first; None: no enlarging
    threshold: float = 0.5  # queries of panoptic maps score higher than this
    min_probability: float = 0.5  # of a pixel that a query claims
    min_share: float = 0.8  # queries that receive a smaller share of their claimed pixels have no segment

    kinds = ("panoptic", "semantic")

    def with_masks(self, detections: Detections, predicted: Predicted, threshold: float) -> Detections:
        """Multiply scores by the mean probability of the mask's pixels, and leave out empty masks."""
        # A query may have several detections and has one mask.
        queries, indices = np.unique(detections.queries, return_inverse=True)
        counts: list[bytes] = []
        boxes, mask_scores = [np.zeros((0, 4), np.int64)], [np.zeros(0, np.float32)]
        for some in self._chunks(predicted, torch.from_numpy(queries)):
            logits = self._logits(predicted, some)  # (n, h, w)
            inside = logits > 0
            sums = (logits.sigmoid() * inside).flatten(1).sum(1)
            mask_scores.append((sums / (inside.flatten(1).sum(1) + 1e-6)).cpu().numpy())
            whole = Placement.filling(*inside.shape[1:])
            masks = in_image(inside, predicted.size, whole, by_corner=True)  # (n, height, width)
            boxes.append(masks_to_boxes(masks).cpu().numpy())
            counts += [encode(mask) for mask in masks.cpu().numpy()]
        box = np.concatenate(boxes)[indices]
        scores = detections.scores * np.concatenate(mask_scores)[indices]
        kept = np.flatnonzero((scores >= threshold) & (box[:, 2] > box[:, 0]))
        masks_of_all = MaskRows(predicted.size, counts)[indices]
        return replace(detections, boxes=box.astype(np.float32), scores=scores, masks=masks_of_all).part(kept)

    @torch.no_grad()
    def panoptic(
        self, predicted: Predicted, classes: Classes, scoring: Scoring, threshold: float | None = None
    ) -> PanopticMap:
        """Return the segment of every pixel: that of the query with the highest product of score and probability.

        Queries that receive a small share of the pixels they claim have no segment. Queries of the same stuff class
        form a segment, with the score of the first.
        """
        queries = confident_queries(predicted, scoring, self.threshold if threshold is None else threshold)
        if not queries:
            return PanopticMap(np.zeros(predicted.size, dtype=np.int32), [])
        device = predicted.prediction.logits.device
        scores = torch.tensor([query.score for query in queries], device=device)  # (n,)
        chosen = torch.tensor([query.index for query in queries], device=device)
        highest = _Highest(predicted.size, device)
        claimed: list[int] = []
        chunks = zip(self._chunks(predicted, chosen), torch.split(scores, TOGETHER), strict=True)
        for some, some_scores in chunks:
            products = _enlarged(self._logits(predicted, some).sigmoid(), predicted.size)  # (n, height, width)
            products *= some_scores[:, None, None]
            claimed += (products >= self.min_probability).flatten(1).sum(1).tolist()
            highest.add(products)
        owners = highest.owners.cpu().numpy()
        areas = np.bincount(owners.ravel(), minlength=len(queries))
        # In float32 as published, where 4/5 is above 0.8.
        shares = (areas / np.maximum(claimed, 1)).astype(np.float32)
        kept = (areas > 0) & (np.array(claimed) > 0) & (shares.astype(np.float64) > self.min_share)

        survivors = [queries[i] for i in np.flatnonzero(kept)]
        firsts = first_of_stuff(survivors, classes)  # indices into survivors
        id_of = {first: i + 1 for i, first in enumerate(dict.fromkeys(firsts))}
        ids = np.zeros(len(queries), dtype=np.int32)  # of each query's segment
        ids[kept] = [id_of[first] for first in firsts]
        map_ = ids[owners]
        segments = [segment_of(id_, survivors[first], map_ == id_, classes) for first, id_ in id_of.items()]
        return PanopticMap(map_, segments)

    @torch.no_grad()
    def semantic(self, predicted: Predicted, classes: Classes, scoring: Scoring) -> SemanticMap:
        """Return the class of every pixel with the highest sum, over all queries, of class times mask probability."""
        class_probabilities = scoring.probabilities(predicted.prediction.logits[predicted.image])  # (Q, K)
        queries = torch.arange(len(class_probabilities), device=class_probabilities.device)
        mask_probabilities = self._logits(predicted, queries).sigmoid()  # (Q, h, w)
        sums = torch.einsum("bqk,bqhw->bkhw", class_probabilities[None], mask_probabilities[None])[0]  # (K, h, w)
        highest = _Highest(predicted.size, class_probabilities.device)
        for some in torch.split(sums, TOGETHER):
            highest.add(_enlarged(some, predicted.size))
        return SemanticMap.of(highest.owners.cpu().numpy(), classes)

    def _chunks(self, predicted: Predicted, queries: Tensor) -> Iterator[Tensor]:
        """Split queries, because masks at the image's size take much memory."""
        if len(queries):
            yield from torch.split(queries.to(predicted.prediction.logits.device), TOGETHER)

    def _logits(self, predicted: Predicted, queries: Tensor) -> Tensor:
        """Return the mask logits (n, h, w) of some queries."""
        logits = predicted.masks(torch.full_like(queries, predicted.image), queries)
        if not logits.isfinite().all():  # otherwise a mask of NaN would count as empty
            raise DivergedError(NOT_FINITE)
        return logits if self.side is None else _enlarged(logits, (self.side, self.side))


class _Highest:
    """The index of the highest of many maps at every pixel, the first of equal ones, computed map by map."""

    def __init__(self, size: tuple[int, int], device: torch.device) -> None:
        self.values = torch.full(size, -torch.inf, device=device)
        self.owners = torch.zeros(size, dtype=torch.long, device=device)
        self.count = 0

    def add(self, maps: Tensor) -> None:
        """Add maps (n, height, width)."""
        top, indices = maps.max(0)
        higher = top > self.values
        self.values = torch.where(higher, top, self.values)
        self.owners = torch.where(higher, indices + self.count, self.owners)
        self.count += len(maps)


def _enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps (n, h, w) to (n, height, width)."""
    return F.interpolate(maps[None], size=size, mode="bilinear")[0]
