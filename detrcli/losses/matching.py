"""The bipartite matching: which query answers for which object (section 3.1 of the paper)."""

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
    """Finds the pairs of every layer of a group, for all images of a batch at once."""

    def __init__(self, terms: Sequence[CostTerm], layers: Literal["each", "last"] = "each") -> None:
        self.terms = tuple(terms)
        self.layers = layers  # each by itself, or all by the last one's pairs

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each term."""
        return {term.name: term.weight for term in self.terms}

    def costs(self, logits: Tensor, boxes: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The terms, unweighted, of logits (L, B, Q, R) and boxes (L, B, Q, 4): each (L, T, Q), in float32.

        The T objects of the batch stand one after the other, image by image.
        """
        seen = cost_inputs(logits, boxes, targets)
        return {term.name: term.values(seen) for term in self.terms}

    def total(self, costs: Mapping[str, Tensor]) -> Tensor:
        """Their weighted sum, (L, T, Q)."""
        first, *others = self.terms
        total = first.weight * costs[first.name]
        for term in others:
            total = torch.add(total, costs[term.name], alpha=term.weight)
        return total

    @torch.no_grad()
    def __call__(self, group: QueryGroup, targets: Sequence[Target]) -> Match:
        """The pairs of every layer; with `layers = "last"` all have those of the last."""
        from scipy.optimize import linear_sum_assignment  # slow to import, and of no use to who predicts

        first = 0 if self.layers == "each" else len(group) - 1
        logits, boxes = group.logits[first:], group.boxes[first:]
        cost = self.total(self.costs(logits, boxes, targets))  # (L, T, Q)

        # One transfer for all layers and images. Sums go with it, since an image without objects has no cost
        # that would show that its prediction is not finite.
        sums = logits.float().sum((2, 3)) + boxes.float().sum((2, 3))  # (L, B)
        numbers = torch.cat([cost.flatten(), sums.flatten()]).cpu().numpy()
        if not np.isfinite(numbers).all():
            _name_what_is_not_finite(logits, boxes, targets)

        starts = np.cumsum([0, *(len(target) for target in targets)])
        costs = numbers[: cost.numel()].reshape(cost.shape)
        # Layer by layer, image by image. With more objects than queries, those go without whose absence makes the
        # rest cheapest.
        pairs = [linear_sum_assignment(layer[start:end]) for layer in costs for start, end in pairwise(starts)]
        sizes = np.array([len(objects) for objects, _ in pairs]).reshape(len(costs), len(targets))
        layers, images = np.indices(sizes.shape).reshape(2, -1).repeat(sizes.reshape(-1), axis=1)  # each (P,)
        objects, queries = np.concatenate(pairs, axis=1)
        found = np.stack([layers, images, queries, objects + starts[images]])  # (4, P)
        if self.layers == "last":
            found = np.concatenate([_in_layer(found, layer) for layer in range(len(group))], axis=1)
        return Match(*to_device(torch.from_numpy(found), logits.device))


def _in_layer(pairs: np.ndarray, layer: int) -> np.ndarray:
    return np.concatenate([np.full_like(pairs[:1], layer), pairs[1:]])


def _name_what_is_not_finite(logits: Tensor, boxes: Tensor, targets: Sequence[Target]) -> None:
    for image, target in enumerate(targets):
        # Far outside [0, 1] the areas and so the costs overflow.
        if not (target.boxes.abs() < 1e6).all():
            raise DataError(f"The target boxes of image {image} of the batch are not all finite numbers in [0, 1].")
    for what, values in (("logits", logits), ("boxes", boxes)):
        broken = (~values.isfinite()).flatten(2).any(-1).any(0).nonzero()  # (?, 1)
        if len(broken):
            raise DivergedError(
                f"The predicted {what} of image {broken[0].item()} of the batch are not finite numbers.\n"
                "The training has diverged: lower the learning rate, or look for broken data."
            )
