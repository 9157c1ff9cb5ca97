"""The loss of masks against numbers computed pixel by pixel."""

import math
from collections.abc import Callable

import pytest
import torch
from cases import GivenMasks
from torch import Tensor

from detrcli.losses.criterion import Criterion
from detrcli.losses.masks import (
    at_pixels,
    at_points,
    cross_entropy,
    dice,
    every_pixel,
    focal,
    mask_loss,
    sampled_points,
)
from detrcli.losses.matching import HungarianMatcher
from detrcli.losses.scoring import Softmax
from detrcli.losses.terms import l1_cost, l1_loss
from detrcli.structures import Output, QueryGroup, Target

LOGITS = torch.tensor([[2.0, -1.0, 0.5, -3.0], [0.0, 0.0, 4.0, -4.0]])
TRUTH = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]])


def by_hand(logits: list[float], truth: list[float]) -> tuple[float, float, float]:
    """Focal, cross-entropy and dice loss of a mask."""
    focal_sum = entropy_sum = common = predicted = 0.0
    for logit, true in zip(logits, truth, strict=True):
        p = 1 / (1 + math.exp(-logit))
        right = p if true else 1 - p
        entropy_sum -= math.log(right)
        focal_sum -= (0.25 if true else 0.75) * (1 - right) ** 2 * math.log(right)
        common += p * true
        predicted += p
    n = len(logits)
    return focal_sum / n, entropy_sum / n, 1 - (2 * common + 1) / (predicted + sum(truth) + 1)


@pytest.mark.parametrize(("i", "measure"), [(0, focal), (1, cross_entropy), (2, dice)])
def test_measures(i: int, measure: Callable[[Tensor, Tensor], Tensor]) -> None:
    wanted = [by_hand(a, b)[i] for a, b in zip(LOGITS.tolist(), TRUTH.tolist(), strict=True)]
    assert measure(LOGITS, TRUTH).tolist() == pytest.approx(wanted, rel=1e-5)


def criterion_of_masks() -> Criterion:
    terms = [l1_loss(1.0), mask_loss("mask", 2.0, focal, every_pixel), mask_loss("dice", 3.0, dice, every_pixel)]
    return Criterion(Softmax(), HungarianMatcher([l1_cost(1.0)]), terms)


def test_only_the_last_layer_and_matched_queries_count() -> None:
    """Each query is matched to the object whose box it predicts; other layers and queries have no effect."""
    truth = torch.zeros(3, 8, 8, dtype=torch.bool)
    truth[0, 1:3, 1:4], truth[1, 4:8, 0:4], truth[2, 0:6, 5:7] = True, True, True
    boxes = torch.tensor([[2.5, 2, 3, 2], [2, 6, 4, 4], [6, 3, 2, 6]]) / 8
    labels = torch.zeros(3, dtype=torch.long)
    # The second image is smaller: its padding is not part of its object.
    targets = [Target(labels[:2], boxes[:2], masks=truth[:2]), Target(labels[2:], boxes[2:], masks=truth[2:, :6, :7])]
    predicted = torch.full((2, 2, 3, 4), 0.5)  # (L, B, Q, 4)
    predicted[1, 0, 2], predicted[1, 0, 0], predicted[1, 1, 1] = boxes
    predicted[0, 0, 0], predicted[0, 0, 1], predicted[0, 1, 0] = boxes
    masks = GivenMasks(torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)), (8, 8))
    decoder = QueryGroup("decoder", torch.zeros(2, 2, 3, 2), predicted, masks=masks)
    losses = criterion_of_masks().compute_loss(Output(decoder), targets)

    sums = [0.0, 0.0]
    for (image, query), mask in zip(((0, 2), (0, 0), (1, 1)), truth, strict=True):
        enlarged = torch.nn.functional.interpolate(masks.logits[image, query][None, None], size=(8, 8), mode="bilinear")
        of_mask = by_hand(enlarged.flatten().tolist(), mask.float().flatten().tolist())
        sums = [sums[0] + of_mask[0], sums[1] + of_mask[2]]
    layers = losses.layers["decoder"]
    assert layers["mask"].tolist() == pytest.approx([0, sums[0] / 3], rel=1e-5)
    assert layers["dice"].tolist() == pytest.approx([0, sums[1] / 3], rel=1e-5)
    expected = layers["l1"].sum().item() + 2 * sums[0] / 3 + 3 * sums[1] / 3
    assert losses.total.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("masks", [GivenMasks(torch.zeros(1, 3, 4, 4), (8, 8)), None])
@pytest.mark.parametrize("truth", [torch.zeros(1, 8, 8, dtype=torch.bool), None])
def test_without_masks_there_is_no_mask_loss(masks: GivenMasks | None, truth: Tensor | None) -> None:
    decoder = QueryGroup("decoder", torch.zeros(1, 1, 3, 2), torch.full((1, 1, 3, 4), 0.5), masks=masks)
    target = Target(torch.zeros(1, dtype=torch.long), torch.full((1, 4), 0.5), masks=truth)
    both = masks is not None and truth is not None
    expected = {"l1", "mask", "dice"} if both else {"l1"}
    assert criterion_of_masks().compute_loss(Output(decoder), [target]).parts.keys() == expected


def test_points_are_read_as_at_pixels_the_enlarged_mask() -> None:
    """At the center of each pixel of the input: the interpolated logit, and the pixel of the ground-truth mask."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, generator=generator)
    y, x = torch.meshgrid(torch.arange(16), torch.arange(20), indexing="ij")
    centers = torch.stack([(x + 0.5) / 20, (y + 0.5) / 16], -1).view(1, -1, 2).repeat(2, 1, 1)
    wanted = torch.nn.functional.interpolate(logits[None], size=(16, 20), mode="bilinear")[0]
    torch.testing.assert_close(at_points(logits, centers), wanted.flatten(1))
    mask = torch.rand(12, 20, generator=generator) < 0.5  # of an image with padding below
    pixels = at_pixels(mask, (centers[0] * torch.tensor([20, 16])).long()).view(16, 20)
    assert torch.equal(pixels[:12], mask)
    assert not pixels[12:].any()


def test_points_lie_where_masks_are_most_uncertain() -> None:
    torch.manual_seed(0)
    logits = torch.full((1, 32, 32), -9.0)
    logits[0, 8:24, 8:24] = 9
    truth = torch.zeros(128, 128, dtype=torch.bool)
    truth[32:96, 32:96] = True
    sampled, expected = sampled_points(400)(logits, [truth], (128, 128))
    assert sampled.shape == expected.shape == (1, 400)
    at_edge = (sampled.abs() < 8.9)[0]
    assert at_edge[:300].sum() > 5 * at_edge[300:].sum()
    assert torch.equal(sampled[0, ~at_edge] > 0, expected[0, ~at_edge] > 0)
    assert [tensor.shape for tensor in sampled_points(400)(logits[:0], [], (128, 128))] == [(0, 400)] * 2
