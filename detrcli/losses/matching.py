"""Hungarian matching between queries and objects (section 3.1 of arXiv 2005.12872)."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from detrcli.errors import DataError, DivergedError
from detrcli.losses.terms import CostTerm, cost_inputs
from detrcli.structures import Match, QueryGroup, Target
from detrcli.system.devices import to_device


class HungarianMatcher:
    """Matches queries with objects at minimum total cost, for all layers and images of a query group at once."""

    def __init__(self, terms: Sequence[CostTerm], layers: Literal["each", "last"] = "each") -> None:
        self.terms = tuple(terms)
        self.layers = layers  # "last": the pairs of the last layer are used for all layers

    @property
    def weights(self) -> dict[str, float]:
        return {term.name: term.weight for term in self.terms}

    def costs(
        self, logits: Tensor, boxes: Tensor, targets: Sequence[Target], mask_logits: Sequence[Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return the unweighted terms, each (L, T, Q) in float32, for logits (L, B, Q, R) and boxes (L, B, Q, 4)."""
        inputs = cost_inputs(logits, boxes, targets, mask_logits)
        return {term.name: term.values(inputs) for term in self.terms}

    def total(self, costs: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of the terms, (L, T, Q)."""
        first, *others = self.terms
        total = first.weight * costs[first.name]
        for term in others:
            total = torch.add(total, costs[term.name], alpha=term.weight)
        return total

    @torch.no_grad()
    def __call__(self, group: QueryGroup, targets: Sequence[Target]) -> Match:
        """Return the pairs of every layer. With more objects than queries, some objects stay unmatched."""
        from scipy.optimize import linear_sum_assignment  # slow to import, and not needed for prediction

        first = 0 if self.layers == "each" else len(group) - 1
        logits, boxes = group.logits[first:], group.boxes[first:]
        mask_logits = None if group.mask_logits is None else group.mask_logits[first:]
        costs_by_term = self.costs(logits, boxes, targets, mask_logits)
        cost = self.total(costs_by_term)  # (L, T, Q); L = 1 for the last layer

        # One transfer from the device for all layers and images. Images without objects have no costs; the sums show
        # whether their predictions are finite.
        sums = logits.float().sum((2, 3)) + boxes.float().sum((2, 3))  # (L, B)
        values = torch.cat([cost.flatten(), sums.flatten()]).cpu().numpy()
        if not np.isfinite(values).all():
            _raise_not_finite(logits, boxes, targets)

        starts = np.cumsum([0, *(len(target) for target in targets)])
        costs = values[: cost.numel()].reshape(cost.shape)
        pairs = [linear_sum_assignment(layer[start:end]) for layer in costs for start, end in pairwise(starts)]
        sizes = np.array([len(objects) for objects, _ in pairs]).reshape(len(costs), len(targets))  # (L, B)
        layers, images = np.indices(sizes.shape).reshape(2, -1).repeat(sizes.reshape(-1), axis=1)  # each (P,)
        objects, queries = np.concatenate(pairs, axis=1)
        match = np.stack([layers, images, queries, objects + starts[images]])  # (4, P)
        if self.layers == "last":
            match = np.tile(match, len(group))
            match[0] = np.arange(len(group)).repeat(len(queries))
        return Match(*to_device(torch.from_numpy(match), logits.device))


def _raise_not_finite(logits: Tensor, boxes: Tensor, targets: Sequence[Target]) -> None:
    for image, target in enumerate(targets):
        # Far outside [0, 1], areas and thus costs overflow.
        if not (target.boxes.abs() < 1e6).all():
            raise DataError(f"The target boxes of image {image} of the batch are not all finite numbers in [0, 1].")
    for name, values in (("logits", logits), ("boxes", boxes)):
        broken = (~values.isfinite()).any(0).flatten(1).any(1).nonzero()  # (n, 1), indices of images
        if len(broken):
            raise DivergedError(
                f"The predicted {name} of image {broken[0].item()} of the batch are not finite numbers.\n"
                "The training has diverged: lower the learning rate, or check the data for errors."
            )
