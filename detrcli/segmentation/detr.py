"""Masks and panoptic maps as published with DETR: every pixel goes to the query with the highest mask logit.

H and W are the network's input, height and width the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detrcli.losses.scoring import NO_OBJECT, Scoring
from detrcli.resize import Placement
from detrcli.run_lengths import MaskRows, box_around, encode
from detrcli.segmentation.maps import ImagePrediction, PanopticMap, Segment, Segmentation, is_thing
from detrcli.structures import Classes, Detections, Masks

MIN_AREA = 5  # pixels of a segment
NO_QUERY = -1  # the query of a pixel without a segment
CHUNK = 8  # masks in memory at full size at a time


class DETRSegmentation(Segmentation):
    """Masks are the pixels with positive logits; boxes and scores come from their heads."""

    kinds = ("panoptic",)
    resizing = ("input",)

    def with_masks(self, detections: Detections, predicted: ImagePrediction, threshold: float) -> Detections:
        # A query has a single mask, also with several detections.
        queries, indices = np.unique(detections.queries, return_inverse=True)
        chosen = torch.from_numpy(queries).to(predicted.prediction.logits.device)
        masks = self.masks_of(predicted.masks, predicted.image, chosen, predicted.size, predicted.placement)
        return replace(detections, masks=masks[indices])

    def masks_of(
        self, masks: Masks, image: int, queries: Tensor, size: tuple[int, int], placement: Placement
    ) -> MaskRows:
        """Return the masks of queries (n,) of an image of this (height, width) with this placement."""
        return masks_of_queries(masks, image, queries, size, placement)

    @torch.no_grad()
    def panoptic(
        self, predicted: ImagePrediction, classes: Classes, scoring: Scoring, threshold: float | None = None
    ) -> PanopticMap:
        """Return the segment of every pixel: that of the query with the highest mask logit.

        Queries of the same stuff class form a segment. If segments are too small, their queries are removed and all
        pixels are assigned again until no segment is too small; as published, stuff is then not merged anymore.
        Without stuff classes, pixels between objects, whose highest logit is not positive, have no segment.
        """
        queries = confident_queries(predicted, scoring, scoring.panoptic_threshold if threshold is None else threshold)
        chosen = torch.tensor([query.index for query in queries], device=predicted.prediction.logits.device)
        masks = logits_in_input(predicted.masks, predicted.image, chosen) if queries else None  # (n, H, W)
        merged: list[int] | None = first_of_stuff(queries, classes)
        rows, columns = input_pixels(predicted.size, predicted.placement, 0.5, torch.float64)
        while queries:
            assert masks is not None
            best = masks.argmax(0)  # (H, W), indices into queries
            if merged is not None:
                best = torch.tensor(merged, device=best.device)[best]
            if classes.things is None:
                best = torch.where(masks.amax(0) > 0, best, NO_QUERY)
            in_image = best[rows, columns].cpu().numpy()  # (height, width)
            areas = np.bincount(in_image[in_image != NO_QUERY], minlength=len(queries))
            kept = areas >= MIN_AREA
            if kept.all():
                segments = [segment_of(i + 1, query, in_image == i, classes) for i, query in enumerate(queries)]
                return PanopticMap((in_image + 1).astype(np.int32), segments)
            queries = [query for query, keep in zip(queries, kept, strict=True) if keep]
            masks, merged = masks[torch.from_numpy(kept).to(masks.device)], None
        return PanopticMap(np.zeros(predicted.size, dtype=np.int32), [])


@dataclass(frozen=True)
class ConfidentQuery:
    """A query that may become a segment of a panoptic map."""

    index: int
    label: int
    score: float


def confident_queries(predicted: ImagePrediction, scoring: Scoring, threshold: float) -> list[ConfidentQuery]:
    """Return the queries that predict an object with a score above the threshold."""
    logits = predicted.prediction.logits[predicted.image]
    labels = scoring.top_class(logits)  # (Q,)
    scores = scoring.probabilities(logits).amax(-1)  # (Q,)
    chosen = ((labels != NO_OBJECT) & (scores > threshold)).nonzero()[:, 0]  # (n,)
    return list(map(ConfidentQuery, chosen.tolist(), labels[chosen].tolist(), scores[chosen].tolist()))


def segment_of(id_: int, query: ConfidentQuery, mask: np.ndarray, classes: Classes) -> Segment:
    """Return the segment of a query with this mask (height, width)."""
    return Segment(
        category_id=int(classes.ids[query.label]),
        label=str(classes.names[query.label]),
        area=int(mask.sum()),
        box=box_around(mask),
        id=id_,
        query=query.index,
        thing=is_thing(classes, query.label),
        score=query.score,
    )


def first_of_stuff(queries: Sequence[ConfidentQuery], classes: Classes) -> list[int]:
    """Return for each query the index of the first query of the same stuff class, or its own index for things."""
    first: dict[int, int] = {}
    return [i if is_thing(classes, q.label) else first.setdefault(q.label, i) for i, q in enumerate(queries)]


def masks_of_queries(
    masks: Masks, image: int, queries: Tensor, size: tuple[int, int], placement: Placement
) -> MaskRows:
    """Return the masks of queries (n,) of an image of this (height, width) with this placement.

    Logits are resized to the network's input and thresholded; the image's area is then resized to the image.
    """
    rows, columns = input_pixels(size, placement, 0.0 if masks.by_corner else 0.5)
    counts: list[bytes] = []
    for chunk in torch.split(queries, CHUNK):
        positive = logits_in_input(masks, image, chunk) > 0  # (n, H, W)
        counts += [encode(mask) for mask in positive[:, rows, columns].cpu().numpy()]
    return MaskRows(size, counts)


def logits_in_input(masks: Masks, image: int, queries: Tensor) -> Tensor:
    """Return the mask logits of queries (n,) at every pixel of the network's input, (n, H, W)."""
    logits = masks(torch.full_like(queries, image), queries)  # (n, h, w)
    return F.interpolate(logits[:, None], size=masks.input_size, mode="bilinear")[:, 0]


def input_pixels(
    size: tuple[int, int], placement: Placement, offset: float, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Return the rows (height, 1) and columns (width,) of the network's input that an image's pixels are read from.

    `offset` is the point of a pixel that counts: 0 for its upper left corner, 0.5 for its center.
    """
    p = placement
    rows, columns = (
        (start + (torch.arange(length, dtype=dtype) + offset) * (inside / length)).long().clamp(max=end - 1)
        for length, start, inside, end in (
            (size[0], p.top, p.image_height, p.height),
            (size[1], p.left, p.image_width, p.width),
        )
    )
    return rows[:, None], columns
