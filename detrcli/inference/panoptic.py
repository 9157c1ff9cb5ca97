"""One class and one object for every pixel of a picture, put together from masks as published."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from detrcli.inference.masks import logits_in_input
from detrcli.losses.scoring import NOTHING, Scoring
from detrcli.resize import Placement
from detrcli.structures import Classes, Prediction

NOBODY = -1  # in place of a query: a pixel that belongs to none


@dataclass(frozen=True)
class PanopticRule:
    """Which queries take part, and which segments stay."""

    threshold: float | None = None  # that of the scoring
    least_area: int = 4  # pixels; a segment of no more goes


@dataclass(frozen=True)
class Segment:
    """An object, or all that there is of a kind of stuff."""

    id: int  # in the map
    query: int
    category_id: int
    label: str
    thing: bool
    score: float
    area: int  # pixels of the picture
    box: tuple[int, int, int, int]  # x, y, width, height


@dataclass(frozen=True)
class PanopticMap:
    """What every pixel of a picture belongs to."""

    ids: np.ndarray  # (H, W) int32, a segment's id; 0 where there is none
    segments: Sequence[Segment]


@dataclass(frozen=True)
class _Query:
    """A query that takes part."""

    number: int
    label: int
    score: float


@torch.no_grad()
def panoptic_map(
    prediction: Prediction,
    image: int,
    classes: Classes,
    scoring: Scoring,
    size: tuple[int, int],
    placement: Placement,
    rule: PanopticRule,
) -> PanopticMap:
    """The map of an image of this (height, width) that was placed so.

    Every pixel goes to the query of the highest mask logit. Queries of the same stuff are one segment, that of the
    first of them. Where a segment is too small its query goes and all pixels are given out anew, until all are large
    enough; as published, stuff is not put together again then. A model that knows no stuff has nothing to say of what
    lies between objects: there a pixel whose highest logit is no more than 0 stays without a segment.
    """
    assert prediction.masks is not None
    logits = prediction.logits[image]
    labels = scoring.top_class(logits)  # (Q,)
    scores = scoring.probabilities(logits).amax(-1)  # (Q,)
    threshold = scoring.sure if rule.threshold is None else rule.threshold
    chosen = ((labels != NOTHING) & (scores > threshold)).nonzero()[:, 0]  # (n,)
    if not len(chosen):
        return PanopticMap(np.zeros(size, dtype=np.int32), [])
    taking_part = [
        _Query(*one)
        for one in zip(chosen.tolist(), labels[chosen].tolist(), scores[chosen].tolist(), strict=True)
    ]
    masks = logits_in_input(prediction.masks, image, chosen)  # (n, H, W)
    merged: list[int] | None = first_of_stuff(taking_part, classes)
    while taking_part:
        owners = masks.argmax(0)  # (H, W), places among those that take part
        if merged is not None:
            owners = torch.tensor(merged, device=owners.device)[owners]
        if classes.things is None:
            owners = torch.where(masks.amax(0) > 0, owners, NOBODY)
        shown = nearest_of(owners, size, placement).cpu().numpy()
        areas = np.bincount(shown[shown != NOBODY], minlength=len(taking_part))
        stays = areas > rule.least_area
        if stays.all():
            return PanopticMap(
                (shown + 1).astype(np.int32),
                [_segment(place, query, shown, classes) for place, query in enumerate(taking_part)],
            )
        taking_part = [query for query, kept in zip(taking_part, stays, strict=True) if kept]
        masks, merged = masks[torch.from_numpy(stays).to(masks.device)], None
    return PanopticMap(np.zeros(size, dtype=np.int32), [])


def first_of_stuff(queries: Sequence[_Query], classes: Classes) -> list[int]:
    """For each query the place of the one that its pixels go to: the first of the same stuff, or itself."""
    first: dict[int, int] = {}
    return [
        place if is_thing(classes, query.label) else first.setdefault(query.label, place)
        for place, query in enumerate(queries)
    ]


def is_thing(classes: Classes, label: int) -> bool:
    """Whether each object of a class counts for itself; so it is of all classes where nobody says which are stuff."""
    return classes.things is None or bool(classes.things[label])


def nearest_of(owners: Tensor, size: tuple[int, int], placement: Placement) -> Tensor:
    """A map (H, W) of the network's input at a picture's pixels (height, width): what lies at the middle of each."""
    rows, columns = (
        torch.from_numpy((start + (np.arange(length) + 0.5) * (inside / length)).astype(np.int64))
        .clamp(max=most - 1)
        .to(owners.device)
        for length, start, inside, most in (
            (size[0], placement.top, placement.picture_height, owners.shape[0]),
            (size[1], placement.left, placement.picture_width, owners.shape[1]),
        )
    )
    return owners[rows[:, None], columns]


def _segment(place: int, query: _Query, shown: np.ndarray, classes: Classes) -> Segment:
    mask = shown == place
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return Segment(
        id=place + 1,
        query=query.number,
        category_id=int(classes.ids[query.label]),
        label=str(classes.names[query.label]),
        thing=is_thing(classes, query.label),
        score=query.score,
        area=int(mask.sum()),
        box=(
            int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)
        ),
    )  # fmt: skip
