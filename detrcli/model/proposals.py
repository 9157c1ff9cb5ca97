"""The encoder's proposals: every token says what it is and where, and the best become queries (two stages)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detrcli.model.heads import BoxHead
from detrcli.model.pyramid import Pyramid


@dataclass(frozen=True)
class Anchors:
    """A box around the middle of each token, twice as large on each coarser level."""

    logits: Tensor  # (B, S, 4), cx, cy, w, h before the sigmoid; infinite where there is none
    valid: Tensor  # (B, S), not in the padding, and with all four numbers well within [0, 1]


def anchors(pyramid: Pyramid, size: float = 0.05) -> Anchors:
    """Boxes of this part of the picture on the finest level."""
    middles = pyramid.cells()  # (B, S, 2)
    sides = torch.cat(
        [
            torch.full((h * w,), size * 2**level, device=middles.device)
            for level, (h, w) in enumerate(pyramid.shapes)
        ]
    )  # (S,)
    boxes = torch.cat([middles, sides[:, None].expand_as(middles)], -1)  # (B, S, 4)
    valid = ((boxes > 0.01) & (boxes < 0.99)).all(-1)  # (B, S)
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


def chosen(values: Tensor, places: Tensor) -> Tensor:
    """The rows of values (B, S, C) at places (B, Q), (B, Q, C)."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[-1]))


class Proposer(nn.Module):
    """A class and a box for every token of the memory."""

    def __init__(self, dim: int, rows: int) -> None:
        super().__init__()
        self.input = ProposalInput(dim)
        self.class_head = nn.Linear(dim, rows)
        self.box_head = BoxHead(dim)

    def forward(self, memory: Tensor, pyramid: Pyramid) -> tuple[Tensor, Tensor]:
        """A memory (B, S, C) to logits (B, S, R) and boxes (B, S, 4), the latter before the sigmoid."""
        anchored = anchors(pyramid)
        seen = self.input(memory, anchored.valid)
        return self.class_head(seen), self.box_head.logits(seen) + anchored.logits
