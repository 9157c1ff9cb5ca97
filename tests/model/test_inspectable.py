"""What a model offers to those who look inside: attention by sampled points, as a map."""

import math

import pytest
import torch
from cases import counted, seeds
from hypothesis import strategies as st
from small import CONFIG, TINY, small_weights

from detrcli.errors import UsageError
from detrcli.model.inspectable import Dense, ForwardRecord, Inspectable, Sampled
from detrcli.structures import Batch


def sampled(points: torch.Tensor, weights: torch.Tensor, cells: tuple[int, int]) -> Sampled:
    return Sampled(points, weights, torch.full((*points.shape[:2], 2), 0.5), cells)


def slow_density(attention: Sampled) -> torch.Tensor:
    """Point by point, each to the four cells whose centres are around it."""
    h, w = attention.cells
    density = torch.zeros(*attention.weights.shape[:3], h, w, dtype=torch.float64)
    for place in torch.cartesian_prod(*(torch.arange(n) for n in attention.weights.shape)).tolist():
        x, y = attention.points[tuple(place)].tolist()
        column, row = x * w - 0.5, y * h - 0.5
        for j in (math.floor(column), math.floor(column) + 1):
            for i in (math.floor(row), math.floor(row) + 1):
                if 0 <= i < h and 0 <= j < w:
                    share = (1 - abs(column - j)) * (1 - abs(row - i))
                    density[(*place[:3], i, j)] += share * attention.weights[tuple(place)].item()
    return density / density.sum((-2, -1), keepdim=True).clamp(min=1e-30)


@counted(100, seeds(), st.integers(1, 5), st.integers(1, 5))
def test_density_equals_a_slow_loop(g: torch.Generator, h: int, w: int) -> None:
    """Of two pictures, three queries, two heads, two levels of four points, some of which lie outside."""
    points = 1.4 * torch.rand(2, 3, 2, 2, 4, 2, generator=g, dtype=torch.float64) - 0.2
    points[:, :, :, :, 0] = 0.5  # one of each inside, so that there is something to share out
    weights = torch.rand(2, 3, 2, 2, 4, generator=g, dtype=torch.float64)
    attention = sampled(points, weights / weights.sum((-2, -1), keepdim=True), (h, w))
    density = attention.density()
    assert density.shape == (2, 3, 2, h, w)
    torch.testing.assert_close(density, slow_density(attention))
    torch.testing.assert_close(density.sum((-2, -1)), torch.ones(2, 3, 2, dtype=torch.float64))


def test_density_by_hand() -> None:
    """A point at a cell's centre is all that cell's; one between two centres is half of each."""
    points = torch.tensor([[0.125, 0.25], [0.5, 0.75]]).view(1, 1, 1, 1, 2, 2)
    weights = torch.tensor([0.25, 0.75]).view(1, 1, 1, 1, 2)
    density = sampled(points, weights, (2, 4)).density()[0, 0, 0]
    torch.testing.assert_close(density, torch.tensor([[0.25, 0, 0, 0], [0, 0.375, 0.375, 0]]))


def test_what_lies_outside_goes_to_nobody() -> None:
    """What is left is shared out anew; where nothing is left, there is nothing to see and no NaN."""
    points = torch.tensor([[0.125, 0.25], [7.0, -3.0]]).view(1, 1, 1, 1, 2, 2)
    weights = torch.tensor([0.25, 0.75]).view(1, 1, 1, 1, 2)
    assert sampled(points, weights, (2, 4)).density()[0, 0, 0].tolist() == [[1, 0, 0, 0], [0, 0, 0, 0]]
    outside = sampled(points + 5, weights, (2, 4)).density()
    assert torch.equal(outside, torch.zeros(1, 1, 1, 2, 4))


def test_dense_attention_is_its_own_density() -> None:
    weights = torch.rand(1, 2, 3, 4, 5)
    assert torch.equal(Dense(weights).density(), weights)


@pytest.mark.parametrize("config", [CONFIG, TINY], ids=["detr", "tiny"])
def test_what_our_members_record(config: object) -> None:
    """All shapes and shares of a forward pass, which gives what it gives anyway; and no hook stays."""
    checkpoint = small_weights(config)
    model = checkpoint.model()
    inspectable = checkpoint.inspect(model)
    batch = Batch(torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)), None)
    with torch.no_grad():
        plain = model(batch).last
        with inspectable.recorded() as record:
            model(batch)
    assert torch.equal(record.output.last.logits, plain.logits)
    h, w = record.cells
    heads, layers = inspectable.heads, inspectable.decoder_layers
    for attention, asked in (
        (record.cross(layers - 1, [0, 5, 8]), 3),
        (record.encoder(inspectable.encoder_layers - 1, [0, h * w - 1]), 2),
    ):
        density = attention.density()
        assert density.shape == (1, asked, heads, h, w)
        torch.testing.assert_close(density.sum((-2, -1)), torch.ones(1, asked, heads))
    among = record.among_queries(layers - 1)
    assert among.shape == (1, heads, 9, 9)
    torch.testing.assert_close(among.sum(-1), torch.ones(1, heads, 9))
    # Contents start at zero in DETR, and as something of each query's own in the other.
    assert [record.queries_are_alike(layer) for layer in range(2)] == [config is CONFIG, False]
    hooks = [h for m in model.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks)]
    assert hooks == []


class Blind(Inspectable):
    """A member that shows where queries look, and nothing else."""

    abilities = frozenset({"cross-attention"})

    def stages(self) -> list[object]:
        return []

    def recorded(self) -> object:
        return None


class BlindRecord(ForwardRecord):
    """And its record."""

    def cross(self, layer: int, queries: object) -> Dense:
        return Dense(torch.ones(1, 1, 1, 1, 1))


def test_what_a_member_cannot_show_it_says() -> None:
    blind = Blind()
    blind.require("cross-attention")
    with pytest.raises(UsageError, match=r"no relevance to show. It can show: cross-attention\."):
        blind.require("relevance")
    with pytest.raises(UsageError, match="no relevance"):
        blind.with_gradient()
    with pytest.raises(UsageError, match="no encoder attention"):
        BlindRecord().encoder(0, [0])
    with pytest.raises(UsageError, match="no query attention"):
        BlindRecord().among_queries(0)
