"""What a query's answer came from: attention, weighted by its gradient, followed through all layers.

The rules are those of Chefer, Gur and Wolf, "Generic Attention-model Explainability" (arXiv 2103.15679), for an
encoder and a decoder. A relevance tells how much of each token is in another: R of cells in cells is (S, S), of
queries in queries (Q, Q), of cells in queries (Q, S).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrcli.data.batching import collate
from detrcli.model.detection_transformer import DetectionTransformer


def relevance(model: DetectionTransformer, pixels: Tensor, queries: Sequence[int]) -> Tensor:
    """For the best class of some queries of a picture (3, H, W): maps (n, h, w) that sum to 1, or are all 0."""
    with torch.enable_grad(), with_gradient(model) as attention:
        logits = model(collate([pixels])).last.logits[0, :, :-1]  # (Q, K)
        cells = attention.pop("cells")  # (1, C, h, w)
    encoder = [f"encoder.layers.{i}.self_attention" for i in range(len(model.encoder.layers))]
    decoder = [f"decoder.layers.{i}" for i in range(len(model.decoder.layers))]

    maps = []
    for query in queries:
        gradients = torch.autograd.grad(logits[query].max(), list(attention.values()), retain_graph=True)
        of = {
            name: share(weights[0].detach(), gradient[0])
            for (name, weights), gradient in zip(attention.items(), gradients, strict=True)
        }
        of_cells = in_queries(
            [of[name] for name in encoder],
            [(of[f"{name}.self_attention"], of[f"{name}.cross_attention"]) for name in decoder],
        )
        maps.append(of_cells[query])
    rows = torch.stack(maps)  # (n, S)
    return (rows / rows.sum(-1, keepdim=True).clamp(min=1e-30)).view(len(queries), *cells.shape[-2:])


def share(weights: Tensor, gradient: Tensor) -> Tensor:
    """What counts of attention (heads, A, S): where more of it would help, the mean over the heads, (A, S)."""
    return (gradient * weights).clamp(min=0).mean(0)


def in_queries(encoder: Sequence[Tensor], decoder: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """How much of each cell is in each query, (Q, S).

    `encoder` has each layer's share of self-attention, (S, S); `decoder` has self-attention (Q, Q) and
    cross-attention (Q, S).
    """
    _, cross = decoder[0]
    Q, S = cross.shape
    cells = torch.eye(S, device=cross.device)  # each token begins as itself
    queries = torch.eye(Q, device=cross.device)
    both = torch.zeros_like(cross)
    for looked in encoder:
        cells = cells + looked @ cells
    whole = normalised(cells)
    for among, looked in decoder:
        both = both + among @ both
        queries = queries + among @ queries
        both = both + normalised(queries).T @ looked @ whole
    return both


def normalised(own: Tensor) -> Tensor:
    """Relevance (A, A) with as much from all others together as from the token itself."""
    itself = torch.eye(len(own), device=own.device)
    others = own - itself
    total = others.sum(-1, keepdim=True)
    return itself + torch.where(total > 0, others / total, 0)


@contextmanager
def with_gradient(model: DetectionTransformer) -> Iterator[dict[str, Tensor]]:
    """Attention weights (B, heads, A, S) by their module's name, as part of the way from picture to answer.

    While it lasts each module gathers by the weights that it returns, so that they have a gradient; what it
    gathers is the same. The graph begins behind the backbone; `cells` are the features there.
    """
    seen: dict[str, Tensor] = {}

    def weigh(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "need_weights": True, "average_attn_weights": False}

    def begin(_module: nn.Module, _args: Any, features: Tensor) -> Tensor:
        seen["cells"] = features.detach()
        return seen["cells"]

    def gather(name: str) -> Any:
        def by_weights(module: nn.MultiheadAttention, args: tuple[Tensor, ...], output: Any) -> Any:
            weights: Tensor = output[1]  # (B, heads, A, S)
            if not weights.requires_grad:
                weights.requires_grad_()
            seen[name] = weights
            projection, bias = module.in_proj_weight.chunk(3)[2], module.in_proj_bias.chunk(3)[2]
            B, S, _ = args[2].shape
            values = F.linear(args[2], projection, bias).view(B, S, module.num_heads, -1).transpose(1, 2)
            return module.out_proj((weights @ values).transpose(1, 2).flatten(2)), weights

        return by_weights

    handles = [model.get_submodule("projection").register_forward_hook(begin)]
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            handles += [
                module.register_forward_pre_hook(weigh, with_kwargs=True),
                module.register_forward_hook(gather(name)),
            ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
