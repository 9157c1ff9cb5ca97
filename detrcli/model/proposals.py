"""The encoder's proposals: every token says what it is and where, and the best become queries (two stages)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrcli.model.heads import BoxHead
from detrcli.model.pyramid import Pyramid


@dataclass(frozen=True)
class Anchors:
    """A box around the middle of each token, larger on each coarser level."""

    logits: Tensor  # (B, S, 4), cx, cy, w, h before the sigmoid; infinite where there is none
    valid: Tensor  # (B, S), not in the padding, and with all four numbers within [0, 1]


def anchors(pyramid: Pyramid, cells: float | None = None) -> Anchors:
    """Boxes of 0.05 of the picture on the finest level, as published; or of so many cells of each level."""
    middles = pyramid.cells()  # (B, S, 2)
    if cells is None:
        sides = [
            torch.full((h * w, 2), 0.05 * 2**level, device=middles.device).expand_as(middles[:, : h * w])
            for level, (h, w) in enumerate(pyramid.shapes)
        ]
        margin = 0.01
    else:
        sides = [
            (cells / (pyramid.picture[:, level] * torch.tensor([w, h], device=middles.device)))
            .clamp(max=0.9)[:, None]
            .expand(-1, h * w, -1)
            for level, (h, w) in enumerate(pyramid.shapes)
        ]
        margin = 0.0
    boxes = torch.cat([middles, torch.cat(sides, 1)], -1)  # (B, S, 4)
    valid = ((boxes > margin) & (boxes < 1 - margin)).all(-1)  # (B, S)
    if pyramid.padding is not None:
        valid = valid & ~pyramid.padding
    logits = torch.log(boxes / (1 - boxes)).masked_fill(~valid[..., None], torch.inf)
    return Anchors(logits, valid)


class ProposalInput(nn.Module):
    """The memory as proposals are read from it: tokens without an anchor are all alike."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, memory: Tensor, valid: Tensor) -> Tensor:
        """A memory (B, S, C), of which tokens (B, S) are valid, to (B, S, C)."""
        return self.norm(self.linear(memory.masked_fill(~valid[..., None], 0)))


def topk_tokens(scores: Tensor, queries: int) -> Tensor:
    """The places (B, Q) of the highest scores (B, S); places from S on where there are not so many.

    So a model has the same number of queries for every picture, which exports need.
    """
    lowest = torch.finfo(scores.dtype).min
    return F.pad(scores, (0, queries), value=lowest).topk(queries, 1).indices


def gather_tokens(values: Tensor, places: Tensor, otherwise: float = 0.0) -> Tensor:
    """The rows of values (B, S, C) at places (B, Q), (B, Q, C); `otherwise` at places beyond."""
    longer = F.pad(values, (0, 0, 0, places.shape[1]), value=otherwise)
    return longer.gather(1, places[..., None].expand(-1, -1, values.shape[-1]))


NO_CLASS = -10.0  # the class logits of a query that no token was left for


class Proposer(nn.Module):
    """A class and a box for every token of the memory."""

    def __init__(self, dim: int, rows: int, cells: float | None = None) -> None:
        super().__init__()
        self.cells = cells  # of an anchor
        self.input = ProposalInput(dim)
        self.class_head = nn.Linear(dim, rows)
        self.box_head = BoxHead(dim)

    def forward(self, memory: Tensor, pyramid: Pyramid) -> tuple[Tensor, Tensor, Tensor]:
        """A memory (B, S, C) to logits (B, S, R), boxes (B, S, 4) before the sigmoid, and what both saw."""
        anchored = anchors(pyramid, self.cells)
        seen = self.input(memory, anchored.valid)
        return self.class_head(seen), self.box_head.logits(seen) + anchored.logits, seen
