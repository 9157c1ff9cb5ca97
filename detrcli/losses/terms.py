"""The terms of the matching cost and the loss. A term is a name, a weight and a function.

Shapes use the letters of `structures.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from detrcli.boxes import cxcywh_to_xyxy, generalized_iou, iou
from detrcli.errors import UsageError
from detrcli.losses.scoring import NO_OBJECT, Scoring, Sigmoid
from detrcli.structures import Match, QueryGroup, Target
from detrcli.system.devices import to_device


@dataclass(frozen=True)
class CostInputs:
    """The T objects of a batch, each paired with the Q queries of its image, in all L layers, in float32."""

    logits: Tensor  # (L, B, Q, R)
    boxes: Tensor  # (L, T, Q, 4), cxcywh, predicted in the object's image
    xyxy: Tensor  # (L, T, Q, 4), the same boxes as xyxy
    images: Tensor  # (T,), the image of each object
    labels: Tensor  # (T,)
    truth: Tensor  # (T, 1, 4), cxcywh, the objects' boxes
    # Of each image with objects, at the S cells of the masks: mask logits (L, Q, S), and ground truth (N, S), 0 or 1.
    masks: Sequence[tuple[Tensor, Tensor]] | None = None  # None if queries or objects have no masks


def cost_inputs(
    logits: Tensor, boxes: Tensor, targets: Sequence[Target], mask_logits: Sequence[Tensor] | None = None
) -> CostInputs:
    """Pair each object with the queries of its own image only, so that the work grows with T and not with B * T."""
    counts = torch.tensor([len(target) for target in targets], dtype=torch.long)
    images = to_device(torch.arange(len(targets)).repeat_interleave(counts), logits.device)
    # Coordinates come first, (8, L, B, Q), so that operations on one coordinate run along contiguous memory.
    by_coordinate = torch.cat([boxes.float(), cxcywh_to_xyxy(boxes.float())], -1).movedim(-1, 0).contiguous()
    by_object = by_coordinate[:, :, images].movedim(0, -1)  # (L, T, Q, 8)
    return CostInputs(
        logits=logits.float(),
        boxes=by_object[..., :4],
        xyxy=by_object[..., 4:],
        images=images,
        labels=torch.cat([target.labels for target in targets]),
        truth=torch.cat([target.boxes for target in targets]).float()[:, None],
        masks=None if mask_logits is None else _masks_at_cells(mask_logits, targets),
    )


def _masks_at_cells(mask_logits: Sequence[Tensor], targets: Sequence[Target]) -> Sequence[tuple[Tensor, Tensor]] | None:
    masks = [target.masks for target in targets if target.masks is not None]
    if len(masks) < len(targets):
        return None
    height, width = (max(mask.shape[axis] for mask in masks) for axis in (1, 2))  # of the input, padding included
    pairs = []
    for image, mask in enumerate(masks):
        if len(mask):
            logits = torch.stack([layer[image].flatten(1).float() for layer in mask_logits])
            padded = F.pad(mask.float(), (0, width - mask.shape[2], 0, height - mask.shape[1]))
            cells = F.interpolate(padded[None], size=mask_logits[0].shape[-2:], mode="nearest-exact")[0]
            pairs.append((logits, cells.flatten(1)))
    return pairs


@dataclass(frozen=True)
class CostTerm:
    """A term of the matching cost."""

    name: str
    weight: float
    values: Callable[[CostInputs], Tensor]  # (L, T, Q), unweighted


def class_cost(scoring: Scoring, kind: str, weight: float) -> CostTerm:
    """Return the term of the scoring's class cost; `kind` is one of its `class_costs`."""
    if kind not in scoring.class_costs:
        choices = " or ".join(scoring.class_costs)
        raise UsageError(f"class_cost = {kind!r} is not defined for {scoring.name} scoring. Use {choices}.")

    def values(inputs: CostInputs) -> Tensor:
        by_class = scoring.class_cost(inputs.logits, kind)  # (L, B, Q, K)
        return by_class.transpose(2, 3)[:, inputs.images, inputs.labels]  # (L, T, Q)

    return CostTerm("class", weight, values)


def l1_cost(weight: float) -> CostTerm:
    """Return the term of the L1 distance of boxes as cxcywh."""
    return CostTerm("l1", weight, lambda inputs: (inputs.boxes - inputs.truth).abs().sum(-1))


def giou_cost(weight: float, eps: float = 0.0) -> CostTerm:
    """Return the term of the negative generalized IoU."""
    return CostTerm("giou", weight, lambda inputs: -generalized_iou(inputs.xyxy, cxcywh_to_xyxy(inputs.truth), eps))


