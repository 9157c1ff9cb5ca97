"""Why the matching gave each object the query it gave: its costs, the second choice, and what decided."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from detrcli.config import MatchingConfig
from detrcli.losses.matching import Matcher, costs
from detrcli.structures import Output, Target

TERMS = ("class", "l1", "giou")
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
class Layer:
    """A decoder layer and what it was matched with: Q queries, N objects, K classes."""

    layer: int
    probabilities: np.ndarray  # (Q, K + 1), the last class is "no object"
    boxes: np.ndarray  # (Q, 4), cx, cy, w, h in [0, 1]
    terms: Mapping[str, np.ndarray]  # of TERMS, each (Q, N), unweighted
    total: np.ndarray  # (Q, N), weighted
    pairs: Sequence[Pair]  # by target

    @property
    def queries(self) -> np.ndarray:
        """The query of each object, (N,); UNMATCHED where none was left."""
        given = np.full(self.total.shape[1], UNMATCHED)
        for pair in self.pairs:
            given[pair.target] = pair.query
        return given

    @property
    def scores(self) -> np.ndarray:
        """The highest probability of a class that is not "no object", (Q,)."""
        best: np.ndarray = self.probabilities[:, :-1].max(1)
        return best

    @property
    def labels(self) -> np.ndarray:
        """The class that has it, (Q,)."""
        best: np.ndarray = self.probabilities[:, :-1].argmax(1)
        return best

    def that_matter(self, threshold: float) -> list[int]:
        """The queries that were given an object, those that nearly were, and those that are sure of one."""
        near = [pair.runner_up for pair in self.pairs if pair.runner_up is not None]
        sure = np.flatnonzero(self.scores >= threshold).tolist()
        return sorted({*(pair.query for pair in self.pairs), *near, *sure})


@torch.no_grad()
def explain(output: Output, target: Target, config: MatchingConfig) -> list[Layer]:
    """The matching of every decoder layer of a single image, by the code that training matches with."""
    predictions = [group.prediction for group in output.groups]
    pairs = pairs_of(output, target, config)
    logits = torch.stack([prediction.logits for prediction in predictions])  # (L, 1, Q, K + 1)
    boxes = torch.stack([prediction.boxes for prediction in predictions])  # (L, 1, Q, 4)
    terms = costs(logits, boxes, [target], config)
    total = terms.total(config)  # (L, N, Q)
    shown = {"class": terms.classes, "l1": terms.l1, "giou": terms.giou}
    # With matching = "last" the last layer's costs decide for all.
    deciding = [layer if config.matching == "each" else len(predictions) - 1 for layer in range(len(pairs))]
    layers = []
    for layer, decider in enumerate(deciding):
        own, decided = (
            {name: values[i].T.cpu().numpy() for name, values in {**shown, "total": total}.items()}
            for i in (layer, decider)
        )
        layers.append(
            Layer(
                layer=layer,
                probabilities=logits[layer, 0].float().softmax(-1).cpu().numpy(),
                boxes=boxes[layer, 0].float().cpu().numpy(),
                terms={name: own[name] for name in TERMS},
                total=own["total"],
                pairs=[
                    Pair(query, n, float(own["total"][query, n]), *reason)
                    for (query, n), reason in zip(
                        pairs[layer], _reasons(pairs[layer], decided, config), strict=True
                    )
                ],
            )
        )
    return layers


def pairs_of(output: Output, target: Target, config: MatchingConfig) -> list[list[tuple[int, int]]]:
    """The pairs (query, target) of every layer of a single image, by target."""
    matches = Matcher(config)([group.prediction for group in output.groups], [target])
    return [
        sorted(zip(match.queries.tolist(), match.targets.tolist(), strict=True), key=lambda pair: pair[1])
        for match in matches
    ]


def queries_of(output: Output, target: Target, config: MatchingConfig) -> np.ndarray:
    """The query of each object of a single image in every layer, (L, N); UNMATCHED where none was left."""
    layers = pairs_of(output, target, config)
    given = np.full((len(layers), len(target.labels)), UNMATCHED)
    for layer, pairs in zip(given, layers, strict=True):
        for query, n in pairs:
            layer[n] = query
    return given


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Which objects (..., N) have another query than before: counted, the instability of arXiv 2203.01305."""
    other: np.ndarray = before != after
    return other


def reweighted(
    config: MatchingConfig, cost_class: float | None, cost_l1: float | None, cost_giou: float | None
) -> MatchingConfig:
    """The same matching with other weights of its terms, where they are given."""
    return replace(
        config,
        cost_class=config.cost_class if cost_class is None else cost_class,
        cost_l1=config.cost_l1 if cost_l1 is None else cost_l1,
        cost_giou=config.cost_giou if cost_giou is None else cost_giou,
    )


def weights_of(config: MatchingConfig) -> dict[str, float]:
    """The weight of each term."""
    return dict(zip(TERMS, (config.cost_class, config.cost_l1, config.cost_giou), strict=True))


def _reasons(
    pairs: Sequence[tuple[int, int]], values: Mapping[str, np.ndarray], config: MatchingConfig
) -> Iterator[tuple[int | None, float | None, str | None]]:
    """Runner-up, margin and what decided, by the terms and the total (Q, N) that decided on the pairs."""
    cost = values["total"].astype(np.float64)  # sums of float32 would lose small margins
    least = sum(cost[query, n] for query, n in pairs)
    for query, n in pairs:
        runner_up, margin = _without(cost, query, n, least)
        decided = None if runner_up is None else _decided(query, runner_up, n, values, config)
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
    query: int, runner_up: int, target: int, values: Mapping[str, np.ndarray], config: MatchingConfig
) -> str:
    weights = weights_of(config)
    gains = {
        name: weights[name] * float(values[name][runner_up, target] - values[name][query, target])
        for name in TERMS
    }
    best = max(TERMS, key=gains.__getitem__)
    return best if gains[best] > 0 else OTHERS
