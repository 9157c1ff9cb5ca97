"""The terms of matching cost and loss as data: a name, a weight, a function. A member of the family lists its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from detrcli.boxes import cxcywh_to_xyxy, generalised_iou, iou
from detrcli.losses.scoring import NO_OBJECT, Scoring, Sigmoid
from detrcli.structures import Match, QueryGroup, Target
from detrcli.system.devices import to_device

T = TypeVar("T")


@dataclass(frozen=True)
class CostInputs:
    """Each of the T objects of a batch beside the Q queries of its own image, in all L layers, in float32."""

    logits: Tensor  # (L, B, Q, R)
    boxes: Tensor  # (L, T, Q, 4), predicted in the object's image
    xyxy: Tensor  # (L, T, Q, 4), the same as corners
    images: Tensor  # (T,), of which image an object is
    labels: Tensor  # (T,)
    truth: Tensor  # (T, 1, 4), the objects' boxes


def cost_inputs(logits: Tensor, boxes: Tensor, targets: Sequence[Target]) -> CostInputs:
    """Put objects beside queries, image by image: so the work grows with T and not with B * T."""
    counts = torch.tensor([len(target) for target in targets], dtype=torch.long)
    images = to_device(torch.arange(len(targets)).repeat_interleave(counts), logits.device)
    # One number of a box after the other, (8, L, B, Q): what is computed with them runs along many numbers.
    by_number = torch.cat([boxes.float(), cxcywh_to_xyxy(boxes.float())], -1).movedim(-1, 0).contiguous()
    beside = by_number[:, :, images].movedim(0, -1)  # (L, T, Q, 8)
    return CostInputs(
        logits=logits.float(),
        boxes=beside[..., :4],
        xyxy=beside[..., 4:],
        images=images,
        labels=torch.cat([target.labels for target in targets]),
        truth=torch.cat([target.boxes for target in targets]).float()[:, None],
    )


@dataclass(frozen=True)
class CostTerm:
    """One part of the matching cost."""

    name: str
    weight: float
    values: Callable[[CostInputs], Tensor]  # (L, T, Q), not weighted


def class_cost(scoring: Scoring, kind: str, weight: float) -> CostTerm:
    """As small as the query speaks for the object's class."""

    def values(seen: CostInputs) -> Tensor:
        by_class = scoring.class_cost(seen.logits, kind)  # (L, B, Q, K)
        return by_class.transpose(2, 3)[:, seen.images, seen.labels]

    return CostTerm("class", weight, values)


def l1_cost(weight: float) -> CostTerm:
    """L1 distance of cx, cy, w, h."""
    return CostTerm("l1", weight, lambda seen: (seen.boxes - seen.truth).abs().sum(-1))


def giou_cost(weight: float, eps: float = 0.0) -> CostTerm:
    """Minus the generalised IoU."""
    return CostTerm("giou", weight, lambda seen: -generalised_iou(seen.xyxy, cxcywh_to_xyxy(seen.truth), eps))


@dataclass(frozen=True)
class Matched:
    """A group's predictions beside the ground truth that its queries are matched to, in float32."""

    group: QueryGroup
    match: Match
    logits: Tensor  # (L, B, Q, R)
    labels: Tensor  # (L, B, Q), what each query should say; NOTHING where it is matched to no object
    boxes: Tensor  # (P, 4), predicted by the matched queries
    truth: Tensor  # (P, 4), the boxes of their objects
    targets: Sequence[Target]  # of all images
    _made: dict[object, Any] = field(default_factory=dict)

    def once(self, key: object, make: Callable[[], T]) -> T:
        """What several terms need, made by the first that asks for it."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def pair_up(group: QueryGroup, match: Match, targets: Sequence[Target]) -> Matched:
    """Put what was predicted beside what should have been."""
    labels = torch.cat([target.labels for target in targets])  # (T,)
    boxes = torch.cat([target.boxes for target in targets])  # (T, 4)
    wanted = torch.full(group.logits.shape[:3], NO_OBJECT, device=labels.device)  # (L, B, Q)
    matched = match.layers, match.images, match.queries
    wanted[matched] = labels[match.targets]
    return Matched(
        group=group,
        match=match,
        logits=group.logits.float(),
        labels=wanted,
        boxes=group.boxes[matched].float(),
        truth=boxes[match.targets].float(),
        targets=targets,
    )


class Count(Protocol):
    """What a term is divided by, from the objects and queries of one image."""

    def __call__(self, objects: int, queries: int) -> float: ...


@dataclass(frozen=True)
class LossTerm:
    """One part of the loss: a value for each query, or for each pair, and what their sum is divided by."""

    name: str
    weight: float
    values: Callable[[Matched], Tensor]  # (L, B, Q), or (P,); neither weighted nor normalised
    count: Count
    min_normaliser: float = 1.0
    of_masks: bool = False  # whether it is for queries and objects with masks alone

    def goes_with(self, group: QueryGroup, targets: Sequence[Target]) -> bool:
        """Whether these queries are charged with it, for these objects of their images."""
        if not self.of_masks:
            return True
        return group.masks is not None and all(target.masks is not None for target in targets)

    def by_layer(self, matched: Matched) -> Tensor:
        """The sums, (L,)."""
        values = self.values(matched)
        if values.dim() == 3:
            return values.flatten(1).sum(1)
        return values.new_zeros(len(matched.logits)).index_add(0, matched.match.layers, values)


def per_object(objects: int, queries: int) -> float:
    """The number of objects, those that no query is left for included."""
    return objects


def class_loss(scoring: Scoring, weight: float) -> LossTerm:
    """What the scoring charges each query for its class."""

    def count(objects: int, queries: int) -> float:
        return scoring.class_normaliser(min(objects, queries), queries)

    return LossTerm(
        "class",
        weight,
        lambda m: scoring.class_loss(m.logits, m.labels),
        count,
        min_normaliser=scoring.min_class_normaliser,
    )


def quality_class_loss(scoring: Sigmoid, weight: float) -> LossTerm:
    """As `class_loss`, but a matched query should say its class as surely as its box is good."""

    def values(m: Matched) -> Tensor:
        quality = torch.zeros(m.labels.shape, device=m.logits.device)  # (L, B, Q)
        good = iou(cxcywh_to_xyxy(m.boxes.detach()), cxcywh_to_xyxy(m.truth))  # (P,)
        quality[m.match.layers, m.match.images, m.match.queries] = good
        return scoring.quality_loss(m.logits, m.labels, quality)

    return LossTerm("class", weight, values, per_object)


def l1_loss(weight: float) -> LossTerm:
    """L1 distance of cx, cy, w, h."""
    return LossTerm("l1", weight, lambda m: F.l1_loss(m.boxes, m.truth, reduction="none").sum(-1), per_object)


def giou_loss(weight: float, eps: float = 0.0) -> LossTerm:
    """One minus the generalised IoU."""
    return LossTerm(
        "giou", weight, lambda m: 1 - generalised_iou(cxcywh_to_xyxy(m.boxes), cxcywh_to_xyxy(m.truth), eps), per_object
    )
