"""The way of DETR: boxes beside masks, and one object for every pixel by the highest mask logit, as published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from detrcli.losses.scoring import NO_OBJECT, Scoring
from detrcli.resize import Placement
from detrcli.run_lengths import box_around
from detrcli.segmentation.maps import MapKind, PanopticMap, Segment, is_thing
from detrcli.segmentation.masks import logits_in_input, masks_of_queries
from detrcli.segmentation.segmentation import MapMaker, Predicted, Segmentation
from detrcli.structures import Classes, Detections

NOBODY = -1  # in place of a query: a pixel that belongs to none


@dataclass(frozen=True)
class Published(Segmentation):
    """A mask is what its logits are positive in; boxes and scores are those of their heads."""

    least_area: int = 4  # pixels; a segment of no more goes

    @property
    def maps(self) -> Mapping[MapKind, MapMaker]:
        return {"panoptic": self.panoptic}

    def with_masks(self, found: Detections, of: Predicted, threshold: float) -> Detections:
        # A query may stand in several detections and has one mask.
        asked, places = np.unique(found.queries, return_inverse=True)
        queries = torch.from_numpy(asked).to(of.prediction.logits.device)
        return replace(found, masks=masks_of_queries(of.masks, of.image, queries, of.size, of.placement)[places])

    def panoptic(
        self, of: Predicted, classes: Classes, scoring: Scoring, threshold: float | None = None
    ) -> PanopticMap:
        """The segment of every pixel.

        A pixel goes to the query of the highest mask logit. Queries of the same stuff are one segment, that of the
        first of them. Where a segment is too small its query goes and all pixels are given out anew, until all are
        large enough; as published, stuff is not put together again then. A model that knows no stuff has nothing to
        say of what lies between objects: there a pixel whose highest logit is no more than 0 stays without a segment.
        """
        logits = of.prediction.logits[of.image]
        labels = scoring.top_class(logits)  # (Q,)
        scores = scoring.probabilities(logits).amax(-1)  # (Q,)
        least = scoring.panoptic_threshold if threshold is None else threshold
        chosen = ((labels != NO_OBJECT) & (scores > least)).nonzero()[:, 0]  # (n,)
        if not len(chosen):
            return PanopticMap(np.zeros(of.size, dtype=np.int32), [])
        taking_part = [
            _Query(*one) for one in zip(chosen.tolist(), labels[chosen].tolist(), scores[chosen].tolist(), strict=True)
        ]
        masks = logits_in_input(of.masks, of.image, chosen)  # (n, H, W)
        merged: list[int] | None = first_of_stuff(taking_part, classes)
        while taking_part:
            owners = masks.argmax(0)  # (H, W), places among those that take part
            if merged is not None:
                owners = torch.tensor(merged, device=owners.device)[owners]
            if classes.things is None:
                owners = torch.where(masks.amax(0) > 0, owners, NOBODY)
            shown = nearest_of(owners, of.size, of.placement).cpu().numpy()
            areas = np.bincount(shown[shown != NOBODY], minlength=len(taking_part))
            stays = areas > self.least_area
            if stays.all():
                return PanopticMap(
                    (shown + 1).astype(np.int32),
                    [_segment(place, query, shown, classes) for place, query in enumerate(taking_part)],
                )
            taking_part = [query for query, kept in zip(taking_part, stays, strict=True) if kept]
            masks, merged = masks[torch.from_numpy(stays).to(masks.device)], None
        return PanopticMap(np.zeros(of.size, dtype=np.int32), [])


@dataclass(frozen=True)
class _Query:
    """A query that takes part."""

    number: int
    label: int
    score: float


def first_of_stuff(queries: Sequence[_Query], classes: Classes) -> list[int]:
    """For each query the place of the one that its pixels go to: the first of the same stuff, or itself."""
    first: dict[int, int] = {}
    return [
        place if is_thing(classes, query.label) else first.setdefault(query.label, place)
        for place, query in enumerate(queries)
    ]


def nearest_of(owners: Tensor, size: tuple[int, int], placement: Placement) -> Tensor:
    """A map (H, W) of the network's input at a picture's pixels (height, width): what lies at the middle of each."""
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


def _segment(place: int, query: _Query, shown: np.ndarray, classes: Classes) -> Segment:
    mask = shown == place
    return Segment(
        id=place + 1,
        query=query.number,
        category_id=int(classes.ids[query.label]),
        label=str(classes.names[query.label]),
        thing=is_thing(classes, query.label),
        score=query.score,
        area=int(mask.sum()),
        box=box_around(mask),
    )
