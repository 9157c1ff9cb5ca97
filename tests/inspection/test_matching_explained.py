"""The matching explained, against brute force and the criterion."""

import itertools

import numpy as np
import pytest
import torch
from cases import counted, random_prediction, random_target, seeds
from hypothesis import strategies as st

from detrcli.config import MatchingConfig
from detrcli.inspection.matching import (
    OTHERS,
    UNMATCHED,
    changed,
    explain,
    queries_of,
    reweighted,
    weights_of,
)
from detrcli.structures import Group, Output, Prediction, Target
from detrcli.variants.detr import build_criterion

CONFIGS = [
    MatchingConfig(),
    MatchingConfig(class_cost="log"),
    MatchingConfig(cost_class=2, cost_l1=0, cost_giou=0.5),
]


def random_output(g: torch.Generator, layers: int, queries: int, classes: int) -> Output:
    *auxiliary, last = (random_prediction(g, 1, queries, classes) for _ in range(layers))
    return Output(last, tuple(Group(f"layer {i}", one) for i, one in enumerate(auxiliary)))


def assignments(queries: int, targets: int) -> list[set[tuple[int, int]]]:
    """Every set of pairs (query, target) that is as large as can be."""
    if targets <= queries:
        return [
            {(q, n) for n, q in enumerate(chosen)}
            for chosen in itertools.permutations(range(queries), targets)
        ]
    return [set(enumerate(chosen)) for chosen in itertools.permutations(range(targets), queries)]


@counted(1000, seeds(), st.integers(1, 5), st.integers(0, 6), st.sampled_from(CONFIGS))
def test_pairs_runners_up_and_margins_are_those_of_brute_force(
    g: torch.Generator, queries: int, objects: int, config: MatchingConfig
) -> None:
    target = random_target(g, objects, 4)
    for layer in explain(random_output(g, 2, queries, 4), target, config):
        possible = assignments(queries, objects)

        def cost(pairs: set[tuple[int, int]], total: np.ndarray = layer.total) -> float:
            return sum(float(total[q, n]) for q, n in pairs)

        shown = {(pair.query, pair.target) for pair in layer.pairs}
        assert shown in possible
        least = min(map(cost, possible))
        assert cost(shown) <= least + 1e-5
        for pair in layer.pairs:
            without = [pairs for pairs in possible if (pair.query, pair.target) not in pairs]
            if not without:
                assert (pair.runner_up, pair.margin, pair.decided) == (None, None, None)
                continue
            assert pair.margin == pytest.approx(min(map(cost, without)) - least, abs=1e-5)
            # Of equals any will do.
            best = [pairs for pairs in without if cost(pairs) <= min(map(cost, without)) + 1e-5]
            takers = [[q for q, n in pairs if n == pair.target] for pairs in best]
            assert ([] if pair.runner_up is None else [pair.runner_up]) in takers
            assert pair.total == pytest.approx(float(layer.total[pair.query, pair.target]))


def by_hand() -> tuple[Output, Target]:
    """Two queries in place of one object, a third far away; boxes and classes that can be summed in the head."""
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.4, 0.4], [0.1, 0.1, 0.2, 0.2]]])
    logits = torch.log(torch.tensor([[[0.2, 0.1, 0.7], [0.9, 0.05, 0.05], [0.25, 0.25, 0.5]]]))
    target = Target(torch.tensor([0]), torch.tensor([[0.5, 0.5, 0.2, 0.2]]))
    return Output(Prediction(logits, boxes), ()), target


def test_a_case_worked_by_hand() -> None:
    """Query 0 costs -0.2 + 0 - 2, query 1 costs -0.9 + 5 * 0.4 - 2 * 0.25; so the boxes decide, L1 by 2."""
    (layer,) = explain(*by_hand(), MatchingConfig())
    assert layer.terms["class"][:, 0].tolist() == pytest.approx([-0.2, -0.9, -0.25], abs=1e-6)
    assert layer.terms["l1"][:2, 0].tolist() == pytest.approx([0, 0.4], abs=1e-6)
    assert layer.terms["giou"][:2, 0].tolist() == pytest.approx([-1, -0.25], abs=1e-6)
    (pair,) = layer.pairs
    assert (pair.query, pair.runner_up, pair.decided) == (0, 1, "l1")
    assert pair.total == pytest.approx(-2.2, abs=1e-6)
    assert pair.margin == pytest.approx(0.6 + 2.2, abs=1e-6)
    assert layer.scores.tolist() == pytest.approx([0.2, 0.9, 0.25], abs=1e-6)
    assert layer.queries.tolist() == [0]

    other = reweighted(MatchingConfig(), 10, None, 0)
    assert weights_of(other) == {"class": 10, "l1": 5, "giou": 0}
    assert explain(*by_hand(), other)[0].pairs[0].query == 1


def test_where_another_object_needs_the_runner_up() -> None:
    """Both objects would have query 0; it goes to object 1, that query 1 could not serve. No term speaks for 1."""
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.3, 0.3]]])
    logits = torch.log(torch.tensor([[[0.45, 0.45, 0.1], [0.1, 0.1, 0.8]]]))
    target = Target(torch.tensor([0, 1]), torch.tensor([[0.5, 0.5, 0.24, 0.24], [0.5, 0.5, 0.2, 0.2]]))
    (layer,) = explain(Output(Prediction(logits, boxes), ()), target, MatchingConfig())
    assert layer.queries.tolist() == [1, 0]
    assert [pair.decided for pair in layer.pairs] == [OTHERS, "giou"]


def test_more_objects_than_queries() -> None:
    g = torch.Generator().manual_seed(0)
    output, target = random_output(g, 1, 2, 3), random_target(g, 4, 3)
    (layer,) = explain(output, target, MatchingConfig())
    assert (layer.queries == UNMATCHED).sum() == 2
    assert len(layer.pairs) == 2
    assert all(pair.margin is not None for pair in layer.pairs)


@counted(100, seeds(), st.integers(0, 4), st.sampled_from(["each", "last"]))
def test_the_pairs_are_those_that_the_criterion_charges_for(
    g: torch.Generator, objects: int, matching: str
) -> None:
    config = MatchingConfig(matching=matching)
    output, target = random_output(g, 3, 6, 4), random_target(g, objects, 4)
    charged = build_criterion(matching=config)(output, [target]).matches.values()
    layers, kept = explain(output, target, config), queries_of(output, target, config)
    for layer, row, match in zip(layers, kept, charged, strict=True):
        assert dict(zip(match.targets.tolist(), match.queries.tolist(), strict=True)) == {
            pair.target: pair.query for pair in layer.pairs
        }
        assert row.tolist() == layer.queries.tolist()
        for pair in layer.pairs:
            assert pair.total == pytest.approx(float(layer.total[pair.query, pair.target]))


def test_instability_of_an_example_worked_by_hand() -> None:
    """Of five objects one moved to a query that another had, one lost its query, one gained one."""
    before, after = np.array([3, 1, 4, 2, UNMATCHED]), np.array([3, 4, UNMATCHED, 2, 1])
    assert changed(before, after).tolist() == [False, True, True, False, True]
    assert changed(before, before).sum() == 0
