"""Hungarian matching against brute force, and at its edges."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from cases import counted, group_of, random_boxes, random_prediction, random_target, seeds
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from detrcli.architectures.detr import ARCHITECTURE, DETRConfig
from detrcli.boxes import cxcywh_to_xyxy, generalized_iou
from detrcli.config import LossConfig
from detrcli.errors import DataError, DivergedError
from detrcli.losses import matching
from detrcli.losses.matching import HungarianMatcher
from detrcli.losses.scoring import Sigmoid
from detrcli.losses.terms import class_cost
from detrcli.structures import Match, Prediction, QueryGroup, Target


def matcher_of(**choices: Any) -> HungarianMatcher:
    """The published matching, or a variation of it."""
    return ARCHITECTURE.make_loss(DETRConfig(), LossConfig(**choices)).matcher


def cost_by_hand(prediction: Prediction, image: int, target: Target, *, log: bool = False) -> Tensor:
    """The published cost of each query and object of an image, (Q, N)."""
    p = prediction.logits[image].softmax(-1)[:, target.labels]
    boxes = prediction.boxes[image]
    giou = generalized_box_iou(*(box_convert(each, "cxcywh", "xyxy") for each in (boxes, target.boxes)))
    return -(p.log() if log else p) + 5 * torch.cdist(boxes, target.boxes, p=1) - 2 * giou


def of_image(match: Match, image: int, start: int) -> list[tuple[int, int]]:
    """The pairs (query, object) of an image, with objects counted from 0 in the image."""
    here = match.images == image
    return sorted(zip(match.queries[here].tolist(), (match.targets[here] - start).tolist(), strict=True))


def check_cheapest(match: Match, layer: Prediction, targets: Sequence[Target], *, log: bool = False) -> None:
    """Try every assignment of every image."""
    queries, start = layer.logits.shape[1], 0
    for image, target in enumerate(targets):
        pairs = of_image(match, image, start)
        objects = len(target)
        start += objects
        assert len({q for q, _ in pairs}) == len({n for _, n in pairs}) == len(pairs) == min(queries, objects)
        costs = cost_by_hand(layer, image, target, log=log)  # (Q, N)
        rows = costs if queries <= objects else costs.T
        options = itertools.permutations(range(max(queries, objects)), min(queries, objects))
        cheapest = min(sum(row[i] for row, i in zip(rows.tolist(), option, strict=True)) for option in options)
        assert sum(costs[q, n].item() for q, n in pairs) <= cheapest + 1e-4


@counted(
    1000,
    seeds(),
    st.integers(1, 5),
    st.lists(st.integers(0, 6), min_size=1, max_size=3),
    st.sampled_from(["probability", "log"]),
)
def test_equals_brute_force(g: torch.Generator, queries: int, counts: list[int], class_cost: str) -> None:
    """Including images with more objects than queries and without objects."""
    layers = [random_prediction(g, len(counts), queries, 4) for _ in range(2)]
    targets = [random_target(g, n, 4) for n in counts]
    match = matcher_of(class_cost=class_cost)(group_of(*layers), targets)
    for i, layer in enumerate(layers):
        check_cheapest(match.layer(i), layer, targets, log=class_cost == "log")


def test_cost_terms() -> None:
    """Each object meets the queries of its own image; the terms sum to the published cost and have its ranges."""
    g = torch.Generator().manual_seed(0)
    prediction = random_prediction(g, 2, 6, 3)
    targets = [random_target(g, 2, 3), random_target(g, 1, 3)]
    matcher = matcher_of()
    terms = matcher.costs(prediction.logits[None], prediction.boxes[None], targets)
    total = matcher.total(terms)
    expected = torch.cat([cost_by_hand(prediction, image, target).T for image, target in enumerate(targets)])
    torch.testing.assert_close(total, expected[None], rtol=0, atol=1e-5)
    for name, (low, high) in {"class": (-1, 0), "l1": (0, math.inf), "giou": (-1, 1)}.items():
        assert ((terms[name] >= low) & (terms[name] <= high)).all()


@counted(200, seeds(), st.integers(1, 4), st.lists(st.integers(0, 5), min_size=1, max_size=3))
def test_pairs_of_the_last_layer_equal_brute_force(g: torch.Generator, queries: int, counts: list[int]) -> None:
    """They hold for every layer and are in the order that `Match` defines."""
    layers = [random_prediction(g, len(counts), queries, 4) for _ in range(3)]
    targets = [random_target(g, n, 4) for n in counts]
    match = matcher_of(matching="last")(group_of(*layers), targets)
    pairs = sum(min(queries, n) for n in counts)
    assert match.layers.tolist() == [layer for layer in range(3) for _ in range(pairs)]
    for layer in range(3):
        of_layer = match.layer(layer)
        assert of_layer.images.tolist() == sorted(of_layer.images.tolist())
        check_cheapest(of_layer, layers[-1], targets)


@pytest.mark.parametrize("matching", ["each", "last"])
def test_no_objects_in_the_batch(matching: str) -> None:
    g = torch.Generator().manual_seed(2)
    layers = [random_prediction(g, 2, 4, 3) for _ in range(3)]
    match = matcher_of(matching=matching)(group_of(*layers), [random_target(g, 0, 3)] * 2)
    assert match.layers.shape == match.images.shape == match.queries.shape == match.targets.shape == (0,)
    assert match.queries.dtype == torch.int64


def test_matching_by_other_terms() -> None:
    """By the focal class cost alone each query takes the object of the class that it predicts."""
    logits = torch.full((1, 1, 3, 3), -4.0)
    logits[0, 0, [0, 1, 2], [2, 0, 1]] = 4
    target = Target(torch.tensor([0, 1, 2]), torch.rand(3, 4))
    matcher = HungarianMatcher([class_cost(Sigmoid(), "focal", 2)])
    match = matcher(QueryGroup("decoder", logits, torch.rand(1, 1, 3, 4)), [target])
    assert of_image(match, 0, 0) == [(0, 2), (1, 0), (2, 1)]
    assert matcher.weights == {"class": 2}


def test_half_precision_has_the_costs_of_float32() -> None:
    """Corners and areas are not rounded again."""
    g = torch.Generator().manual_seed(3)
    layer, targets = random_prediction(g, 1, 40, 3), [random_target(g, 5, 3)]
    logits, boxes = layer.logits[None].bfloat16(), layer.boxes[None].bfloat16()
    costs, exact = (matcher_of().costs(*given, targets) for given in ((logits, boxes), (logits.float(), boxes.float())))
    for name, values in costs.items():
        assert torch.equal(values, exact[name]), name
    assert matcher_of().total(costs).dtype == torch.float32


def test_large_sums_of_half_precision_count_as_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum of the boxes exceeds float16."""
    monkeypatch.setattr(matching, "_raise_not_finite", lambda *_: pytest.fail("the predictions are finite"))
    logits, boxes = torch.zeros(1, 1, 70_000, 2).half(), torch.full((1, 1, 70_000, 4), 0.5).half()
    nothing = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    assert len(matcher_of()(QueryGroup("decoder", logits, boxes), [nothing]).queries) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("counts", [(2, 1), (2, 0)], ids=["objects", "empty"])
