"""A transformer with deformable attention to a feature pyramid (arXiv 2010.04159).

Each query attends to a few points around its reference on every level.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrcli.model.attention import MultiheadAttention
from detrcli.model.pyramid import Pyramid
from detrcli.model.transformer import AddNorm, FeedForward, attend


class DeformableAttention(nn.Module):
    """Attention whose sampling points and weights are predicted from the query alone, without keys."""

    def __init__(self, dim: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_projection = nn.Linear(dim, dim)
        self.output_projection = nn.Linear(dim, dim)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize as published: each head samples in a direction of its own, at 1, 2, ... cells."""
        if self.sampling_offsets.bias.is_meta:
            return  # nothing to initialize, and the computation imports modules that take a second
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)  # (heads, 2)
        directions = directions / directions.abs().amax(-1, keepdim=True)  # to the border of a square
        distances = torch.arange(1, self.points + 1)[:, None]  # (points, 1), in cells
        offsets = directions[:, None, None] * distances  # (heads, 1, points, 2)
        self.sampling_offsets.bias.copy_(offsets.expand(-1, self.levels, -1, -1).flatten())
        for zero in (self.sampling_offsets.weight, self.attention_weights.weight, self.attention_weights.bias):
            nn.init.zeros_(zero)
        for linear in (self.value_projection, self.output_projection):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, queries: Tensor, references: Tensor, memory: Tensor, pyramid: Pyramid) -> Tensor:
        """Attend to a memory (B, S, C) from queries (B, Q, C) with references (B, Q, levels, 2 or 4): (B, Q, C)."""
        values = self.value_projection(memory)
        if pyramid.padding is not None:
            values = values.masked_fill(pyramid.padding[..., None], 0)
        points, weights = self.sampling(queries, references, pyramid)
        gathered = sample(values.unflatten(-1, (self.heads, -1)), pyramid.shapes, points, weights)
        return self.output_projection(gathered.flatten(2))

    def sampling(self, queries: Tensor, references: Tensor, pyramid: Pyramid) -> tuple[Tensor, Tensor]:
        """Return the sampling points and their weights.

        Points (B, Q, heads, levels, points, 2) are x and y in [0, 1] of a level. Weights (B, Q, heads, levels, points)
        sum to 1 over levels and points.
        """
        shape = (*queries.shape[:2], self.heads, self.levels, self.points)
        offsets = self.sampling_offsets(queries).to(references.dtype).view(*shape, 2)
        weights = self.attention_weights(queries).view(*shape[:3], -1).softmax(-1).view(shape)
        center = references[:, :, None, :, None, :2]  # (B, Q, 1, levels, 1, 2)
        if references.shape[-1] == 2:  # offsets are in cells
            cells = torch.tensor([(w, h) for h, w in pyramid.shapes], device=queries.device)  # (levels, 2)
            return center + offsets / cells[:, None], weights
        half = references[:, :, None, :, None, 2:] / 2  # offsets / points are in halves of the box's sides
        return center + offsets / self.points * half, weights


def sample(values: Tensor, shapes: Sequence[tuple[int, int]], points: Tensor, weights: Tensor) -> Tensor:
    """Interpolate values (B, S, heads, D) bilinearly at the points, and return their weighted sums (B, Q, heads, D).

    `shapes` are (h, w) of each level, outside of which values are 0. Maps are sampled in the dtype of the points:
    bfloat16 is too coarse for coordinates, and torch's bfloat16 sampling is wrong for maps that are not contiguous.
    """
    B, Q, heads, levels, P, _ = points.shape
    grid = (2 * points - 1).transpose(1, 2).flatten(0, 1)  # (B * heads, Q, levels, P, 2), in [-1, 1]
    sampled = []
    for level, level_values in enumerate(torch.split(values, [h * w for h, w in shapes], 1)):
        h, w = shapes[level]
        map_ = level_values.permute(0, 2, 3, 1).reshape(B * heads, -1, h, w)  # (B * heads, D, h, w)
        sampled.append(
            F.grid_sample(map_.to(grid.dtype), grid[:, :, level], padding_mode="zeros", align_corners=False)
        )  # (B * heads, D, Q, P)
    at_points = torch.cat(sampled, -1)  # (B * heads, D, Q, levels * P)
    share = weights.transpose(1, 2).reshape(B * heads, 1, Q, levels * P)
    summed = (at_points * share).sum(-1)  # (B * heads, D, Q)
    return summed.view(B, heads, -1, Q).permute(0, 3, 1, 2).to(values.dtype)


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention of the tokens over all levels, and a feed-forward network."""

    def __init__(self, dim: int, heads: int, levels: int, points: int, width: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = DeformableAttention(dim, heads, levels, points)
        self.add_norm1 = AddNorm(dim, dropout, pre_norm=False)
        self.feed_forward = FeedForward(dim, width, dropout)
        self.add_norm2 = AddNorm(dim, dropout, pre_norm=False)

    def forward(self, x: Tensor, references: Tensor, pyramid: Pyramid) -> Tensor:
        """Update tokens (B, S, C) with reference points on every level, (B, S, levels, 2)."""
        x = self.add_norm1(x, lambda x: self.self_attention(x + pyramid.position, references, x, pyramid))
        return self.add_norm2(x, self.feed_forward)


class DeformableEncoder(nn.Module):
    def __init__(self, layers: int, dim: int, heads: int, levels: int, points: int, width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(dim, heads, levels, points, width, dropout) for _ in range(layers)
        )

    def forward(self, pyramid: Pyramid) -> Tensor:
        """Return the memory (B, S, C)."""
        x = pyramid.tokens
        references = pyramid.on_levels(pyramid.cell_centers())  # (B, S, levels, 2)
        for layer in self.layers:
            x = layer(x, references, pyramid)
        return x


class DeformableDecoderLayer(nn.Module):
    """Self-attention of the queries, deformable cross-attention to the memory, and a feed-forward network."""

    def __init__(self, dim: int, heads: int, levels: int, points: int, width: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = MultiheadAttention(dim, heads, dropout)
        self.add_norm1 = AddNorm(dim, dropout, pre_norm=False)
        self.cross_attention = DeformableAttention(dim, heads, levels, points)
        self.add_norm2 = AddNorm(dim, dropout, pre_norm=False)
        self.feed_forward = FeedForward(dim, width, dropout)
        self.add_norm3 = AddNorm(dim, dropout, pre_norm=False)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        references: Tensor,
        memory: Tensor,
        pyramid: Pyramid,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """Update queries (B, Q, C) with positions (B, Q, C) and references (B, Q, 2 or 4).

        `attn_mask` (Q, Q) is True where the row's query must not attend to the column's.
        """

        def self_attention(x: Tensor) -> Tensor:
            located = x + position
            return attend(self.self_attention, located, located, x, attn_mask=attn_mask)

        on_levels = pyramid.on_levels(references)  # (B, Q, levels, 2 or 4)
        x = self.add_norm1(x, self_attention)
        x = self.add_norm2(x, lambda x: self.cross_attention(x + position, on_levels, memory, pyramid))
        return self.add_norm3(x, self.feed_forward)


def inverse_sigmoid(x: Tensor, eps: float) -> Tensor:
    """Return the logit of numbers in [0, 1], kept finite by clamping at distance `eps` from 0 and 1, as published."""
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))
