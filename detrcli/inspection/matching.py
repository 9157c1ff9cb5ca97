"""Why the matching gave each object the query it gave: its costs, the runner-up, and what decided."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from detrcli.errors import UsageError
from detrcli.losses.matching import HungarianMatcher
from detrcli.losses.scoring import Scoring
from detrcli.structures import Match, QueryGroup, Target

OTHERS = "others"  # decided, where no term speaks for the query: another object needs the runner-up more
UNMATCHED = -1  # the query of an object that none was left for


@dataclass(frozen=True)
class Pair:
    """An object with its query, and what would have been without it."""

    query: int
    target: int
    total: float  # weighted cost
    runner_up: int | None  # the query that the object gets where this pair is forbidden
    margin: float | None  # by how much the least total cost of the image rises then
    decided: str | None  # the term in which the query beats the runner-up most, weighted; or OTHERS


@dataclass(frozen=True)
class LayerMatching:
    """A layer of a group of queries and what it was matched with: Q queries, N objects, K classes."""

    layer: int
    probabilities: np.ndarray  # (Q, K)
    top: np.ndarray  # (Q,), the class that a query speaks for most, or NOTHING
    selected: np.ndarray  # (D, 2), query and class of what becomes a detection where its score suffices
    boxes: np.ndarray  # (Q, 4), cx, cy, w, h in [0, 1] of the network's input
    terms: Mapping[str, np.ndarray]  # of the matching cost by their names, each (Q, N), unweighted
    total: np.ndarray  # (Q, N), weighted
    pairs: Sequence[Pair]  # by target

    @property
    def queries(self) -> np.ndarray:
        """The query of each object, (N,); UNMATCHED where none was left, the first where it has several."""
        matched = np.full(self.total.shape[1], UNMATCHED)
        for pair in reversed(self.pairs):
            matched[pair.target] = pair.query
        return matched

    @property
    def scores(self) -> np.ndarray:
        """The highest probability of a class, (Q,)."""
        best: np.ndarray = self.probabilities.max(1)
        return best

    @property
    def labels(self) -> np.ndarray:
        """The class that has it, (Q,)."""
        best: np.ndarray = self.probabilities.argmax(1)
        return best

    def detections(self, threshold: float) -> np.ndarray:
        """Query and class of each detection, (D, 2), the surest first."""
        scores = self.probabilities[self.selected[:, 0], self.selected[:, 1]]  # (D,)
        kept = np.flatnonzero(scores >= threshold)
        found: np.ndarray = self.selected[kept[np.argsort(-scores[kept], kind="stable")]]
        return found

    def that_matter(self, threshold: float) -> list[int]:
        """The queries that are matched, the runners-up, and those with a detection."""
        near = [pair.runner_up for pair in self.pairs if pair.runner_up is not None]
        sure = np.flatnonzero(self.scores >= threshold).tolist()
        return sorted({*(pair.query for pair in self.pairs), *near, *sure})


@torch.no_grad()
def explain_matching(
    group: QueryGroup, target: Target, matcher: HungarianMatcher, scoring: Scoring, match: Match | None = None
) -> list[LayerMatching]:
    """The matching of every layer of a group, for a single image.

    `match` is what the matcher has found, where it was asked already. A group that brings its own pairs has no
    runners-up: no cost decided on them.
    """
    target, match = matched_with(group, target, matcher, match)
    costs = matcher.costs(group.logits, group.boxes, [target])
    values = {
        name: cost.mT.cpu().numpy() for name, cost in {**costs, "total": matcher.total(costs)}.items()
    }  # each (L, Q, N)
    selection = scoring.select(group.logits[:, 0])  # of layers in place of images
    selected = torch.stack([selection.queries, selection.labels], -1).cpu().numpy()  # (L, D, 2)
    probabilities = scoring.probabilities(group.logits[:, 0]).cpu().numpy()  # (L, Q, K)
    top = scoring.top_class(group.logits[:, 0]).cpu().numpy()  # (L, Q)
    boxes = group.boxes[:, 0].float().cpu().numpy()  # (L, Q, 4)

    layers = []
    for layer in range(len(group)):
        pairs = _pairs(match, layer)
        # With layers = "last" the last layer's costs decide for all.
        decider = layer if matcher.layers == "each" else len(group) - 1
        decided = {name: value[decider] for name, value in values.items()}
        reasons = (
            _reasons(pairs, decided, matcher.weights) if group.match is None else [(None, None, None)] * len(pairs)
        )
        total = values["total"][layer]
        layers.append(
            LayerMatching(
                layer=layer,
                probabilities=probabilities[layer],
                top=top[layer],
                selected=selected[layer],
                boxes=boxes[layer],
                terms={name: values[name][layer] for name in costs},
                total=total,
                pairs=[
                    Pair(query, n, float(total[query, n]), *reason)
                    for (query, n), reason in zip(pairs, reasons, strict=True)
                ],
            )
        )
    return layers


def matched_with(
    group: QueryGroup, target: Target, matcher: HungarianMatcher, match: Match | None = None
) -> tuple[Target, Match]:
    """What a group of a single image is supervised with, and by which pairs: its own, where it has them."""
    target = target if group.targets is None else group.targets[0]
    target = target.to(group.logits.device)
    return target, group.match or match or matcher(group, [target])


def queries_of(group: QueryGroup, target: Target, matcher: HungarianMatcher) -> np.ndarray:
    """The query of each object of a single image in every layer, (L, N); UNMATCHED where none was left."""
    target, match = matched_with(group, target, matcher)
    matched = np.full((len(group), len(target)), UNMATCHED)
    matched[match.layers.cpu(), match.targets.cpu()] = match.queries.cpu()
    return matched


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Which objects (..., N) have another query than before: counted, the instability of arXiv 2203.01305."""
    other: np.ndarray = before != after
    return other


