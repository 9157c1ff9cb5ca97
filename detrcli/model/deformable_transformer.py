"""The layers of a transformer that looks at a pyramid by sampled points (arXiv 2010.04159)."""

import torch
from torch import Tensor, nn

from detrcli.model.attention import MultiheadAttention
from detrcli.model.deformable_attention import DeformableAttention
from detrcli.model.pyramid import Pyramid
from detrcli.model.transformer import AddNorm, FeedForward


class DeformableEncoderLayer(nn.Module):
    """Each token looks at some points around its own place, on all levels."""

    def __init__(self, dim: int, heads: int, levels: int, points: int, width: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = DeformableAttention(dim, heads, levels, points)
        self.add_norm1 = AddNorm(dim, dropout, pre_norm=False)
        self.feed_forward = FeedForward(dim, width, dropout)
        self.add_norm2 = AddNorm(dim, dropout, pre_norm=False)

    def forward(self, x: Tensor, references: Tensor, pyramid: Pyramid) -> Tensor:
        """Tokens (B, S, C), each with its place on every level, (B, S, levels, 2)."""

        def self_attention(x: Tensor) -> Tensor:
            return self.self_attention(x + pyramid.position, references, x, pyramid)

        return self.add_norm2(self.add_norm1(x, self_attention), self.feed_forward)


class DeformableEncoder(nn.Module):
    """Encoder layers in a row."""

    def __init__(self, layers: int, dim: int, heads: int, levels: int, points: int, width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(dim, heads, levels, points, width, dropout) for _ in range(layers)
        )

    def forward(self, pyramid: Pyramid) -> Tensor:
        """A pyramid to the memory (B, S, C)."""
        x = pyramid.tokens
        references = pyramid.on_levels(pyramid.cells())  # (B, S, levels, 2)
        for layer in self.layers:
            x = layer(x, references, pyramid)
        return x


class DeformableDecoderLayer(nn.Module):
    """Queries look at each other, then at some points of the pyramid around their references."""

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
        hidden: Tensor | None = None,
    ) -> Tensor:
        """Queries and positions (B, Q, C), references (B, Q, 2 or 4); `hidden` (Q, Q): who does not see whom."""

        def self_attention(x: Tensor) -> Tensor:
            asking = x + position
            gathered, _ = self.self_attention(asking, asking, x, need_weights=False, attn_mask=hidden)
            return gathered

        def cross_attention(x: Tensor) -> Tensor:
            return self.cross_attention(x + position, pyramid.on_levels(references), memory, pyramid)

        x = self.add_norm1(x, self_attention)
        x = self.add_norm2(x, cross_attention)
        return self.add_norm3(x, self.feed_forward)


def inverse_sigmoid(x: Tensor, eps: float) -> Tensor:
    """The logit of numbers in [0, 1], as published: what is nearer than `eps` to an end stays finite."""
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))
