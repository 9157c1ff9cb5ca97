"""Explained matching against brute force and the criterion."""

import itertools
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import counted, random_boxes, random_target, seeds
from hypothesis import strategies as st

from detrcli.architectures import detr, preset
from detrcli.config import LossConfig
from detrcli.errors import UsageError
from detrcli.inspection.matching import (
    OTHERS,
    UNMATCHED,
    LayerMatching,
    explain_group,
    queries_of,
    reweighted,
)
from detrcli.losses.matching import HungarianMatcher
from detrcli.losses.scoring import NO_OBJECT, Scoring, Sigmoid, Softmax
from detrcli.losses.terms import class_cost, l1_cost
from detrcli.structures import Output, QueryGroup, Target

CONFIG = preset("detr-r50").config


def matcher(**loss: object) -> HungarianMatcher:
    return detr.ARCHITECTURE.make_loss(CONFIG, LossConfig(**loss)).matcher  # type: ignore[arg-type]  # any of its fields


MATCHERS = [matcher(), matcher(class_cost="log"), matcher(cost={"class": 2.0, "l1": 0.0, "giou": 0.5})]


def random_group(g: torch.Generator, layers: int, queries: int, classes: int) -> QueryGroup:
    logits = 2 * torch.randn(layers, 1, queries, classes + 1, generator=g)
    return QueryGroup("decoder", logits, random_boxes(g, layers, 1, queries))


def explain(
    group: QueryGroup, target: Target, matcher: HungarianMatcher = MATCHERS[0], scoring: Scoring | None = None
) -> Sequence[LayerMatching]:
    """Explain by a loss without known terms."""
    explained = explain_group(group, target, SimpleNamespace(matcher=matcher, scoring=scoring or Softmax()))
    assert explained.losses is None
    return explained.layers


def assignments(queries: int, targets: int) -> list[set[tuple[int, int]]]:
    """Return every largest possible set of pairs (query, target)."""
    if targets <= queries:
        return [{(q, n) for n, q in enumerate(chosen)} for chosen in itertools.permutations(range(queries), targets)]
    return [set(enumerate(chosen)) for chosen in itertools.permutations(range(targets), queries)]


@counted(400, seeds(), st.integers(1, 5), st.integers(0, 6), st.sampled_from(MATCHERS))
def test_pairs_runners_up_and_margins_against_brute_force(
    g: torch.Generator, queries: int, objects: int, matcher: HungarianMatcher
) -> None:
    target = random_target(g, objects, 4)
    for layer in explain(random_group(g, 2, queries, 4), target, matcher):
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
            # Among equal costs, any is right.
            best = [pairs for pairs in without if cost(pairs) <= min(map(cost, without)) + 1e-5]
            takers = [[q for q, n in pairs if n == pair.target] for pairs in best]
            assert ([] if pair.runner_up is None else [pair.runner_up]) in takers
            assert pair.total == pytest.approx(float(layer.total[pair.query, pair.target]))


def simple_case() -> tuple[QueryGroup, Target]:
    """Return two queries at the place of an object and a third far away, with simple boxes and classes."""
    boxes = torch.tensor([[[[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.4, 0.4], [0.1, 0.1, 0.2, 0.2]]]])
    logits = torch.log(torch.tensor([[[[0.2, 0.1, 0.7], [0.9, 0.05, 0.05], [0.25, 0.25, 0.5]]]]))
    target = Target(torch.tensor([0]), torch.tensor([[0.5, 0.5, 0.2, 0.2]]))
    return QueryGroup("decoder", logits, boxes), target


def test_a_simple_case() -> None:
    """Query 0 costs -0.2 + 0 - 2, query 1 costs -0.9 + 5 * 0.4 - 2 * 0.25. The boxes decide, L1 by 2."""
    (layer,) = explain(*simple_case())
    assert layer.terms["class"][:, 0].tolist() == pytest.approx([-0.2, -0.9, -0.25], abs=1e-6)
    assert layer.terms["l1"][:2, 0].tolist() == pytest.approx([0, 0.4], abs=1e-6)
    assert layer.terms["giou"][:2, 0].tolist() == pytest.approx([-1, -0.25], abs=1e-6)
    (pair,) = layer.pairs
    assert (pair.query, pair.runner_up, pair.decided) == (0, 1, "l1")
    assert pair.total == pytest.approx(-2.2, abs=1e-6)
    assert pair.margin == pytest.approx(0.6 + 2.2, abs=1e-6)
    assert layer.scores.tolist() == pytest.approx([0.2, 0.9, 0.25], abs=1e-6)
    assert layer.queries.tolist() == [0]

    assert layer.top.tolist() == [NO_OBJECT, 0, NO_OBJECT]
    assert layer.labels.tolist() == [0, 0, 0]
    assert layer.probabilities.shape == (3, 2)

    other = reweighted(MATCHERS[0], {"class": 10, "giou": 0})
    assert other.weights == {"class": 10, "l1": 5, "giou": 0}
    with pytest.raises(UsageError, match="cost_dice"):
        reweighted(MATCHERS[0], {"dice": 1})
    assert explain(*simple_case(), other)[0].pairs[0].query == 1


