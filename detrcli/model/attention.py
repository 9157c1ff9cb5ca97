"""Multi-head attention as the members use it: torch's module, its names and its hooks."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrcli.model.dropout import draw, use_fast_dropout


class _Gather(torch.autograd.Function):
    """Values (B, heads, S, D) for queries (B, heads, A, D), by weights some of which are dropped."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float) -> Tensor:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (B, heads, A, S)
        weights = (scores if mask is None else scores.add_(mask)).softmax(-1)
        stays, ctx.share = draw(weights.shape, p)
        ctx.save_for_backward(q, k, v, weights, stays)
        return ((weights * stays) @ v).div_(ctx.share)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, weights, stays = ctx.saved_tensors
        gradient = gradient / ctx.share
        factor = stays.to(weights.dtype)
        of_weights = (gradient @ v.transpose(-2, -1)).mul_(factor)
        of_values = factor.mul_(weights).transpose(-2, -1) @ gradient
        # The softmax: each weight times how much its gradient is above their mean by the weights.
        of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        of_scores.mul_(q.shape[-1] ** -0.5)
        return of_scores @ k, of_scores.transpose(-2, -1) @ q, of_values, None, None


class MultiheadAttention(nn.MultiheadAttention):
    """torch's; where nobody asks for the weights, dropout is drawn fast on CPUs, and one map less is kept."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__(dim, heads, dropout, batch_first=True)

    def forward(  # type: ignore[override]  # torch names each option; those that we never give go along
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        **others: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if need_weights or others or not use_fast_dropout(self, self.dropout, query):
            return super().forward(query, key, value, key_padding_mask, need_weights, attn_mask, **others)
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        # Each (B, heads, tokens, D), in float32, as torch computes attention with dropout on CPUs.
        q, k, v = (
            F.linear(x, weight, bias).view(*x.shape[:2], self.num_heads, -1).transpose(1, 2).float()
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        mask = additive(key_padding_mask, attn_mask, q)
        with torch.autocast("cpu", enabled=False):
            gathered = cast("Tensor", _Gather.apply(q, k, v, mask, self.dropout))
        return self.out_proj(gathered.transpose(1, 2).flatten(2)), None


def additive(padding: Tensor | None, hidden: Tensor | None, like: Tensor) -> Tensor | None:
    """Both masks as what is added to the logits, (B or 1, heads or 1, Q or 1, S)."""
    mask: Tensor | None = None
    for given in (None if padding is None else padding[:, None, None], hidden):
        if given is None:
            continue
        if given.dim() == 3:  # (B * heads, Q, S)
            given = given.view(like.shape[0], -1, *given.shape[1:])
        if given.dtype == torch.bool:
            given = torch.zeros_like(given, dtype=like.dtype).masked_fill(given, -torch.inf)
        mask = given.to(like.dtype) if mask is None else mask + given
    return mask
