"""Masks and panoptic maps as published with DETR: detections with masks, and the highest mask logit of every pixel."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detrcli.losses.scoring import NO_OBJECT, Scoring
from detrcli.resize import Placement
from detrcli.run_lengths import MaskRows, box_around, encode
from detrcli.segmentation.maps import PanopticMap, Predicted, Segment, Segmentation, is_thing
from detrcli.structures import Classes, Detections, Masks

NO_QUERY = -1  # the owner of a pixel of no segment
TOGETHER = 8  # masks in memory at full size


@dataclass(frozen=True)
class Published(Segmentation):
    """Masks are the pixels with positive logits; boxes and scores come from their heads."""

    min_area: int = 4  # pixels; a segment must be larger

    kinds = ("panoptic",)

    def with_masks(self, detections: Detections, predicted: Predicted, threshold: float) -> Detections:
        # A query may have several detections and has one mask.
        queries, indices = np.unique(detections.queries, return_inverse=True)
        chosen = torch.from_numpy(queries).to(predicted.prediction.logits.device)
        masks = masks_of_queries(predicted.masks, predicted.image, chosen, predicted.size, predicted.placement)
        return replace(detections, masks=masks[indices])

    @torch.no_grad()
    def panoptic(
        self, predicted: Predicted, classes: Classes, scoring: Scoring, threshold: float | None = None
    ) -> PanopticMap:
        """Return the segment of every pixel: that of the query with the highest mask logit.

        Queries of the same stuff class form a segment. If segments are too small, their queries are removed and all
        pixels are assigned again until no segment is too small; as published, stuff is not merged any more then.
        Without stuff classes, pixels between objects, whose highest logit is not positive, have no segment.
        """
        minimum = scoring.panoptic_threshold if threshold is None else threshold
        queries = confident_queries(predicted, scoring, minimum)
        chosen = torch.tensor([query.index for query in queries], device=predicted.prediction.logits.device)
        masks = logits_in_input(predicted.masks, predicted.image, chosen) if queries else None  # (n, H, W)
        merged: list[int] | None = first_of_stuff(queries, classes)
        while queries:
            assert masks is not None
            owners = masks.argmax(0)  # (H, W), indices into queries
            if merged is not None:
                owners = torch.tensor(merged, device=owners.device)[owners]
            if classes.things is None:
                owners = torch.where(masks.amax(0) > 0, owners, NO_QUERY)
            shown = nearest_center(owners, predicted.size, predicted.placement).cpu().numpy()
            areas = np.bincount(shown[shown != NO_QUERY], minlength=len(queries))
            kept = areas > self.min_area
            if kept.all():
                segments = [segment_of(i + 1, query, shown == i, classes) for i, query in enumerate(queries)]
                return PanopticMap((shown + 1).astype(np.int32), segments)
            queries = [query for query, keep in zip(queries, kept, strict=True) if keep]
            masks, merged = masks[torch.from_numpy(kept).to(masks.device)], None
        return PanopticMap(np.zeros(predicted.size, dtype=np.int32), [])


@dataclass(frozen=True)
class ConfidentQuery:
    """A query that takes part in a panoptic map."""

    index: int
    label: int
    score: float


def confident_queries(predicted: Predicted, scoring: Scoring, threshold: float) -> list[ConfidentQuery]:
    """Return the queries that predict an object with a score above the threshold."""
    logits = predicted.prediction.logits[predicted.image]
    labels = scoring.top_class(logits)  # (Q,)
    scores = scoring.probabilities(logits).amax(-1)  # (Q,)
    chosen = ((labels != NO_OBJECT) & (scores > threshold)).nonzero()[:, 0]  # (n,)
    values = zip(chosen.tolist(), labels[chosen].tolist(), scores[chosen].tolist(), strict=True)
    return [ConfidentQuery(*query) for query in values]


def segment_of(id_: int, query: ConfidentQuery, mask: np.ndarray, classes: Classes) -> Segment:
    """Return the segment of a query with this mask (height, width)."""
    return Segment(
        id=id_,
        query=query.index,
        category_id=int(classes.ids[query.label]),
        label=str(classes.names[query.label]),
        thing=is_thing(classes, query.label),
        score=query.score,
        area=int(mask.sum()),
        box=box_around(mask),
    )


def first_of_stuff(queries: Sequence[ConfidentQuery], classes: Classes) -> list[int]:
    """Return for each query the index of the first query of the same stuff class, or its own index for things."""
    first: dict[int, int] = {}
    return [
        i if is_thing(classes, query.label) else first.setdefault(query.label, i) for i, query in enumerate(queries)
    ]


def masks_of_queries(
    masks: Masks, image: int, queries: Tensor, size: tuple[int, int], placement: Placement
) -> MaskRows:
    """Return the masks of some queries (n,) of an image of this (height, width) with this placement.

    Logits are enlarged to the network's input and thresholded, and the image's area is resized to the image.
    """
    counts: list[bytes] = []
    for some in torch.split(queries, TOGETHER):
        shown = logits_in_input(masks, image, some) > 0  # (n, H, W)
        counts += [encode(mask) for mask in in_image(shown, size, placement, by_corner=masks.by_corner).cpu().numpy()]
    return MaskRows(size, counts)


def logits_in_input(masks: Masks, image: int, queries: Tensor) -> Tensor:
    """Return the mask logits of some queries at every pixel of the network's input, (n, H, W)."""
    logits = masks(torch.full_like(queries, image), queries)  # (n, h, w)
    return F.interpolate(logits[:, None], size=masks.input_size, mode="bilinear")[:, 0]


def in_image(values: Tensor, size: tuple[int, int], placement: Placement, *, by_corner: bool) -> Tensor:
    """Resize values (n, H, W) of the network's input to an image, (n, height, width), by nearest neighbor."""
    offset = 0.0 if by_corner else 0.5
    rows, columns = (
        start + ((torch.arange(length, device=values.device) + offset) * (inside / length)).long()
        for length, start, inside in (
            (size[0], placement.top, placement.image_height),
            (size[1], placement.left, placement.image_width),
        )
    )
    return values[:, rows[:, None].clamp(max=values.shape[1] - 1), columns.clamp(max=values.shape[2] - 1)]


def nearest_center(owners: Tensor, size: tuple[int, int], placement: Placement) -> Tensor:
    """Resize a map (H, W) of the network's input to an image (height, width), by the center of each pixel."""
    rows, columns = (
        torch.from_numpy((start + (np.arange(length) + 0.5) * (inside / length)).astype(np.int64))
        .clamp(max=most - 1)
        .to(owners.device)
        for length, start, inside, most in (
            (size[0], placement.top, placement.image_height, owners.shape[0]),
            (size[1], placement.left, placement.image_width, owners.shape[1]),
        )
    )
    return owners[rows[:, None], columns]
