"""The interface for inspecting a model: its stages and its attention, recorded by forward hooks.

In shapes, A is the number of attending tokens (queries or feature cells), n of those that are requested, and S of the
tokens that they attend to.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from detrcli.errors import UsageError
from detrcli.structures import Output

Shape = tuple[int, ...]
Ability = Literal["cross-attention", "encoder attention", "query attention", "relevance"]


@dataclass(frozen=True)
class Dense:
    """Attention with a weight for each cell of a feature map."""

    weights: Tensor  # (B, n, heads, h, w), summing to 1 over the cells

    def density(self) -> Tensor:
        return self.weights


@dataclass(frozen=True)
class Sampled:
    """Attention at a few sampling points on several levels (arXiv 2010.04159)."""

    points: Tensor  # (B, n, heads, levels, points, 2), x and y in [0, 1] of the network's input
    weights: Tensor  # (B, n, heads, levels, points), summing to 1 over levels and points
    references: Tensor  # (B, n, 2 or 4), cx, cy, and w, h where the reference is a box
    cells: tuple[int, int]  # rows and columns of the finest level

    def density(self) -> Tensor:
        """Return the weights as a map of the finest level, (B, n, heads, h, w), summing to 1.

        Each weight is distributed over the four cells around its point, as in bilinear sampling.
        """
        h, w = self.cells
        x = self.points[..., 0].flatten(3) * w - 0.5  # (B, n, heads, levels * points)
        y = self.points[..., 1].flatten(3) * h - 0.5
        weights = self.weights.flatten(3)
        density = weights.new_zeros(*weights.shape[:3], h * w)
        for column, column_share in ((x.floor(), 1 - (x - x.floor())), (x.floor() + 1, x - x.floor())):
            for row, row_share in ((y.floor(), 1 - (y - y.floor())), (y.floor() + 1, y - y.floor())):
                inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
                cell = (row.clamp(0, h - 1) * w + column.clamp(0, w - 1)).long()
                density.scatter_add_(3, cell, weights * column_share * row_share * inside)
        density = density / density.sum(-1, keepdim=True).clamp(min=torch.finfo(density.dtype).tiny)
        return density.view(*density.shape[:3], h, w)


Attention = Dense | Sampled


class ForwardRecord:
    """A recorded forward pass. Attention is computed on request, for the requested queries or cells only."""

    output: Output
    cells: tuple[int, int] = (1, 1)  # rows and columns of the map on which attention is shown

    @property
    def encoder_cells(self) -> tuple[int, int]:
        """Rows and columns of the map whose cells attend to each other in the encoder."""
        return self.cells

    def cross(self, layer: int, queries: Sequence[int]) -> Attention:
        """Return the cross-attention of some queries in a decoder layer."""
        raise cannot("cross-attention")

    def encoder(self, layer: int, cells: Sequence[int]) -> Attention:
        """Return the attention of some cells in an encoder layer; cells are counted row by row."""
        raise cannot("encoder attention")

    def among_queries(self, layer: int) -> Tensor:
        """Return the self-attention of the queries in a decoder layer, (B, heads, Q, Q), attending queries first."""
        raise cannot("query attention")

    def queries_are_alike(self, layer: int) -> bool:
        """Return whether all queries have equal values in a layer's self-attention, so that weights have no effect."""
        return False


@dataclass(frozen=True)
class GradientRecord:
    """The attention weights (B, heads, A, S) of a forward pass, layer by layer, as parts of its autograd graph."""

    cells: tuple[int, int]
    encoder: Sequence[Tensor]  # self-attention
    decoder: Sequence[tuple[Tensor, Tensor]]  # self-attention, cross-attention


@dataclass(frozen=True)
class Stage:
    """A part of the model, which `detr explain` describes by its name, the shape of its output and some facts."""

    name: str
    module: nn.Module
    axes: int | None = None  # how many of the output's last axes describe a single image; None: all but the first
    facts: Mapping[str, Any] = field(default_factory=dict)  # numbers and kinds: `layers`, `points`, `attention`
    pick: Callable[[Any], Tensor] = lambda output: output  # the tensor to describe, from the module's output


class Inspectable(ABC):
    """Access to the internals of a model; `abilities` lists what it can show."""

    heads: int
    encoder_layers: int
    decoder_layers: int
    abilities: frozenset[Ability]
    attention_name: str = "decoder cross-attention"  # the attention from queries to the image

    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """Return the stages in the order of computation."""

    @abstractmethod
    def recorded(self) -> AbstractContextManager[ForwardRecord]:
        """Record forward passes in the `with` block without changing them; the record is that of the last pass."""

    def with_gradient(self) -> AbstractContextManager[Callable[[], GradientRecord]]:
        """Keep attention in the autograd graph; the context's value returns the record of the last forward pass."""
        raise cannot("relevance")

    def require(self, ability: Ability) -> None:
        """Raise UsageError if the model lacks an ability."""
        if ability not in self.abilities:
            raise cannot(ability, self.abilities)


class NoAttention(Inspectable):
    """Base class for models without attention."""

    heads = encoder_layers = 0
    decoder_layers = 1  # their predictions count as those of one layer
    abilities = frozenset()

    def __init__(self, model: Any) -> None:
        self.model = model

    @contextmanager
    def recorded(self) -> Iterator[ForwardRecord]:
        record = ForwardRecord()
        with self.model.register_forward_hook(lambda _m, _i, output: setattr(record, "output", output)):
            yield record


def cannot(ability: Ability, abilities: frozenset[Ability] = frozenset()) -> UsageError:
    """Return the error for a missing ability, which lists the abilities of the model."""
    rest = f" It can show: {', '.join(sorted(abilities))}." if abilities else ""
    return UsageError(f"This model has no {ability} to show.{rest}")
