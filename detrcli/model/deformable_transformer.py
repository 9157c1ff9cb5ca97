"""The layers of a transformer with deformable attention to a feature pyramid (arXiv 2010.04159)."""

import torch
from torch import Tensor, nn

from detrcli.model.attention import MultiheadAttention
from detrcli.model.deformable_attention import DeformableAttention
from detrcli.model.pyramid import Pyramid
from detrcli.model.transformer import AddNorm, FeedForward


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

        def self_attention(x: Tensor) -> Tensor:
            return self.self_attention(x + pyramid.position, references, x, pyramid)

        return self.add_norm2(self.add_norm1(x, self_attention), self.feed_forward)


class DeformableEncoder(nn.Module):
    """A stack of encoder layers."""

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
            gathered, _ = self.self_attention(located, located, x, need_weights=False, attn_mask=attn_mask)
            return gathered

        def cross_attention(x: Tensor) -> Tensor:
            return self.cross_attention(x + position, pyramid.on_levels(references), memory, pyramid)

        x = self.add_norm1(x, self_attention)
        x = self.add_norm2(x, cross_attention)
        return self.add_norm3(x, self.feed_forward)


def inverse_sigmoid(x: Tensor, eps: float) -> Tensor:
    """Return the logit of numbers in [0, 1], kept finite by clamping at distance `eps` from 0 and 1, as published."""
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))
