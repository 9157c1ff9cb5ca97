"""Two-stage detection: every encoder token proposes a box, and the best proposals become queries.

Section A.4 of arXiv 2010.04159 for Deformable DETR, section 3.3 of arXiv 2203.03605 for DINO's selections.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrcli.model.detection_transformer import BoxHead
from detrcli.model.pyramid import Pyramid
from detrcli.structures import QueryGroup

NO_CLASS = -10.0  # the class logits of queries beyond the number of tokens


@dataclass(frozen=True)
class InitialQueries:
    """The queries before the first decoder layer."""

    contents: Tensor  # (B, Q, C)
    references: Tensor  # (B, Q, 2 or 4), before the sigmoid
    positions: Tensor | None = None  # (B, Q, C); None: computed from the references in every layer
    tokens: Tensor | None = None  # (B, Q), the tokens whose proposals became the queries
    proposals: QueryGroup | None = None  # the proposals that contribute to the loss


def anchors(pyramid: Pyramid, cells: float | None = None) -> tuple[Tensor, Tensor]:
    """Return a box around the center of each token, (B, S, 4), and whether the token is valid, (B, S).

    Sides are `cells` cells, or for None as published: 0.05 of the image on the finest level, doubled at every level.
    Boxes are cxcywh before the sigmoid, infinite for invalid tokens: padding, and boxes with numbers near 0 or 1.
    """
    centers = pyramid.cell_centers()  # (B, S, 2)
    sides = []
    for level, (h, w) in enumerate(pyramid.shapes):
        if cells is None:
            side = torch.full_like(centers[:, 0], 0.05 * 2**level)  # (B, 2)
        else:
            columns_rows = pyramid.valid_ratios[:, level] * torch.tensor([w, h], device=centers.device)  # (B, 2)
            side = (cells / columns_rows).clamp(max=0.9)
        sides.append(side[:, None].expand(-1, h * w, -1))
    margin = 0.01 if cells is None else 0.0  # 0.01 as published
    boxes = torch.cat([centers, torch.cat(sides, 1)], -1)  # (B, S, 4)
    valid = ((boxes > margin) & (boxes < 1 - margin)).all(-1)  # (B, S)
    if pyramid.padding is not None:
        valid = valid & ~pyramid.padding
    return torch.log(boxes / (1 - boxes)).masked_fill(~valid[..., None], torch.inf), valid


class Proposer(nn.Module):
    """Class and box heads for every token of the memory; `cells` is the side of the anchors (see `anchors`)."""

    def __init__(self, dim: int, rows: int, cells: float | None = None) -> None:
        super().__init__()
        self.cells = cells
        self.input = nn.Sequential(OrderedDict(linear=nn.Linear(dim, dim), norm=nn.LayerNorm(dim)))
        self.class_head = nn.Linear(dim, rows)
        self.box_head = BoxHead(dim)

    def forward(self, memory: Tensor, pyramid: Pyramid) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (B, S, R), boxes (B, S, 4) before the sigmoid, and the heads' input (B, S, C)."""
        boxes, valid = anchors(pyramid, self.cells)
        features = self.input(memory.masked_fill(~valid[..., None], 0))  # (B, S, C)
        return self.class_head(features), self.box_head.logits(features) + boxes, features


def topk_tokens(scores: Tensor, queries: int) -> Tensor:
    """Return the indices (B, Q) of the highest scores (B, S).

    With fewer tokens than queries, the other indices are S or more: exports require a fixed number of queries.
    """
    return F.pad(scores, (0, queries), value=torch.finfo(scores.dtype).min).topk(queries, 1).indices


def gather_tokens(values: Tensor, indices: Tensor, fill: float = 0.0) -> Tensor:
    """Return the values (B, S, C) at indices (B, Q), (B, Q, C), and `fill` at indices of S or more."""
    padded = F.pad(values, (0, 0, 0, indices.shape[1]), value=fill)
    return padded.gather(1, indices[..., None].expand(-1, -1, values.shape[-1]))


class MixedSelection(nn.Module):
    """References from the best proposals, contents learned by rank. Only the selected proposals are supervised."""

    def __init__(self, queries: int, dim: int, rows: int) -> None:
        super().__init__()
        self.proposer = Proposer(dim, rows)
        self.contents = nn.Parameter(nn.init.normal_(torch.empty(queries, dim)))

    def forward(self, memory: Tensor, pyramid: Pyramid) -> InitialQueries:
        logits, boxes, _ = self.proposer(memory, pyramid)  # (B, S, R), (B, S, 4) before the sigmoid
        best = topk_tokens(logits.amax(-1), len(self.contents))  # (B, Q)
        logits, boxes = gather_tokens(logits, best, NO_CLASS), gather_tokens(boxes, best)
        contents = self.contents.expand(memory.shape[0], -1, -1)
        proposals = QueryGroup("proposals", logits[None], boxes.sigmoid()[None], tokens=best)
        return InitialQueries(contents, boxes.detach(), tokens=best, proposals=proposals)


class PureSelection(nn.Module):
    """References and contents from the best proposals; all proposals are supervised.

    Contents are not detached: the decoder's loss trains the selected tokens too.
    """

    def __init__(self, queries: int, dim: int, rows: int, *, cells: float) -> None:
        super().__init__()
        self.queries = queries
        self.proposer = Proposer(dim, rows, cells=cells)

    def forward(self, memory: Tensor, pyramid: Pyramid) -> InitialQueries:
        logits, boxes, features = self.proposer(memory, pyramid)  # (B, S, R), (B, S, 4) before the sigmoid
        best = topk_tokens(logits.amax(-1), self.queries)  # (B, Q)
        references = gather_tokens(boxes, best).detach()
        proposals = QueryGroup("proposals", logits[None], boxes.sigmoid()[None])
        return InitialQueries(gather_tokens(features, best), references, tokens=best, proposals=proposals)
