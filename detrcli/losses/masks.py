"""The loss of masks, at every pixel as published or at sampled points (arXiv 2112.01527), and their matching cost.

In shapes, n is the number of matched pairs of the last layer, the only layer with a mask loss, and S the number of
points at which masks are compared.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detrcli.losses.scoring import focal_loss
from detrcli.losses.terms import CostInputs, CostTerm, LossTerm, MaskSampler, MaskSamples, Matched

ALPHA, GAMMA = 0.25, 2.0  # of the focal loss


def every_pixel(logits: Tensor, truth: Sequence[Tensor], input_size: tuple[int, int]) -> MaskSamples:
    """Sample every pixel of the network's input, padding included, as published."""
    height, width = input_size
    enlarged = F.interpolate(logits[:, None], size=input_size, mode="bilinear")[:, 0]  # (n, H, W)
    padded = [F.pad(mask, (0, width - mask.shape[1], 0, height - mask.shape[0])) for mask in truth]
    masks = torch.stack(padded) if padded else enlarged.new_zeros(enlarged.shape)
    return enlarged.flatten(1), masks.flatten(1).to(logits.dtype)


def sampled_points(number: int) -> MaskSampler:
    """Return a sampler of random points: 3/4 are the most uncertain of 3 * `number` candidates, the others uniform."""

    def sample(logits: Tensor, truth: Sequence[Tensor], input_size: tuple[int, int]) -> MaskSamples:
        count = number * 3 // 4
        with torch.no_grad():
            candidates = torch.rand(len(logits), 3 * number, 2, device=logits.device)  # x, y in [0, 1] of the input
            uncertain = at_points(logits, candidates).abs().topk(count, largest=False).indices  # (n, count)
            uncertain_points = candidates.gather(1, uncertain[..., None].expand(-1, -1, 2))
            uniform_points = torch.rand(len(logits), number - count, 2, device=logits.device)
            points = torch.cat([uncertain_points, uniform_points], 1)  # (n, S, 2), S = number
            pixels = (points * points.new_tensor(input_size).flip(0)).long()  # (n, S, 2)
            masks = [at_pixels(mask, mask_pixels) for mask, mask_pixels in zip(truth, pixels, strict=True)]
        sampled_truth = torch.stack(masks).to(logits.dtype) if masks else logits.new_zeros(0, number)
        return at_points(logits, points), sampled_truth

    return sample


def at_points(logits: Tensor, points: Tensor) -> Tensor:
    """Interpolate logits (n, h, w) bilinearly at points (n, S, 2), x and y in [0, 1]: (n, S)."""
    return F.grid_sample(logits[:, None], 2 * points[:, None] - 1, padding_mode="border", align_corners=False)[:, 0, 0]


def at_pixels(mask: Tensor, pixels: Tensor) -> Tensor:
    """Read a mask (H, W) at pixels (S, 2), x and y: (S,) bool, False outside of the mask."""
    x, y = pixels.unbind(-1)
    inside = (x < mask.shape[1]) & (y < mask.shape[0])
    return mask[y.clamp(max=mask.shape[0] - 1), x.clamp(max=mask.shape[1] - 1)] & inside


def focal(logits: Tensor, truth: Tensor) -> Tensor:
    return focal_loss(logits, truth, ALPHA, GAMMA).mean(1)


def cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1)


def dice(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the dice loss (n,) of logits and truth (n, S), smoothed by 1 as published."""
    probability = logits.sigmoid()
    twice_common = 2 * (probability * truth).sum(1)
    return 1 - (twice_common + 1) / (probability.sum(1) + truth.sum(1) + 1)


def mask_loss(name: str, weight: float, measure: Callable[[Tensor, Tensor], Tensor], sampler: MaskSampler) -> LossTerm:
    """Return a term for the masks of the last layer; `measure` returns (n,) from logits and truth (n, S)."""

    def values(m: Matched) -> Tensor:
        assert m.masks is not None
        last = m.match.layers == len(m.logits) - 1
        losses = torch.zeros(len(m.match.queries), device=m.logits.device)  # (P,)
        return losses.index_put((last,), measure(*m.masks))

    return LossTerm(name, weight, values, mask_sampler=sampler)


def pairwise_cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the mean cross-entropy (L, N, Q) of each object's mask (N, S) with mask logits (L, Q, S)."""
    # The cross-entropy of x and t is softplus(x) - x t.
    return F.softplus(logits).mean(-1)[:, None] - torch.einsum("lqs,ns->lnq", logits, truth) / logits.shape[-1]


def pairwise_focal(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the mean focal loss (L, N, Q) of each object's mask (N, S) with mask logits (L, Q, S)."""
    inside, outside = (focal_loss(logits, torch.full_like(logits, value), ALPHA, GAMMA) for value in (1.0, 0.0))
    sums = torch.einsum("lqs,ns->lnq", inside, truth) + torch.einsum("lqs,ns->lnq", outside, 1 - truth)
    return sums / logits.shape[-1]


def pairwise_dice(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the dice loss (L, N, Q) of each object's mask (N, S) with mask logits (L, Q, S), smoothed by 1."""
    probability = logits.sigmoid()
    twice_common = 2 * torch.einsum("lqs,ns->lnq", probability, truth)
    return 1 - (twice_common + 1) / (probability.sum(-1)[:, None] + truth.sum(-1)[:, None] + 1)


def mask_cost(name: str, weight: float, measure: Callable[[Tensor, Tensor], Tensor]) -> CostTerm:
    """Return a cost term that compares masks at all cells; 0 if queries or objects have no masks."""

    def values(inputs: CostInputs) -> Tensor:
        if not inputs.masks:
            return inputs.boxes.new_zeros(inputs.boxes.shape[:3])
        return torch.cat([measure(*pair) for pair in inputs.masks], 1)

    return CostTerm(name, weight, values)
