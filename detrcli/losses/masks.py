"""The loss of masks: focal and dice, over every pixel as published, or over sampled points (arXiv 2112.01527).

P pairs of a group, n of them in the last layer, which alone has masks; S places that are compared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from detrcli.losses.terms import LossTerm, Matched, per_object
from detrcli.structures import Masks, Target

ALPHA, GAMMA = 0.25, 2.0  # of the focal loss


@dataclass(frozen=True)
class Compared:
    """Masks of matched queries beside those of their objects, at the same places."""

    logits: Tensor  # (n, S)
    truth: Tensor  # (n, S), 0 or 1


# From the masks (n, h, w), what knows their size, and the masks of the objects, each of its picture's size.
Places = Callable[[Tensor, Masks, Sequence[Tensor]], Compared]


def every_pixel(logits: Tensor, masks: Masks, truth: Sequence[Tensor]) -> Compared:
    """At every pixel of the network's input. As published, those that only pad a picture count too."""
    height, width = masks.input_size
    enlarged = F.interpolate(logits[:, None], size=(height, width), mode="bilinear")[:, 0]  # (n, H, W)
    padded = [F.pad(one, (0, width - one.shape[1], 0, height - one.shape[0])) for one in truth]
    wanted = torch.stack(padded) if padded else enlarged.new_zeros(enlarged.shape)
    return Compared(enlarged.flatten(1), wanted.flatten(1).to(logits.dtype))


def sampled_points(number: int) -> Places:
    """At so many points of each mask: three quarters are the least sure of three times as many, the rest are any."""

    def places(logits: Tensor, masks: Masks, truth: Sequence[Tensor]) -> Compared:
        unsure = number * 3 // 4
        with torch.no_grad():
            # x and y in [0, 1] of the input
            drawn = torch.rand(len(logits), 3 * number, 2, device=logits.device)
            least_sure = at_points(logits, drawn).abs().topk(unsure, largest=False).indices  # (n, unsure)
            chosen = drawn.gather(1, least_sure[..., None].expand(-1, -1, 2))
            anywhere = torch.rand(len(logits), number - unsure, 2, device=logits.device)
            points = torch.cat([chosen, anywhere], 1)  # (n, S, 2)
            size = points.new_tensor(masks.input_size).flip(0)
            pixels = (points * size).long()  # (n, S, 2)
            wanted = [pixels_of(mask, where) for mask, where in zip(truth, pixels, strict=True)]
        return Compared(
            at_points(logits, points), torch.stack(wanted).to(logits.dtype) if wanted else logits.new_zeros(0, number)
        )

    return places


def at_points(logits: Tensor, points: Tensor) -> Tensor:
    """Logits (n, h, w) at points (n, S, 2), x and y in [0, 1], between cells as they are when enlarged: (n, S)."""
    if not len(logits):
        return logits.flatten(1)[:, :1].expand(-1, points.shape[1])
    return F.grid_sample(
        logits[:, None], 2 * points[:, None] - 1, mode="bilinear", padding_mode="border", align_corners=False
    )[:, 0, 0]


def pixels_of(mask: Tensor, where: Tensor) -> Tensor:
    """What a mask (H, W) has at pixels (S, 2), x and y: (S,) bool. Beyond it there is nothing."""
    x, y = where.unbind(-1)
    inside = (x < mask.shape[1]) & (y < mask.shape[0])
    return mask[y.clamp(max=mask.shape[0] - 1), x.clamp(max=mask.shape[1] - 1)] & inside


def focal(logits: Tensor, truth: Tensor) -> Tensor:
    """The focal loss of each mask, (n,), its mean over the places (n, S)."""
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    right = probability * truth + (1 - probability) * (1 - truth)
    weight = ALPHA * truth + (1 - ALPHA) * (1 - truth)
    return (weight * entropy * (1 - right) ** GAMMA).mean(1)


def cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """The binary cross-entropy of each mask, (n,), its mean over the places (n, S)."""
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1)


def dice(logits: Tensor, truth: Tensor) -> Tensor:
    """One minus the dice coefficient of each mask, (n,), over the places (n, S); an empty one that is met is 0."""
    probability = logits.sigmoid()
    common = 2 * (probability * truth).sum(1)
    return 1 - (common + 1) / (probability.sum(1) + truth.sum(1) + 1)


def mask_loss(name: str, weight: float, measure: Callable[[Tensor, Tensor], Tensor], places: Places) -> LossTerm:
    """A term that compares masks, at places that are the same for all terms of a loss."""

    def values(m: Matched) -> Tensor:
        compared = m.once(places, lambda: _compared(m, places))
        losses = torch.zeros(len(m.match.queries), device=m.logits.device)  # (P,)
        last = m.match.layers == len(m.group) - 1
        return losses.index_put((last,), measure(compared.logits, compared.truth))

    return LossTerm(name, weight, values, per_object, of_masks=True)


def _compared(m: Matched, places: Places) -> Compared:
    masks = m.group.masks
    assert masks is not None
    pairs = m.match.layer(len(m.group) - 1)
    every = [one for target in m.targets for one in masks_of(target)]
    truth = [every[i] for i in pairs.targets.tolist()]
    return places(masks(pairs.images, pairs.queries), masks, truth)


def masks_of(target: Target) -> Tensor:
    """The masks of a target that has them."""
    assert target.masks is not None
    return target.masks
