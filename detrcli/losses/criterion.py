"""The set prediction loss: weighted terms, summed over every layer of every supervised group of queries."""

from collections.abc import Sequence

import torch
from torch import Tensor

from detrcli.losses.loss import LossBreakdown, StepNormalizers
from detrcli.losses.matching import HungarianMatcher
from detrcli.losses.scoring import Scoring
from detrcli.losses.terms import LossTerm, pair_up
from detrcli.structures import Match, Output, Prediction, QueryGroup, Target
from detrcli.system import distributed


class Criterion:
    """Matches every group of an output with its objects and sums the terms of the loss."""

    in_training_alone = False

    def __init__(self, scoring: Scoring, matcher: HungarianMatcher, terms: Sequence[LossTerm]) -> None:
        self.scoring = scoring
        self.matcher = matcher
        self.terms = tuple(terms)

    def compute_loss(
        self, output: Output, targets: Sequence[Target], step: StepNormalizers | None = None
    ) -> LossBreakdown:
        """The loss of one forward pass, as a part of a step; of one that sees this batch alone by default."""
        step = step or StepNormalizers.of([targets])
        if not step.normalisers:
            step.normalisers = self.normalisers(output, step)
        layers: dict[str, dict[str, Tensor]] = {}
        matches: dict[str, Match] = {}
        total = []
        for group in output.groups:
            own = targets if group.targets is None else group.targets
            matches[group.name] = group.match or self.matcher(group, own)
            matched = pair_up(group, matches[group.name], own)
            assert group.name in step.normalisers, f"group {group.name!r} is not in every batch of a step"
            normalisers = step.normalisers[group.name]
            terms = [term for term in self.terms if term.goes_with(group, own)]
            layers[group.name] = {term.name: term.by_layer(matched) / normalisers[term.name] for term in terms}
            total += [term.weight * layers[group.name][term.name].sum() for term in terms]
        parts = {
            name if group is output.decoder else f"{group.name}_{name}": value[-1]
            for group in output.groups
            for name, value in layers[group.name].items()
        }
        return LossBreakdown(torch.stack(total).sum(), parts, matches, layers)

    def normalisers(self, output: Output, step: StepNormalizers) -> dict[str, dict[str, float]]:
        """What each term of each group is divided by in this step.

        Counted over all accumulated batches and all processes, hence the same loss however a step is split.
        It is the mean over processes, because DistributedDataParallel averages the gradients; so every
        process must call it.
        """
        counted = [
            sum(self._count(term, group, objects) for objects in step.objects)
            for group in output.groups
            for term in self.terms
        ]
        means = iter(distributed.mean(counted))
        return {
            group.name: {term.name: max(next(means), term.min_normaliser) for term in self.terms}
            for group in output.groups
        }

    def _count(self, term: LossTerm, group: QueryGroup, objects: Sequence[int]) -> float:
        queries = group.logits.shape[2]
        if group.counts is not None:
            objects, queries = group.counts(objects)
        return sum(term.count(n, queries) for n in objects)


@torch.no_grad()
def class_error(scoring: Scoring, group: QueryGroup, match: Match, targets: Sequence[Target]) -> Tensor:
    """Percentage of the last layer's matched queries whose top class, "no object" included, is not their object's.

    0 where nothing is matched: there is nothing to be wrong about (the published code says 100).
    """
    labels = torch.cat([target.labels for target in targets])[match.targets]  # (P,)
    predicted = scoring.top_class(group.logits[-1][match.images, match.queries])  # (P,)
    # Of all pairs those of the last layer are counted and not picked, for which a GPU would be waited for.
    last = match.layers == len(group) - 1
    return 100 * ((predicted != labels) & last).sum() / last.sum().clamp(min=1)


@torch.no_grad()
def cardinality_error(scoring: Scoring, prediction: Prediction, targets: Sequence[Target]) -> Tensor:
    """How far the count of queries that say an object is from the count of objects, on average. A metric."""
    predicted = (scoring.top_class(prediction.logits) >= 0).sum(1)  # (B,)
    present = torch.tensor([len(target) for target in targets], device=predicted.device)  # (B,)
    return (predicted - present).abs().float().mean()
