"""Multi-scale deformable attention (arXiv 2010.04159): each query takes from a few points around its reference."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrcli.model.pyramid import Pyramid


class DeformableAttention(nn.Module):
    """Where to look and how much of it to take both follow from the query alone: nothing is compared with keys."""

    def __init__(self, dim: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_projection = nn.Linear(dim, dim)
        self.output_projection = nn.Linear(dim, dim)
        init_deformable(self)

    def forward(self, queries: Tensor, references: Tensor, memory: Tensor, pyramid: Pyramid) -> Tensor:
        """Queries (B, Q, C) with references (B, Q, levels, 2 or 4) over a memory (B, S, C), to (B, Q, C)."""
        values = self.value_projection(memory)
        if pyramid.padding is not None:
            values = values.masked_fill(pyramid.padding[..., None], 0)
        points, weights = self.sampling(queries, references, pyramid)
        gathered = sample(values.unflatten(-1, (self.heads, -1)), pyramid.shapes, points, weights)
        return self.output_projection(gathered.flatten(2))

    def sampling(self, queries: Tensor, references: Tensor, pyramid: Pyramid) -> tuple[Tensor, Tensor]:
        """The points, (B, Q, heads, levels, points, 2), x and y as parts of a level, and their weights.

        The weights (B, Q, heads, levels, points) sum to 1 over levels and points.
        """
        shape = (*queries.shape[:2], self.heads, self.levels, self.points)
        offsets = self.sampling_offsets(queries).to(references.dtype).view(*shape, 2)
        weights = self.attention_weights(queries).view(*shape[:3], -1).softmax(-1).view(shape)
        centre = references[:, :, None, :, None, :2]
        if references.shape[-1] == 2:  # offsets count cells
            cells = torch.tensor([(w, h) for h, w in pyramid.shapes], device=queries.device)  # (levels, 2)
            return centre + offsets / cells[:, None], weights
        half = references[:, :, None, :, None, 2:] / 2  # offsets are shares of half the box
        return centre + offsets / self.points * half, weights


def sample(values: Tensor, shapes: Sequence[tuple[int, int]], points: Tensor, weights: Tensor) -> Tensor:
    """What values (B, S, heads, D) are at the points, bilinearly, weighted and summed: (B, Q, heads, D).

    A point outside of a level takes nothing there. The map is read in the points' dtype: bfloat16 is too coarse
    to tell where in a level a point lies, and torch's own sampling in it is wrong where a map is not contiguous.
    """
    B, Q, heads, levels, P, _ = points.shape
    grid = (2 * points - 1).transpose(1, 2).flatten(0, 1)  # (B * heads, Q, levels, P, 2), in [-1, 1]
    taken = []
    for level, own in enumerate(torch.split(values, [h * w for h, w in shapes], 1)):
        h, w = shapes[level]
        map_ = own.permute(0, 2, 3, 1).reshape(B * heads, -1, h, w)  # (B * heads, D, h, w)
        taken.append(
            F.grid_sample(map_.to(grid.dtype), grid[:, :, level], padding_mode="zeros", align_corners=False)
        )  # (B * heads, D, Q, P)
    at_points = torch.cat(taken, -1)  # (B * heads, D, Q, levels * P)
    share = weights.transpose(1, 2).reshape(B * heads, 1, Q, levels * P)
    summed = (at_points * share).sum(-1)  # (B * heads, D, Q)
    return summed.view(B, heads, -1, Q).permute(0, 3, 1, 2).to(values.dtype)


@torch.no_grad()
def init_deformable(attention: DeformableAttention) -> None:
    """The published random start: each head looks into a direction of its own, each point a cell further."""
    if attention.sampling_offsets.bias.is_meta:
        return  # shapes alone have nothing to start from, and computing them imports what takes a second
    angles = torch.arange(attention.heads) * (2 * math.pi / attention.heads)
    directions = torch.stack([angles.cos(), angles.sin()], -1)  # (heads, 2)
    directions = directions / directions.abs().amax(-1, keepdim=True)
    steps = torch.arange(1, attention.points + 1)[:, None]  # (points, 1)
    offsets = directions[:, None, None] * steps  # (heads, 1, points, 2)
    nn.init.zeros_(attention.sampling_offsets.weight)
    attention.sampling_offsets.bias.copy_(offsets.expand(-1, attention.levels, -1, -1).flatten())
    nn.init.zeros_(attention.attention_weights.weight)
    nn.init.zeros_(attention.attention_weights.bias)
    for linear in (attention.value_projection, attention.output_projection):
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
