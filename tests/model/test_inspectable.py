"""Attention of our models as recorded, and sampled attention as a map."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cases import counted, seeds
from hypothesis import strategies as st
from small import CONFIG, TINY, small_weights

from detrcli.config import ModelConfig
from detrcli.errors import UsageError
from detrcli.model.inspectable import ForwardRecord, Inspectable, Sampled
from detrcli.structures import Batch


def sampled(points: torch.Tensor, weights: torch.Tensor, cells: tuple[int, int]) -> Sampled:
    return Sampled(points, weights, torch.full((*points.shape[:2], 2), 0.5), cells)


def slow_density(attention: Sampled) -> torch.Tensor:
    """Point by point, each to the four cells with centers around it."""
    h, w = attention.cells
    density = torch.zeros(*attention.weights.shape[:3], h, w, dtype=torch.float64)
    for index in itertools.product(*map(range, attention.weights.shape)):
        x, y = attention.points[index].tolist()
        column, row = x * w - 0.5, y * h - 0.5
        for i, j in itertools.product(range(h), range(w)):
            share = max(0, 1 - abs(column - j)) * max(0, 1 - abs(row - i))
            density[(*index[:3], i, j)] += share * attention.weights[index].item()
    return density / density.sum((-2, -1), keepdim=True).clamp(min=1e-30)


@counted(100, seeds(), st.integers(1, 5), st.integers(1, 5))
def test_density_equals_a_slow_loop(g: torch.Generator, h: int, w: int) -> None:
    """With two images, three queries, two heads, and two levels of four points, some of them outside."""
    points = 1.4 * torch.rand(2, 3, 2, 2, 4, 2, generator=g, dtype=torch.float64) - 0.2
    points[:, :, :, :, 0] = 0.5  # at least one inside
    weights = torch.rand(2, 3, 2, 2, 4, generator=g, dtype=torch.float64)
    attention = sampled(points, weights / weights.sum((-2, -1), keepdim=True), (h, w))
    density = attention.density()
    assert density.shape == (2, 3, 2, h, w)
    torch.testing.assert_close(density, slow_density(attention))
    torch.testing.assert_close(density.sum((-2, -1)), torch.ones(2, 3, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ([0.5, 0.75], [[0.25, 0, 0, 0], [0, 0.375, 0.375, 0]]),  # between two centers
        ([7.0, -3.0], [[1, 0, 0, 0], [0, 0, 0, 0]]),  # outside: the rest is normalized
    ],
)
def test_density_by_hand(second: list[float], expected: list[list[float]]) -> None:
    points = torch.tensor([[0.125, 0.25], second]).view(1, 1, 1, 1, 2, 2)  # the first at the center of a cell
    weights = torch.tensor([0.25, 0.75]).view(1, 1, 1, 1, 2)
    assert sampled(points, weights, (2, 4)).density()[0, 0, 0].tolist() == expected
    outside = sampled(points + 9, weights, (2, 4)).density()
    assert torch.equal(outside, torch.zeros(1, 1, 1, 2, 4))  # and not NaN


@pytest.mark.parametrize(("config", "alike"), [(CONFIG, [True, False]), (TINY, [False, False])], ids=["detr", "tiny"])
def test_queries_are_alike(config: ModelConfig, alike: list[bool]) -> None:
    """The contents of all queries are zero in the first layer of DETR, and different in detr-tiny."""
    checkpoint = small_weights(config)
    model = checkpoint.model()
    with torch.no_grad(), checkpoint.inspect(model).recorded() as record:
        model(Batch(torch.rand(1, 3, 64, 96), None))
    assert [record.queries_are_alike(layer) for layer in range(2)] == alike


def test_missing_abilities_are_named() -> None:
    model: Any = SimpleNamespace(abilities=frozenset({"cross-attention"}))
    Inspectable.require(model, "cross-attention")
    with pytest.raises(UsageError, match=r"no relevance .*: cross-attention\."):
        Inspectable.require(model, "relevance")
    for call, ability in (
        (lambda: Inspectable.with_gradient(model), "relevance"),
        (lambda: ForwardRecord().cross(0, [0]), "cross-attention"),
        (lambda: ForwardRecord().encoder(0, [0]), "encoder attention"),
        (lambda: ForwardRecord().among_queries(0), "query attention"),
    ):
        with pytest.raises(UsageError, match=f"no {ability}"):
            call()
