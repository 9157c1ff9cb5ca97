"""Masks and maps as published with EoMT (arXiv 2503.19108): a query has its best class and a mask of pixels."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from detrcli.losses.scoring import Scoring
from detrcli.segmentation.detr import CHUNK, confident_queries
from detrcli.segmentation.maps import ImagePrediction, PanopticMap, SemanticMap
from detrcli.segmentation.mask_classification import (
    MIN_PROBABILITY,
    MIN_SHARE,
    MaskClassification,
    argmax,
    resize_maps,
    segments_map,
)
from detrcli.structures import Classes

THRESHOLD = 0.8  # queries of panoptic maps score higher than this


class EncoderMasks(MaskClassification):
    """Mask logits are resized to the input and, without its padding, to the image before anything is computed."""

    resizing = ("input", "image")

    def mask_logits(self, predicted: ImagePrediction, queries: Tensor) -> Iterator[Tensor]:
        """Yield the mask logits (n, height, width) of at most CHUNK queries at a time, at the size of the image."""
        for logits in super().mask_logits(predicted, queries):
            yield resize_maps(_without_padding(_at_input(logits, predicted), predicted), predicted.size)

    @torch.no_grad()
    def panoptic(
        self, predicted: ImagePrediction, classes: Classes, scoring: Scoring, threshold: float | None = None
    ) -> PanopticMap:
        """Return the segment of every pixel: that of the query with the highest product of score and probability.

        The query's own probability must be a half at least. Queries that receive a small share of the pixels with
        this probability have no segment.
        """
        queries = confident_queries(predicted, scoring, THRESHOLD if threshold is None else threshold)
        if not queries:
            return PanopticMap(np.zeros(predicted.size, dtype=np.int32), [])
        device = predicted.prediction.logits.device
        scores = torch.tensor([query.score for query in queries], device=device)  # (n,)
        chosen = torch.tensor([query.index for query in queries], device=device)
        claims: list[Tensor] = []  # (n, height, width) bool, filled while `argmax` consumes the products

        def products() -> Iterator[Tensor]:
            for logits, chunk in zip(self.mask_logits(predicted, chosen), torch.split(scores, CHUNK), strict=True):
                probabilities = logits.sigmoid()
                claims.append(probabilities >= MIN_PROBABILITY)
                yield probabilities * chunk[:, None, None]

        best = argmax(products())  # (height, width)
        claimed = torch.cat(claims).cpu().numpy()
        sure = np.take_along_axis(claimed, best[None], 0)[0]  # whether the best query claims the pixel
        areas, own = (np.bincount(pixels, minlength=len(queries)) for pixels in (best.ravel(), best[sure]))
        totals = claimed.sum((1, 2))
        # Rounded to float32 as published, in which 4/5 is above 0.8.
        shares = (areas / np.maximum(totals, 1)).astype(np.float32)
        kept = (own > 0) & (shares.astype(np.float64) > MIN_SHARE)
        return segments_map(queries, kept, np.where(sure, best, -1), classes)

    @torch.no_grad()
    def semantic(self, predicted: ImagePrediction, classes: Classes, scoring: Scoring) -> SemanticMap:
        """Return the class of every pixel with the highest sum, over all queries, of class times mask probability."""
        probabilities = scoring.probabilities(predicted.prediction.logits[predicted.image])  # (Q, K)
        chunks = super().mask_logits(predicted, torch.arange(len(probabilities)))
        masks = torch.cat([_at_input(logits, predicted) for logits in chunks]).sigmoid()  # (Q, H, W)
        sums = torch.einsum("bqc,bqhw->bchw", probabilities[None], masks[None])[0]  # (K, H, W)
        inside = _without_padding(sums, predicted)
        return SemanticMap.of(
            argmax(resize_maps(chunk, predicted.size) for chunk in torch.split(inside, CHUNK)), classes
        )


def _at_input(logits: Tensor, predicted: ImagePrediction) -> Tensor:
    """Resize logits (n, h, w) to the network's input."""
    return resize_maps(logits, (predicted.placement.height, predicted.placement.width))


def _without_padding(maps: Tensor, predicted: ImagePrediction) -> Tensor:
    height, width = predicted.placement.image_size
    return maps[:, :height, :width]
