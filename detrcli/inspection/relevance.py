"""What a query's answer came from: attention, weighted by its gradient, followed through all layers.

The rules are those of Chefer, Gur and Wolf, "Generic Attention-model Explainability" (arXiv 2103.15679), for an
encoder and a decoder. A relevance tells how much of each token is in another: R of cells in cells is (S, S), of
queries in queries (Q, Q), of cells in queries (Q, S).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from detrcli.data.batching import collate
from detrcli.inference.detector import Detector


def relevance(detector: Detector, pixels: Tensor, queries: Sequence[int]) -> Tensor:
    """For the best class of some queries of a picture (3, H, W): maps (n, h, w) that sum to 1, or are all 0.

    A UsageError where the model's attention cannot be followed so.
    """
    with torch.enable_grad(), detector.inspect().with_gradient() as recorded:
        logits = detector.model(collate([pixels])).last.logits[0]  # (Q, R)
        record = recorded()
    labels = detector.scoring.probabilities(logits.detach()).argmax(-1)  # (Q,)
    weights = [*record.encoder, *(one for layer in record.decoder for one in layer)]

    maps = []
    for query in queries:
        gradients = torch.autograd.grad(logits[query, labels[query]], weights, retain_graph=True)
        shares = [share(w[0].detach(), g[0]) for w, g in zip(weights, gradients, strict=True)]
        encoder, rest = shares[: len(record.encoder)], shares[len(record.encoder) :]
        maps.append(in_queries(encoder, list(zip(rest[::2], rest[1::2], strict=True)))[query])
    rows = torch.stack(maps)  # (n, S)
    return (rows / rows.sum(-1, keepdim=True).clamp(min=1e-30)).view(len(queries), *record.cells)


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