@pytest.mark.parametrize("name", ["logits", "boxes"])
def test_predictions_that_are_not_finite_are_named(name: str, value: float, counts: tuple[int, int]) -> None:
    """In image 1 of layer 0, also if it has no objects and so no cost."""
    g = torch.Generator().manual_seed(4)
    layers = [random_prediction(g, 2, 4, 3) for _ in range(2)]
    getattr(layers[0], name)[1, 2, 0] = value
    with pytest.raises(DivergedError, match=f"{name} of image 1 "):
        matcher_of()(group_of(*layers), [random_target(g, n, 3) for n in counts])


@pytest.mark.parametrize(("value", "numbers"), [(float("nan"), slice(3, 4)), (1e30, slice(4))])
def test_target_boxes_without_a_finite_cost_are_named(value: float, numbers: slice) -> None:
    g = torch.Generator().manual_seed(5)
    targets = [random_target(g, 1, 3), random_target(g, 2, 3)]
    targets[1].boxes[1, numbers] = value
    with pytest.raises(DataError, match="target boxes of image 1 "):
        matcher_of()(group_of(random_prediction(g, 2, 4, 3)), targets)


@counted(500, seeds())
def test_generalized_iou_equals_torchvision(g: torch.Generator) -> None:
    a, b = cxcywh_to_xyxy(random_boxes(g, 5)), cxcywh_to_xyxy(random_boxes(g, 4))
    ours = generalized_iou(a[:, None], b)
    torch.testing.assert_close(ours, generalized_box_iou(a, b), rtol=0, atol=1e-6)


def test_generalized_iou_of_empty_and_inverted_boxes() -> None:
    """Finite, never a perfect score, and with finite gradients."""
    whole = [0.2, 0.2, 0.6, 0.6]
    point, line, inverted = [0.4, 0.4, 0.4, 0.4], [0.2, 0.3, 0.6, 0.3], [0.6, 0.6, 0.2, 0.2]
    a = torch.tensor([point, point, line, inverted, inverted, whole], requires_grad=True)
    b = torch.tensor([point, whole, line, inverted, whole, whole])
    ious = generalized_iou(a, b)
    assert ious.isfinite().all()
    assert (ious[:5] <= 0).all()
    assert ious[5] == 1
    ious.sum().backward()
    assert a.grad.isfinite().all()
