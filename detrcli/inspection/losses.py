"""The loss of an image taken apart: what each object adds to it, and what the unmatched queries do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from detrcli.losses.criterion import Criterion
from detrcli.losses.terms import pair_up
from detrcli.structures import Match, Output, QueryGroup, Target


@dataclass(frozen=True)
class ObjectLosses:
    """What a layer is charged, weighted, in M terms."""

    terms: Sequence[str]  # the names of the M terms
    targets: np.ndarray  # (N, M), of each object; 0 where no query was left for it
    unmatched: np.ndarray  # (M,), of the queries that are matched to no object

    @property
    def total(self) -> float:
        """All of it."""
        return float(self.targets.sum() + self.unmatched.sum())


def image_normalisers(group: QueryGroup, target: Target, criterion: Criterion) -> Mapping[str, float]:
    """What the terms of a group are divided by in a training step that sees this image alone."""
    return criterion.normalizers(Output(group), [[target]])[group.name]


@torch.no_grad()
def object_losses(
    group: QueryGroup, target: Target, match: Match, criterion: Criterion, normalisers: Mapping[str, float]
) -> list[ObjectLosses]:
    """The losses of every layer of a group, for a single image with these pairs.

    With `image_normalisers` they sum to what the criterion charges the group. With normalisers of 1, objects of
    different images can be compared.
    """
    L, _, Q, _ = group.logits.shape
    layers, queries, objects = (one.cpu().numpy() for one in (match.layers, match.queries, match.targets))
    free = np.ones((L, Q), dtype=bool)
    free[layers, queries] = False

    matched = pair_up(group, match, [target], criterion.terms)
    targets = np.zeros((L, len(target), len(criterion.terms)))
    unmatched = np.zeros((L, len(criterion.terms)))
    for m, term in enumerate(criterion.terms):
        if not term.applies_to(matched):
            continue
        factor = term.weight / normalisers[term.name]
        values = factor * term.values(matched).double().cpu().numpy()  # (L, 1, Q), or (P,)
        if values.ndim == 3:
            unmatched[:, m] = (values[:, 0] * free).sum(1)
            values = values[layers, 0, queries]  # (P,)
        np.add.at(targets[:, :, m], (layers, objects), values)
    names = tuple(term.name for term in criterion.terms)
    return [ObjectLosses(names, *parts) for parts in zip(targets, unmatched, strict=True)]
