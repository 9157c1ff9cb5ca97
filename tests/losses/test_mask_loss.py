"""The loss of masks against numbers worked out pixel by pixel."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from detrcli.losses.criterion import Criterion
from detrcli.losses.masks import (
    at_points,
    cross_entropy,
    dice,
    every_pixel,
    focal,
    mask_loss,
    pixels_of,
    sampled_points,
)
from detrcli.losses.matching import HungarianMatcher
from detrcli.losses.scoring import Softmax
from detrcli.losses.terms import l1_cost, l1_loss
from detrcli.structures import Output, QueryGroup, Target

LOGITS = torch.tensor([[2.0, -1.0, 0.5, -3.0], [0.0, 0.0, 4.0, -4.0]])
TRUTH = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]])


def by_hand(logits: list[float], truth: list[float]) -> tuple[float, float, float]:
    """Focal, cross-entropy and dice of a mask."""
    focal_sum = entropy_sum = common = said = 0.0
    for logit, true in zip(logits, truth, strict=True):
        p = 1 / (1 + math.exp(-logit))
        right = p if true else 1 - p
        entropy_sum -= math.log(right)
        focal_sum -= (0.25 if true else 0.75) * (1 - right) ** 2 * math.log(right)
        common += p * true
        said += p
    n = len(logits)
    return focal_sum / n, entropy_sum / n, 1 - (2 * common + 1) / (said + sum(truth) + 1)


@pytest.mark.parametrize(("i", "measure"), [(0, focal), (1, cross_entropy), (2, dice)])
def test_measures(i: int, measure: Callable[[Tensor, Tensor], Tensor]) -> None:
    wanted = [by_hand(a, b)[i] for a, b in zip(LOGITS.tolist(), TRUTH.tolist(), strict=True)]
    assert measure(LOGITS, TRUTH).tolist() == pytest.approx(wanted, rel=1e-5)


@dataclass(frozen=True)
class Given:
    """Masks that are there already, of two images with three queries each."""

    logits: Tensor  # (2, 3, h, w)
    input_size: tuple[int, int] = (8, 8)
    by_corner: bool = True

    def __call__(self, images: Tensor, queries: Tensor) -> Tensor:
        return self.logits[images, queries]


def box_of(mask: Tensor) -> Tensor:
    rows, columns = mask.any(1).nonzero().flatten() / 8, mask.any(0).nonzero().flatten() / 8
    x0, x1, y0, y1 = columns[0], columns[-1] + 1 / 8, rows[0], rows[-1] + 1 / 8
    return torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])


def test_only_the_last_layer_and_matched_queries_count() -> None:
    """Each query is matched with the object whose box it says; masks of other layers and queries change nothing."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.zeros(3, 8, 8, dtype=torch.bool)
    truth[0, 1:3, 1:4], truth[1, 4:8, 0:4], truth[2, 0:6, 5:7] = True, True, True
    boxes = torch.stack([box_of(mask) for mask in truth])
    labels = torch.zeros(3, dtype=torch.long)
    # The second picture is smaller: what pads it is no part of its object.
    targets = [Target(labels[:2], boxes[:2], masks=truth[:2]), Target(labels[2:], boxes[2:], masks=truth[2:, :6, :7])]
    said = torch.full((2, 2, 3, 4), 0.5)  # (L, B, Q, 4)
    said[1, 0, 2], said[1, 0, 0], said[1, 1, 1] = boxes
    said[0, 0, 0], said[0, 0, 1], said[0, 1, 0] = boxes
    masks = Given(torch.randn(2, 3, 4, 4, generator=generator))
    terms = [
        l1_loss(1.0), mask_loss("mask", 2.0, focal, every_pixel), mask_loss("dice", 3.0, dice, every_pixel)
    ]  # fmt: skip
    criterion = Criterion(Softmax(), HungarianMatcher([l1_cost(1.0)]), terms)
    decoder = QueryGroup("decoder", torch.zeros(2, 2, 3, 2), said, masks=masks)
    found = criterion.compute_loss(Output(decoder), targets)

    pairs = [((0, 2), truth[0]), ((0, 0), truth[1]), ((1, 1), truth[2])]
    sums = [0.0, 0.0]
    for (image, query), mask in pairs:
        enlarged = torch.nn.functional.interpolate(masks.logits[image, query][None, None], size=(8, 8), mode="bilinear")
        worked = by_hand(enlarged.flatten().tolist(), mask.float().flatten().tolist())
        sums = [sums[0] + worked[0], sums[1] + worked[2]]
    layers = found.layers["decoder"]
    assert layers["mask"].tolist() == pytest.approx([0, sums[0] / 3], rel=1e-5)
    assert layers["dice"].tolist() == pytest.approx([0, sums[1] / 3], rel=1e-5)
    others = layers["l1"].sum().item()
    assert found.total.item() == pytest.approx(others + 2 * sums[0] / 3 + 3 * sums[1] / 3, rel=1e-5)


def test_targets_without_masks_cost_none() -> None:
    terms = [l1_loss(1.0), mask_loss("mask", 1.0, focal, every_pixel)]
    criterion = Criterion(Softmax(), HungarianMatcher([l1_cost(1.0)]), terms)
    decoder = QueryGroup(
        "decoder", torch.zeros(1, 1, 3, 2), torch.full((1, 1, 3, 4), 0.5), masks=Given(torch.zeros(1, 3, 4, 4))
    )
    target = Target(torch.zeros(1, dtype=torch.long), torch.full((1, 4), 0.5))
    assert criterion.compute_loss(Output(decoder), [target]).parts.keys() == {"l1"}


def test_points_are_read_as_pixels_of_the_enlarged_mask() -> None:
    """The middle of each pixel of the input: what interpolation gives there, and the mask's own pixel."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, generator=generator)
    y, x = torch.meshgrid(torch.arange(16), torch.arange(20), indexing="ij")
    middles = torch.stack([(x + 0.5) / 20, (y + 0.5) / 16], -1).view(1, -1, 2).repeat(2, 1, 1)
    wanted = torch.nn.functional.interpolate(logits[None], size=(16, 20), mode="bilinear")[0]
    torch.testing.assert_close(at_points(logits, middles), wanted.flatten(1))
    mask = torch.rand(12, 20, generator=generator) < 0.5  # of a lower picture: what is below it pads it
    found = pixels_of(mask, (middles[0] * torch.tensor([20, 16])).long()).view(16, 20)
    assert torch.equal(found[:12], mask)
    assert not found[12:].any()


def test_points_lie_where_masks_are_least_sure() -> None:
    """Of those that are chosen, all that lie at the edge of a mask that is sure of all else."""
    torch.manual_seed(0)
    logits = torch.full((1, 32, 32), -9.0)
    logits[0, 8:24, 8:24] = 9
    truth = torch.zeros(128, 128, dtype=torch.bool)
    truth[32:96, 32:96] = True
    compared = sampled_points(400)(logits, Given(torch.zeros(0), (128, 128)), [truth])
    assert compared.logits.shape == compared.truth.shape == (1, 400)
    at_edge = (compared.logits.abs() < 8.9)[0]
    assert at_edge[:300].sum() > 5 * at_edge[300:].sum()
    sure = ~at_edge
    assert torch.equal(compared.logits[0, sure] > 0, compared.truth[0, sure] > 0)
    nothing = sampled_points(400)(logits[:0], Given(torch.zeros(0), (128, 128)), [])
    assert nothing.logits.shape == nothing.truth.shape == (0, 400)
