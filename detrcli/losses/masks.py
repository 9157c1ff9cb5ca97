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


def mask_loss(
    name: str, weight: float, measure: Callable[[Tensor, Tensor], Tensor], places: Places
) -> LossTerm:
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
