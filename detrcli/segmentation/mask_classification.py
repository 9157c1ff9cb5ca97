"""Masks and maps as published with MaskFormer (arXiv 2107.06278): a query predicts a class and a mask, but no box."""

from collections.abc import Iterable, Iterator, Sequence
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
from detrcli.segmentation.detr import CHUNK, ConfidentQuery, confident_queries, first_of_stuff, input_pixels, segment_of
from detrcli.segmentation.maps import ImagePrediction, PanopticMap, Segmentation, SemanticMap
from detrcli.structures import Classes, Detections

THRESHOLD = 0.5  # queries of panoptic maps score higher than this
MIN_PROBABILITY = 0.5  # of a pixel that a query claims
MIN_SHARE = 0.8  # a query has a segment if it receives more than this share of the pixels it claims


@dataclass(frozen=True)
class MaskClassification(Segmentation):
    """Scores include the mean mask probability, boxes enclose masks, and maps are computed from probabilities."""

    side: int | None = None  # masks are resized to a square of this side first, if given

    kinds = ("panoptic", "semantic")
    boxes_around_masks = True

    @property
    def resizing(self) -> Sequence[str | Sequence[int]]:
        return [] if self.side is None else [(self.side, self.side)]

    def with_masks(self, detections: Detections, predicted: ImagePrediction, threshold: float) -> Detections:
        """Multiply scores by the mean probability of the mask's pixels, and remove detections with empty masks."""
        # A query has a single mask, also with several detections.
        queries, indices = np.unique(detections.queries, return_inverse=True)
        counts: list[bytes] = []
        boxes, mask_scores = [np.zeros((0, 4), np.int64)], [np.zeros(0, np.float32)]
        for logits in self.mask_logits(predicted, torch.from_numpy(queries)):  # (n, h, w)
            inside = logits > 0
            sums = (logits.sigmoid() * inside).flatten(1).sum(1)
            mask_scores.append((sums / (inside.flatten(1).sum(1) + 1e-6)).cpu().numpy())
            rows, columns = input_pixels(predicted.size, Placement.filling(*inside.shape[1:]), 0.0)
            masks = inside[:, rows, columns]  # (n, height, width)
            boxes.append(masks_to_boxes(masks).cpu().numpy())
            counts += [encode(mask) for mask in masks.cpu().numpy()]
        xyxy = np.concatenate(boxes)[indices]
        scores = detections.scores * np.concatenate(mask_scores)[indices]
        kept = np.flatnonzero((scores >= threshold) & (xyxy[:, 2] > xyxy[:, 0]))
        all_masks = MaskRows(predicted.size, counts)[indices]
        return replace(detections, boxes=xyxy.astype(np.float32), scores=scores, masks=all_masks).part(kept)

    @torch.no_grad()
    def panoptic(
        self, predicted: ImagePrediction, classes: Classes, scoring: Scoring, threshold: float | None = None
    ) -> PanopticMap:
        """Return the segment of every pixel: that of the query with the highest product of score and probability.

        Queries that receive a small share of the pixels they claim have no segment. Queries of the same stuff class
        form a segment, with the score of the first.
        """
        queries = confident_queries(predicted, scoring, THRESHOLD if threshold is None else threshold)
        if not queries:
            return PanopticMap(np.zeros(predicted.size, dtype=np.int32), [])
        device = predicted.prediction.logits.device
        scores = torch.tensor([query.score for query in queries], device=device)  # (n,)
        chosen = torch.tensor([query.index for query in queries], device=device)
        claimed: list[int] = []  # pixels of each query, filled while `_argmax` consumes the products

        def products() -> Iterator[Tensor]:
            for logits, chunk_scores in zip(
                self.mask_logits(predicted, chosen), torch.split(scores, CHUNK), strict=True
            ):
                product = resize_maps(logits.sigmoid(), predicted.size).mul_(chunk_scores[:, None, None])
                claimed.extend((product >= MIN_PROBABILITY).flatten(1).sum(1).tolist())
                yield product  # (n, height, width)

        best = argmax(products())
        areas = np.bincount(best.ravel(), minlength=len(queries))
        # Rounded to float32 as published, in which 4/5 is above 0.8.
        shares = (areas / np.maximum(claimed, 1)).astype(np.float32)
        kept = (areas > 0) & (np.array(claimed) > 0) & (shares.astype(np.float64) > MIN_SHARE)

        return segments_map(queries, kept, best, classes)

    @torch.no_grad()
    def semantic(self, predicted: ImagePrediction, classes: Classes, scoring: Scoring) -> SemanticMap:
        """Return the class of every pixel with the highest sum, over all queries, of class times mask probability."""
        class_probabilities = scoring.probabilities(predicted.prediction.logits[predicted.image])  # (Q, K)
        logits = torch.cat(list(self.mask_logits(predicted, torch.arange(len(class_probabilities)))))  # (Q, h, w)
        sums = torch.einsum("bqk,bqhw->bkhw", class_probabilities[None], logits.sigmoid()[None])[0]  # (K, h, w)
        return SemanticMap.of(argmax(resize_maps(chunk, predicted.size) for chunk in torch.split(sums, CHUNK)), classes)

    def mask_logits(self, predicted: ImagePrediction, queries: Tensor) -> Iterator[Tensor]:
        """Yield the mask logits (n, h, w) of at most CHUNK queries at a time."""
        queries = queries.to(predicted.prediction.logits.device)
        for chunk in torch.split(queries, CHUNK) if len(queries) else ():
            logits = predicted.masks(torch.full_like(chunk, predicted.image), chunk)
            if not logits.isfinite().all():  # otherwise a mask of NaN would count as empty
                raise DivergedError(NOT_FINITE)
            yield logits if self.side is None else resize_maps(logits, (self.side, self.side))


def segments_map(
    queries: Sequence[ConfidentQuery], kept: np.ndarray, best: np.ndarray, classes: Classes
) -> PanopticMap:
    """Return the map of the kept queries, (n,) bool, from the index of the best query at every pixel.

    Pixels of other queries, and those with an index of -1, have no segment.
    """
    remaining = [queries[i] for i in np.flatnonzero(kept).tolist()]
    firsts = first_of_stuff(remaining, classes)  # indices into `remaining`
    id_of = {first: i + 1 for i, first in enumerate(dict.fromkeys(firsts))}
    ids = np.zeros(len(queries) + 1, dtype=np.int32)  # of each query's segment
    ids[:-1][kept] = [id_of[first] for first in firsts]
    map_ = ids[best]
    segments = [segment_of(id_, remaining[first], map_ == id_, classes) for first, id_ in id_of.items()]
    return PanopticMap(map_, segments)


def argmax(chunks: Iterable[Tensor]) -> np.ndarray:
    """Return the index of the highest map at every pixel, the first of equal maps, from chunks (n, height, width)."""
    values, indices, count = torch.tensor(-torch.inf), torch.tensor(0), 0
    for maps in chunks:
        top, index = maps.max(0)
        higher = top > values
        values, indices = torch.where(higher, top, values), torch.where(higher, index + count, indices)
        count += len(maps)
    return indices.cpu().numpy()  # (height, width)


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps (n, h, w) to (n, height, width)."""
    return F.interpolate(maps[None], size=size, mode="bilinear")[0]
