"""The transformer of DETR: an encoder over feature cells, a decoder over object queries (figure 10 of the paper).

Tokens are (B, S, C), batch first. Positions are added to queries and keys at every layer, never to values.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from detrcli.model.attention import Dropout, MultiheadAttention


class FeedForward(nn.Module):
    """Two linear layers with a ReLU in between, applied to each token."""

    def __init__(self, dim: int, width: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, width)
        self.dropout = Dropout(dropout)
        self.linear2 = nn.Linear(width, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(self.linear1(x).relu()))


class AddNorm(nn.Module):
    """The residual connection around a sublayer, with layer norm after it (as published) or before it."""

    def __init__(self, dim: int, dropout: float, *, pre_norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)
        self.pre_norm = pre_norm

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        if self.pre_norm:
            return x + self.dropout(sublayer(self.norm(x)))
        return self.norm(x + self.dropout(sublayer(x)))


class EncoderLayer(nn.Module):
    """Self-attention of the feature cells, and a feed-forward network."""

    def __init__(self, dim: int, heads: int, width: int, dropout: float, *, pre_norm: bool) -> None:
        super().__init__()
        self.self_attention = MultiheadAttention(dim, heads, dropout)
        self.add_norm1 = AddNorm(dim, dropout, pre_norm=pre_norm)
        self.feed_forward = FeedForward(dim, width, dropout)
        self.add_norm2 = AddNorm(dim, dropout, pre_norm=pre_norm)

    def forward(self, cells: Tensor, position: Tensor, padding: Tensor | None) -> Tensor:
        x = self.add_norm1(cells, lambda x: attend(self.self_attention, x + position, x + position, x, padding))
        return self.add_norm2(x, self.feed_forward)


class DecoderLayer(nn.Module):
    """Self-attention of the queries, cross-attention to the memory, and a feed-forward network."""

    def __init__(self, dim: int, heads: int, width: int, dropout: float, *, pre_norm: bool) -> None:
        super().__init__()
        self.self_attention = MultiheadAttention(dim, heads, dropout)
        self.add_norm1 = AddNorm(dim, dropout, pre_norm=pre_norm)
        self.cross_attention = MultiheadAttention(dim, heads, dropout)
        self.add_norm2 = AddNorm(dim, dropout, pre_norm=pre_norm)
        self.feed_forward = FeedForward(dim, width, dropout)
        self.add_norm3 = AddNorm(dim, dropout, pre_norm=pre_norm)

    def forward(self, x: Tensor, queries: Tensor, memory: Tensor, position: Tensor, padding: Tensor | None) -> Tensor:
        """Update the contents x (B, Q, C) of queries at positions `queries` (B, Q, C)."""
        x = self.add_norm1(x, lambda x: attend(self.self_attention, x + queries, x + queries, x))
        x = self.add_norm2(x, lambda x: attend(self.cross_attention, x + queries, memory + position, memory, padding))
        return self.add_norm3(x, self.feed_forward)


class Encoder(nn.Module):
    """A stack of encoder layers. With pre-norm, a final norm follows."""

    def __init__(self, layers: int, dim: int, heads: int, width: int, dropout: float, *, pre_norm: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(dim, heads, width, dropout, pre_norm=pre_norm) for _ in range(layers))
        self.norm = nn.LayerNorm(dim) if pre_norm else nn.Identity()

    def forward(self, cells: Tensor, position: Tensor, padding: Tensor | None) -> Tensor:
        """Return the memory (B, S, C) of cells and positions (B, S, C) with padding (B, S)."""
        for layer in self.layers:
            cells = layer(cells, position, padding)
        return self.norm(cells)


class Decoder(nn.Module):
    """A stack of decoder layers. The output of every layer passes through a shared norm to the heads."""

    def __init__(self, layers: int, dim: int, heads: int, width: int, dropout: float, *, pre_norm: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(dim, heads, width, dropout, pre_norm=pre_norm) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, queries: Tensor, memory: Tensor, position: Tensor, padding: Tensor | None) -> Tensor:
        """Return the hidden states of all layers, (L, B, Q, C), for object queries (Q, C) and a memory (B, S, C)."""
        queries = queries.expand(memory.shape[0], -1, -1)  # (B, Q, C)
        x = torch.zeros_like(queries)
        hidden = []
        for layer in self.layers:
            x = layer(x, queries, memory, position, padding)
            hidden.append(self.norm(x))
        return torch.stack(hidden)


def init_weights(part: nn.Module) -> None:
    """Initialize all matrices by Xavier uniform, as published.

    The query, key and value projections of an attention are a single 3C x C matrix. Biases keep torch's default.
    """
    for parameter in part.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)


def attend(
    attention: nn.MultiheadAttention,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    padding: Tensor | None = None,
    attn_mask: Tensor | None = None,
) -> Tensor:
    """Return the attention output without computing its weights; hooks can request them."""
    output, _ = attention(queries, keys, values, key_padding_mask=padding, need_weights=False, attn_mask=attn_mask)
    return output
