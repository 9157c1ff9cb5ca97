"""The set prediction loss: weighted terms, summed over every layer of every supervised query group."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from detrcli.losses.matching import HungarianMatcher
from detrcli.losses.scoring import Scoring
from detrcli.losses.terms import LossTerm, pair_up
from detrcli.structures import Match, Output, QueryGroup, Target
from detrcli.system import distributed

# The divisors of a training step: query group -> loss term -> divisor.
StepNormalizers = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class LossBreakdown:
    """The loss of a batch and its parts."""

    total: Tensor  # (), weighted sum over groups, terms and layers
    parts: Mapping[str, Tensor]  # (), the terms of each group's last layer by name, unweighted
    matches: Mapping[str, Match] = field(default_factory=dict)  # by query group, where known
    layers: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)  # group -> term -> (L,), where known


class Loss(ABC):
    """The loss of a model: our criterion, or the loss that a model of another library computes itself."""

    scoring: Scoring
    matcher: HungarianMatcher | None  # of the decoder's queries; None if the model does not expose it
    only_in_training: bool = False  # whether the loss exists only for outputs computed in training mode

    def normalizers(self, output: Output, batches: Sequence[Sequence[Target]]) -> StepNormalizers:
        """Return the divisors of a step from all its targets and any of its outputs. Every process must call it."""
        return {}

    @abstractmethod
    def compute_loss(
        self, output: Output, targets: Sequence[Target], normalizers: StepNormalizers | None = None
    ) -> LossBreakdown:
        """Return the loss of one batch of a step; without normalizers the batch is the whole step."""


class Criterion(Loss):
    """Hungarian matching of every query group, followed by the terms of the loss."""

    matcher: HungarianMatcher

    def __init__(self, scoring: Scoring, matcher: HungarianMatcher, terms: Sequence[LossTerm]) -> None:
        self.scoring = scoring
        self.matcher = matcher
        self.terms = tuple(terms)

    def compute_loss(
        self, output: Output, targets: Sequence[Target], normalizers: StepNormalizers | None = None
    ) -> LossBreakdown:
        normalizers = normalizers or self.normalizers(output, [targets])
        layers: dict[str, dict[str, Tensor]] = {}
        parts: dict[str, Tensor] = {}
        matches: dict[str, Match] = {}
        weighted = []
        for group in output.groups:
            assert group.name in normalizers, f"group {group.name!r} is not in every batch of a step"
            prefix = "" if group is output.decoder else f"{group.name}_"
            group_targets = targets if group.targets is None else group.targets
            matches[group.name] = group.match or self.matcher(group, group_targets)
            matched = pair_up(group, matches[group.name], group_targets, self.terms)
            layers[group.name] = {}
            for term in self.terms:
                if term.applies_to(matched):
                    by_layer = term.by_layer(matched) / normalizers[group.name][term.name]  # (L,)
                    layers[group.name][term.name] = by_layer
                    parts[prefix + term.name] = by_layer[-1]
                    weighted.append(term.weight * by_layer.sum())
        return LossBreakdown(torch.stack(weighted).sum(), parts, matches, layers)

    def normalizers(self, output: Output, batches: Sequence[Sequence[Target]]) -> StepNormalizers:
        """Return the divisor of each term of each group, from the targets of all batches of a step.

        Objects are counted over all accumulated batches and averaged over the processes, because
        DistributedDataParallel averages the gradients: the loss does not depend on how a step is split.
        """
        sums = {(group.name, term.name): 0.0 for group in output.groups for term in self.terms}
        for targets in batches:
            for group in output.groups:
                objects: Sequence[int] = [len(target) for target in targets]  # of each image
                queries = group.logits.shape[2]
                if group.counts is not None:
                    objects, queries = group.counts(objects)
                for term in self.terms:
                    sums[group.name, term.name] += sum(term.count(n, queries) for n in objects)
        means = iter(distributed.mean(list(sums.values())))
        return {
            group.name: {term.name: max(next(means), term.min_normalizer) for term in self.terms}
            for group in output.groups
        }


@torch.no_grad()
def class_error(scoring: Scoring, group: QueryGroup, match: Match, targets: Sequence[Target]) -> Tensor:
    """Return the percentage of the last layer's matched queries whose top class is not their object's.

    "No object" counts as a wrong class. Without matched queries it is 0; the published code returns 100.
    """
    labels = torch.cat([target.labels for target in targets])[match.targets]  # (P,)
    predicted = scoring.top_class(group.logits[-1][match.images, match.queries])  # (P,)
    # The last layer's pairs are masked, not indexed: indexing by a mask would synchronize with a GPU.
    last = match.layers == len(group) - 1
    return 100 * ((predicted != labels) & last).sum() / last.sum().clamp(min=1)