# Predicted mask logits and ground truth (0 or 1) of n matched queries at the same S points, each (n, S).
MaskSamples = tuple[Tensor, Tensor]
# A function of mask logits (n, h, w), n masks at the size of their images, and the size (H, W) of the network's input.
MaskSampler = Callable[[Tensor, Sequence[Tensor], tuple[int, int]], MaskSamples]


@dataclass(frozen=True)
class Matched:
    """The predictions of a query group and the ground truth that its queries are matched with, in float32."""

    match: Match
    logits: Tensor  # (L, B, Q, R)
    labels: Tensor  # (L, B, Q), the class that each query should predict, or NO_OBJECT
    boxes: Tensor  # (P, 4), cxcywh, predicted by the matched queries
    truth: Tensor  # (P, 4), cxcywh, the boxes of their objects
    masks: MaskSamples | None  # of the last layer's pairs; None if queries or objects have no masks


def per_object(objects: int, queries: int) -> float:
    """Return the number of objects, even if it exceeds the number of queries."""
    return objects


@dataclass(frozen=True)
class LossTerm:
    """A term of the loss: a value for each query or for each pair, and the divisor of their sum."""

    name: str
    weight: float
    values: Callable[[Matched], Tensor]  # (L, B, Q) or (P,), neither weighted nor normalized
    count: Callable[[int, int], float] = per_object  # the divisor, from the objects and queries of an image
    min_normalizer: float = 1.0
    mask_sampler: MaskSampler | None = None  # for terms that compare masks; all of a loss share one

    def applies_to(self, matched: Matched) -> bool:
        """Return whether the group has the predictions and the ground truth that the term compares."""
        return self.mask_sampler is None or matched.masks is not None

    def by_layer(self, matched: Matched) -> Tensor:
        """Return the sum of the values of each layer, (L,)."""
        values = self.values(matched)
        if values.dim() == 3:
            return values.flatten(1).sum(1)
        return values.new_zeros(len(matched.logits)).index_add(0, matched.match.layers, values)


def pair_up(group: QueryGroup, match: Match, targets: Sequence[Target], terms: Sequence[LossTerm]) -> Matched:
    """Pair the predictions of a group with their ground truth; masks are sampled if a term compares them."""
    labels = torch.cat([target.labels for target in targets])  # (T,)
    boxes = torch.cat([target.boxes for target in targets])  # (T, 4)
    pairs = match.layers, match.images, match.queries
    target_labels = torch.full(group.logits.shape[:3], NO_OBJECT, device=labels.device)  # (L, B, Q)
    target_labels[pairs] = labels[match.targets]
    samples = None
    sampler = next((term.mask_sampler for term in terms if term.mask_sampler is not None), None)
    if sampler and group.masks is not None and all(target.masks is not None for target in targets):
        truth = [mask for target in targets if target.masks is not None for mask in target.masks]  # T masks (H, W)
        last = match.layer(len(group) - 1)
        logits = group.masks(last.images, last.queries)  # (n, h, w)
        samples = sampler(logits, [truth[i] for i in last.targets.tolist()], group.masks.input_size)
    return Matched(
        match, group.logits.float(), target_labels, group.boxes[pairs].float(), boxes[match.targets].float(), samples
    )


def class_loss(scoring: Scoring, weight: float) -> LossTerm:
    """Return the term of the scoring's class loss."""
    return LossTerm(
        "class",
        weight,
        lambda m: scoring.class_loss(m.logits, m.labels),
        lambda objects, queries: scoring.class_normalizer(min(objects, queries), queries),
        min_normalizer=scoring.min_class_normalizer,
    )


def quality_class_loss(scoring: Sigmoid, weight: float) -> LossTerm:
    """Return the term of the varifocal loss: a matched query's target score is the IoU of its box with the object."""

    def values(m: Matched) -> Tensor:
        quality = torch.zeros(m.labels.shape, device=m.logits.device)  # (L, B, Q)
        pair_iou = iou(cxcywh_to_xyxy(m.boxes.detach()), cxcywh_to_xyxy(m.truth))  # (P,)
        quality[m.match.layers, m.match.images, m.match.queries] = pair_iou
        return scoring.quality_loss(m.logits, m.labels, quality)

    return LossTerm("class", weight, values)


def l1_loss(weight: float) -> LossTerm:
    """Return the term of the L1 distance of boxes as cxcywh."""
    return LossTerm("l1", weight, lambda m: F.l1_loss(m.boxes, m.truth, reduction="none").sum(-1))


def giou_loss(weight: float, eps: float = 0.0) -> LossTerm:
    """Return the term of one minus the generalized IoU."""
    return LossTerm(
        "giou", weight, lambda m: 1 - generalized_iou(cxcywh_to_xyxy(m.boxes), cxcywh_to_xyxy(m.truth), eps)
    )
