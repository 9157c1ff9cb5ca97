"""Relevance of image cells for a query's prediction: attention weighted by its gradient, through all layers.

Implements the rules of Chefer, Gur and Wolf, "Generic Attention-model Explainability" (arXiv 2103.15679), for an
encoder and a decoder. Relevance R measures how much of each token is contained in another: R of cells in cells is
(S, S), of queries in queries (Q, Q), of cells in queries (Q, S).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from detrcli.data.batching import collate
from detrcli.inference.detector import Detector


def relevance(detector: Detector, pixels: Tensor, queries: Sequence[int]) -> Tensor:
    """Return the relevance of an image (3, H, W) for the best class of each query.

    Maps are (n, h, w) and sum to 1, or are all 0. Raises UsageError for models without dense attention.
    """
    with torch.enable_grad(), detector.inspect().with_gradient() as recorded:
        logits = detector.model(collate([pixels])).last.logits[0]  # (Q, R)
        record = recorded()
    labels = detector.scoring.probabilities(logits.detach()).argmax(-1)  # (Q,)
    weights = [*record.encoder, *(attention for layer in record.decoder for attention in layer)]

    maps = []
    for query in queries:
        gradients = torch.autograd.grad(logits[query, labels[query]], weights, retain_graph=True)
        shares = [positive_share(w[0].detach(), g[0]) for w, g in zip(weights, gradients, strict=True)]
        encoder, decoder = shares[: len(record.encoder)], shares[len(record.encoder) :]
        maps.append(relevance_of_cells(encoder, list(zip(decoder[::2], decoder[1::2], strict=True)))[query])
    rows = torch.stack(maps)  # (n, S)
    return (rows / rows.sum(-1, keepdim=True).clamp(min=1e-30)).view(len(queries), *record.cells)


def positive_share(weights: Tensor, gradient: Tensor) -> Tensor:
    """Return attention (heads, A, S) times its gradient, negative values set to 0, averaged over the heads, (A, S)."""
    return (gradient * weights).clamp(min=0).mean(0)


def relevance_of_cells(encoder: Sequence[Tensor], decoder: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the relevance of cells in queries, (Q, S).

    `encoder` has the share of self-attention of each layer, (S, S); `decoder` has those of self-attention (Q, Q) and
    cross-attention (Q, S).
    """
    _, cross = decoder[0]
    Q, S = cross.shape
    cells = torch.eye(S, device=cross.device)  # at first, each token contains itself
    queries = torch.eye(Q, device=cross.device)
    cells_in_queries = torch.zeros_like(cross)
    for attention in encoder:
        cells = cells + attention @ cells
    normalized_cells = normalize(cells)
    for self_attention, cross_attention in decoder:
        cells_in_queries = cells_in_queries + self_attention @ cells_in_queries
        queries = queries + self_attention @ queries
        cells_in_queries = cells_in_queries + normalize(queries).T @ cross_attention @ normalized_cells
    return cells_in_queries


def normalize(relevance: Tensor) -> Tensor:
    """Scale relevance (A, A) so that all other tokens together contribute as much as the token itself."""
    identity = torch.eye(len(relevance), device=relevance.device)
    others = relevance - identity
    total = others.sum(-1, keepdim=True)
    return identity + torch.where(total > 0, others / total, 0)
