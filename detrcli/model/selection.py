"""Which tokens become queries, and with what contents (section 3.3 of arXiv 2203.03605)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detrcli.model.proposals import NO_CLASS, Proposer, gather_tokens, topk_tokens
from detrcli.model.pyramid import Pyramid
from detrcli.structures import QueryGroup


@dataclass(frozen=True)
class Selected:
    """The queries before the first decoder layer."""

    contents: Tensor  # (B, Q, C)
    references: Tensor  # (B, Q, 4), before the sigmoid, detached
    tokens: Tensor  # (B, Q)
    proposals: QueryGroup  # what of the encoder is supervised


class MixedSelection(nn.Module):
    """References from the best proposals, contents learned, by rank. Only what is selected is supervised."""

    def __init__(self, queries: int, dim: int, rows: int) -> None:
        super().__init__()
        self.proposer = Proposer(dim, rows)
        self.contents = nn.Parameter(nn.init.normal_(torch.empty(queries, dim)))

    def forward(self, memory: Tensor, pyramid: Pyramid) -> Selected:
        logits, boxes, _ = self.proposer(memory, pyramid)  # (B, S, R), (B, S, 4) before the sigmoid
        best = topk_tokens(logits.amax(-1), len(self.contents))  # (B, Q)
        logits, boxes = gather_tokens(logits, best, NO_CLASS), gather_tokens(boxes, best)
        contents = self.contents.expand(memory.shape[0], -1, -1)
        proposals = QueryGroup("proposals", logits[None], boxes.sigmoid()[None], tokens=best)
        return Selected(contents, boxes.detach(), best, proposals)


class PureSelection(nn.Module):
    """References and contents from the best proposals; every token is supervised.

    The contents are not detached: what the decoder learns, the tokens that it began with learn too.
    """

    def __init__(self, queries: int, dim: int, rows: int, *, cells: float) -> None:
        super().__init__()
        self.queries = queries
        self.proposer = Proposer(dim, rows, cells=cells)

    def forward(self, memory: Tensor, pyramid: Pyramid) -> Selected:
        logits, boxes, seen = self.proposer(memory, pyramid)  # (B, S, R), (B, S, 4) before the sigmoid
        best = topk_tokens(logits.amax(-1), self.queries)  # (B, Q)
        return Selected(
            gather_tokens(seen, best),
            gather_tokens(boxes, best).detach(),
            best,
            QueryGroup("proposals", logits[None], boxes.sigmoid()[None]),
        )