def reweighted(matcher: HungarianMatcher, weights: Mapping[str, float]) -> HungarianMatcher:
    """The same matching with other weights of some of its terms."""
    for name in weights:
        if name not in matcher.weights:
            raise UsageError(f"cost.{name}: this model has no such term; it has {', '.join(matcher.weights)}.")
    terms = [replace(term, weight=weights.get(term.name, term.weight)) for term in matcher.terms]
    return HungarianMatcher(terms, matcher.layers)


def _pairs(match: Match, layer: int) -> list[tuple[int, int]]:
    """The pairs (query, target) of a layer, by target."""
    own = match.layer(layer)
    pairs = zip(own.queries.tolist(), own.targets.tolist(), strict=True)
    return sorted(pairs, key=lambda pair: pair[1])


def _reasons(
    pairs: Sequence[tuple[int, int]], values: Mapping[str, np.ndarray], weights: Mapping[str, float]
) -> Iterator[tuple[int | None, float | None, str | None]]:
    """Runner-up, margin and what decided, by the terms and the total (Q, N) that decided on the pairs."""
    cost = values["total"].astype(np.float64)  # sums of float32 would lose small margins
    least = sum(cost[query, n] for query, n in pairs)
    for query, n in pairs:
        runner_up, margin = _without(cost, query, n, least)
        decided = None if runner_up is None else _decided(query, runner_up, n, values, weights)
        yield runner_up, margin, decided


def _without(cost: np.ndarray, query: int, target: int, least: float) -> tuple[int | None, float | None]:
    """Who takes the target, and by how much the least total rises, where this pair is forbidden."""
    if cost.shape == (1, 1):
        return None, None  # nothing else can be paired
    forbidden = cost.copy()
    forbidden[query, target] = np.inf
    queries, targets = linear_sum_assignment(forbidden)
    instead = queries[targets == target]  # none, where another object takes the query of this one
    rise = max(0.0, float(forbidden[queries, targets].sum() - least))  # below 0 by rounding alone
    return (int(instead[0]) if len(instead) else None), rise


def _decided(
    query: int, runner_up: int, target: int, values: Mapping[str, np.ndarray], weights: Mapping[str, float]
) -> str:
    gains = {
        name: weight * float(values[name][runner_up, target] - values[name][query, target])
        for name, weight in weights.items()
    }
    best = max(gains, key=gains.__getitem__)
    return best if gains[best] > 0 else OTHERS
