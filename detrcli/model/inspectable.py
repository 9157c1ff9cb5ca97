"""What a model offers to those who look inside: its stages, and its attentions. Hooks are hidden behind it.

A points from which is looked (queries, cells), n of them that are asked for, S tokens that are looked at.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from detrcli.errors import UsageError
from detrcli.structures import Output

Shape = tuple[int, ...]
Ability = Literal["cross-attention", "encoder attention", "query attention", "relevance"]


@dataclass(frozen=True)
class Dense:
    """Attention with a weight for every cell of one map."""

    weights: Tensor  # (B, n, heads, h, w), summing to 1 over the cells

    def density(self) -> Tensor:
        """The share of each cell, (B, n, heads, h, w)."""
        return self.weights


@dataclass(frozen=True)
class Sampled:
    """Attention by a few sampled points on several levels (arXiv 2010.04159)."""

    points: Tensor  # (B, n, heads, levels, points, 2), x and y in [0, 1] of the network's input
    weights: Tensor  # (B, n, heads, levels, points), summing to 1 over levels and points
    references: Tensor  # (B, n, 2 or 4), where from: cx, cy, and w, h where it is a box
    cells: tuple[int, int]  # rows and columns of the finest level

    def density(self) -> Tensor:
        """How the weights lie on the finest level, (B, n, heads, h, w), summing to 1.

        A point's weight goes to the four cells around it, as bilinear sampling takes from them; what lies
        outside of the picture goes to nobody.
        """
        h, w = self.cells
        x = self.points[..., 0].flatten(3) * w - 0.5  # (B, n, heads, levels * points)
        y = self.points[..., 1].flatten(3) * h - 0.5
        weights = self.weights.flatten(3)
        map_ = weights.new_zeros(*weights.shape[:3], h * w)
        for column, of_column in ((x.floor(), 1 - (x - x.floor())), (x.floor() + 1, x - x.floor())):
            for row, of_row in ((y.floor(), 1 - (y - y.floor())), (y.floor() + 1, y - y.floor())):
                inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
                place = (row.clamp(0, h - 1) * w + column.clamp(0, w - 1)).long()
                map_.scatter_add_(3, place, weights * of_column * of_row * inside)
        map_ = map_ / map_.sum(-1, keepdim=True).clamp(min=torch.finfo(map_.dtype).tiny)
        return map_.view(*map_.shape[:3], h, w)


Attention = Dense | Sampled


class ForwardRecord(ABC):
    """A forward pass, for whoever wants to look into it. Attention is computed only for what is asked."""

    output: Output
    cells: tuple[int, int]  # rows and columns of the map that attention is shown on

    @property
    def encoder_cells(self) -> tuple[int, int]:
        """Likewise of the map whose cells the encoder's attention is of."""
        return self.cells

    @abstractmethod
    def cross(self, layer: int, queries: Sequence[int]) -> Attention:
        """Where queries look in the picture."""

    def encoder(self, layer: int, cells: Sequence[int]) -> Attention:
        """Where cells look in the picture; they are counted row by row on the map of `encoder_cells`."""
        raise cannot("encoder attention")

    def among_queries(self, layer: int) -> Tensor:
        """Which queries look at which, (B, heads, Q, Q), the looking one first."""
        raise cannot("query attention")

    def queries_are_alike(self, layer: int) -> bool:
        """Whether all queries have the same to give in a decoder layer: then it does not matter who looks at whom."""
        return False


@dataclass(frozen=True)
class GradientRecord:
    """Attention weights (B, heads, A, S) as parts of the way from picture to prediction, layer by layer."""

    cells: tuple[int, int]
    encoder: Sequence[Tensor]  # self-attention of cells
    decoder: Sequence[tuple[Tensor, Tensor]]  # self-attention of queries, cross-attention


@dataclass(frozen=True)
class Stage:
    """A part of the model that a picture passes through."""

    name: str
    module: nn.Module
    axes: int | None  # the last so many of its output are a picture's own; None: all but the first
    what: Callable[[Shape, Mapping[str, Shape]], str]  # a sentence, from its shape and those before it
    pick: Callable[[Any], Tensor] = lambda output: output  # the tensor in what the module gives


class Inspectable(ABC):
    """How to look into a model. What a family cannot show, it says."""

    heads: int
    encoder_layers: int
    decoder_layers: int
    abilities: frozenset[Ability]
    looks_by: str = "decoder cross-attention"  # what it is by which queries look at the picture

    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """The way of a picture, in the order of the work."""

    @abstractmethod
    def recorded(self) -> AbstractContextManager[ForwardRecord]:
        """Records the forward passes in its block, of which the last one stays; nothing of them is changed."""

    def with_gradient(self) -> AbstractContextManager[Callable[[], GradientRecord]]:
        """While it lasts attention has a gradient; what it gives is asked for after the forward pass."""
        raise cannot("relevance")

    def require(self, ability: Ability) -> None:
        """Raise a UsageError where the model cannot show this."""
        if ability not in self.abilities:
            raise cannot(ability, self.abilities)


class _NothingRecorded(ForwardRecord):
    cells = (1, 1)

    def cross(self, layer: int, queries: Sequence[int]) -> Attention:
        raise cannot("cross-attention")


class NoAttention(Inspectable):
    """A model that has no attention to show. Its stages it may have."""

    heads = encoder_layers = 0
    decoder_layers = 1
    abilities = frozenset()

    def __init__(self, model: Any) -> None:
        self.model = model

    @contextmanager
    def recorded(self) -> Iterator[ForwardRecord]:
        record = _NothingRecorded()
        handle = self.model.register_forward_hook(lambda _m, _i, output: setattr(record, "output", output))
        try:
            yield record
        finally:
            handle.remove()


def cannot(ability: Ability, abilities: frozenset[Ability] = frozenset()) -> UsageError:
    """What a user is told who asks a model for what it cannot show."""
    rest = f" It can show: {', '.join(sorted(abilities))}." if abilities else ""
    return UsageError(f"This model has no {ability} to show.{rest}")