def test_where_another_object_needs_the_runner_up() -> None:
    """Query 0 is best for both objects. It is matched to object 1, so no term favors the query of object 0."""
    boxes = torch.tensor([[[[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.3, 0.3]]]])
    logits = torch.log(torch.tensor([[[[0.45, 0.45, 0.1], [0.1, 0.1, 0.8]]]]))
    target = Target(torch.tensor([0, 1]), torch.tensor([[0.5, 0.5, 0.24, 0.24], [0.5, 0.5, 0.2, 0.2]]))
    (layer,) = explain(QueryGroup("decoder", logits, boxes), target)
    assert layer.queries.tolist() == [1, 0]
    assert [pair.decided for pair in layer.pairs] == [OTHERS, "giou"]


def test_more_objects_than_queries() -> None:
    g = torch.Generator().manual_seed(0)
    group, target = random_group(g, 1, 2, 3), random_target(g, 4, 3)
    (layer,) = explain(group, target)
    assert (layer.queries == UNMATCHED).sum() == 2
    assert len(layer.pairs) == 2
    assert all(pair.margin is not None for pair in layer.pairs)


@counted(100, seeds(), st.integers(0, 4), st.sampled_from(["each", "last"]))
def test_the_pairs_are_those_of_the_criterion(g: torch.Generator, objects: int, matching: str) -> None:
    criterion = detr.ARCHITECTURE.make_loss(CONFIG, LossConfig(matching=matching))  # type: ignore[arg-type]  # each or last
    group, target = random_group(g, 3, 6, 4), random_target(g, objects, 4)
    charged = criterion.compute_loss(Output(group), [target]).matches["decoder"]
    layers, kept = explain(group, target, criterion.matcher), queries_of(group, target, criterion.matcher)
    assert len(layers) == len(kept) == 3
    for layer, row in zip(layers, kept, strict=True):
        match = charged.layer(layer.layer)
        assert dict(zip(match.targets.tolist(), match.queries.tolist(), strict=True)) == {
            pair.target: pair.query for pair in layer.pairs
        }
        assert row.tolist() == layer.queries.tolist()
        for pair in layer.pairs:
            assert pair.total == pytest.approx(float(layer.total[pair.query, pair.target]))
    if matching == "last":  # the last layer decides on all
        alone = explain(QueryGroup("decoder", group.logits[-1:], group.boxes[-1:]), target, criterion.matcher)
        reasons = [[(p.runner_up, p.margin, p.decided) for p in layer.pairs] for layer in (*layers, *alone)]
        assert reasons == [reasons[-1]] * 4


def test_terms_of_any_name_and_sigmoid_scores() -> None:
    """With focal class cost and L1 alone. A query can be a detection of several classes, and has no no-object class."""
    scoring = Sigmoid(top_k=3)
    focal = HungarianMatcher([class_cost(scoring, "focal", 2), l1_cost(5)])
    group, target = simple_case()
    logits = torch.tensor([[[[2.0, 1.0], [-1.0, -3.0], [0.5, -2.0]]]])
    (layer,) = explain(QueryGroup("decoder", logits, group.boxes), target, focal, scoring)
    assert list(layer.terms) == ["class", "l1"]
    np.testing.assert_allclose(layer.total, 2 * layer.terms["class"] + 5 * layer.terms["l1"], rtol=1e-6)
    np.testing.assert_allclose(layer.probabilities, logits[0, 0].sigmoid())
    assert layer.top.tolist() == [0, 0, 0]
    assert layer.selected.tolist() == [[0, 0], [0, 1], [2, 0]]
    assert layer.detections(0.7).tolist() == [[0, 0], [0, 1]]
    assert layer.queries.tolist() == [0]
