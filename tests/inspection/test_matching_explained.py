"""Matching, its losses and the model's errors, against brute force, the criterion and small cases."""

import itertools
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import counted, random_boxes, random_target, seeds
from golden_rules import Golden
from hypothesis import strategies as st

from detrcli.architectures import detr, preset
from detrcli.config import LossConfig
from detrcli.errors import UsageError
from detrcli.inspection import matching
from detrcli.losses.criterion import Criterion
from detrcli.losses.matching import HungarianMatcher
from detrcli.losses.scoring import NO_OBJECT, Scoring, Sigmoid, Softmax
from detrcli.losses.terms import LossTerm, class_cost, l1_cost, per_object
from detrcli.structures import Match, Output, QueryGroup, Target

CONFIG = preset("detr-r50").config


def matcher(**loss: object) -> HungarianMatcher:
    return detr.ARCHITECTURE.make_loss(CONFIG, LossConfig(**loss)).matcher  # type: ignore[arg-type]  # any of its fields


MATCHERS = [matcher(), matcher(class_cost="log"), matcher(cost={"class": 2.0, "l1": 0.0, "giou": 0.5})]


def random_group(g: torch.Generator, layers: int, queries: int, classes: int) -> QueryGroup:
    logits = 2 * torch.randn(layers, 1, queries, classes + 1, generator=g)
    return QueryGroup("decoder", logits, random_boxes(g, layers, 1, queries))


def explain(
    group: QueryGroup, target: Target, matcher: HungarianMatcher = MATCHERS[0], scoring: Scoring | None = None
) -> Sequence[matching.LayerMatching]:
    """Explain by a loss without known terms."""
    explained = matching.explain_group(group, target, SimpleNamespace(matcher=matcher, scoring=scoring or Softmax()))
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

    other = matching.reweighted(MATCHERS[0], {"class": 10, "giou": 0})
    assert other.weights == {"class": 10, "l1": 5, "giou": 0}
    with pytest.raises(UsageError, match="cost_dice"):
        matching.reweighted(MATCHERS[0], {"dice": 1})
    assert explain(*simple_case(), other)[0].pairs[0].query == 1


def test_where_another_object_needs_the_runner_up() -> None:
    """Query 0 is best for both objects. It is matched to object 1, so no term favors the query of object 0."""
    boxes = torch.tensor([[[[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.3, 0.3]]]])
    logits = torch.log(torch.tensor([[[[0.45, 0.45, 0.1], [0.1, 0.1, 0.8]]]]))
    target = Target(torch.tensor([0, 1]), torch.tensor([[0.5, 0.5, 0.24, 0.24], [0.5, 0.5, 0.2, 0.2]]))
    (layer,) = explain(QueryGroup("decoder", logits, boxes), target)
    assert layer.queries.tolist() == [1, 0]
    assert [pair.decided for pair in layer.pairs] == [matching.OTHERS, "giou"]


def test_more_objects_than_queries() -> None:
    g = torch.Generator().manual_seed(0)
    group, target = random_group(g, 1, 2, 3), random_target(g, 4, 3)
    (layer,) = explain(group, target)
    assert (layer.queries == matching.UNMATCHED).sum() == 2
    assert len(layer.pairs) == 2
    assert all(pair.margin is not None for pair in layer.pairs)
    both = objects((0, LEFT), (1, RIGHT))
    explained = layers([(CAT, LEFT)], objects=both)
    assert reasons(explained, both) == {1: ["no-query"]}
    assert matching.false_positives(explained[-1], both, 0.7) == []


@counted(100, seeds(), st.integers(0, 4), st.sampled_from(["each", "last"]))
def test_the_pairs_are_those_of_the_criterion(g: torch.Generator, objects: int, decided_by: str) -> None:
    criterion = detr.ARCHITECTURE.make_loss(CONFIG, LossConfig(matching=decided_by))  # type: ignore[arg-type]  # each or last
    group, target = random_group(g, 3, 6, 4), random_target(g, objects, 4)
    charged = criterion.compute_loss(Output(group), [target]).matches["decoder"]
    layers, kept = explain(group, target, criterion.matcher), matching.queries_of(group, target, criterion.matcher)
    assert len(layers) == len(kept) == 3
    for layer, row in zip(layers, kept, strict=True):
        match = charged.layer(layer.layer)
        assert dict(zip(match.targets.tolist(), match.queries.tolist(), strict=True)) == {
            pair.target: pair.query for pair in layer.pairs
        }
        assert row.tolist() == layer.queries.tolist()
        for pair in layer.pairs:
            assert pair.total == pytest.approx(float(layer.total[pair.query, pair.target]))
    if decided_by == "last":  # the last layer decides on all
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


LEFT, RIGHT, FAR = [0.25, 0.5, 0.3, 0.4], [0.75, 0.5, 0.3, 0.4], [0.5, 0.1, 0.1, 0.1]
SHIFTED = [0.35, 0.6, 0.3, 0.4]  # an IoU of 0.2 * 0.3 / 0.18 = 1/3 with LEFT
CAT, DOG, NOTHING = [0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]
SURE_CAT = [0.98, 0.01, 0.01]


def layers(*predictions: list[tuple[list[float], list[float]]], objects: Target) -> Sequence[matching.LayerMatching]:
    """Explain layers, each given by the (probabilities, box) of its queries."""
    probabilities = [[[row for row, _ in layer]] for layer in predictions]
    boxes = [[[box for _, box in layer]] for layer in predictions]
    return explain(QueryGroup("decoder", torch.log(torch.tensor(probabilities)), torch.tensor(boxes)), objects)


def objects(*pairs: tuple[int, list[float]]) -> Target:
    return Target(torch.tensor([label for label, _ in pairs]), torch.tensor([box for _, box in pairs]))


def reasons(found: Sequence[matching.LayerMatching], target: Target) -> dict[int, list[str | None]]:
    return {n: [p.why for p in predictions] for n, predictions in matching.missed_objects(found, target, 0.7).items()}


@pytest.mark.parametrize(
    ("probabilities", "box", "expected"),
    [
        (NOTHING, LEFT, {0: ["no-object"]}),
        (DOG, LEFT, {0: ["class"]}),
        ([0.6, 0.2, 0.2], LEFT, {0: ["score"]}),
        (CAT, SHIFTED, {0: ["box"]}),
        (CAT, LEFT, {}),
    ],
)
def test_reasons(probabilities: list[float], box: list[float], expected: dict[int, list[str]]) -> None:
    cat = objects((0, LEFT))
    assert reasons(layers([(probabilities, box)], objects=cat), cat) == expected


def test_predictions_of_every_layer() -> None:
    """Detected by query 1, then matched to query 0 that predicts another class, and then no object."""
    cat = objects((0, LEFT))
    found = layers(
        [(NOTHING, FAR), (CAT, LEFT)], [(DOG, LEFT), (NOTHING, FAR)], [(NOTHING, LEFT), (NOTHING, FAR)],
        objects=cat,
    )  # fmt: skip
    ((n, missed),) = matching.missed_objects(found, cat, 0.7).items()
    assert n == 0
    assert [(p.layer, p.query, p.why) for p in missed] == [(0, 1, None), (1, 0, "class"), (2, 0, "no-object")]
    assert (missed[1].label, round(missed[1].own_score or 0, 4)) == (1, 0.05)


def test_a_detection_counts_for_its_own_object_alone() -> None:
    """Two objects in the same place and a single detection."""
    both = objects((0, LEFT), (0, LEFT))
    (missed,) = matching.missed_objects(layers([(CAT, LEFT), (NOTHING, LEFT)], objects=both), both, 0.7).values()
    assert missed[-1].query == 1


def test_kinds_of_false_positives() -> None:
    cat = objects((0, LEFT))
    queries = [(SURE_CAT, LEFT), (CAT, LEFT), ([0.05, 0.92, 0.03], LEFT), (CAT, FAR), (NOTHING, LEFT)]
    found = layers(queries, objects=cat)
    kinds = [(e.query, e.label, e.kind, e.target, e.partner) for e in matching.false_positives(found[-1], cat, 0.7)]
    assert kinds == [(2, 1, "other-class", 0, 0), (1, 0, "duplicate", 0, 0), (3, 0, "background", None, None)]
    assert matching.false_positives(found[-1], cat, 0.99) == []
    none = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    found = layers([(CAT, LEFT), (NOTHING, LEFT)], objects=none)
    assert matching.missed_objects(found, none, 0.7) == {}
    assert [e.kind for e in matching.false_positives(found[-1], none, 0.7)] == ["background"]


def test_an_iou_of_a_half_is_enough() -> None:
    """With numbers that float32 represents exactly."""
    whole, half = [0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.25]
    cat = objects((0, whole))
    assert matching.missed_objects(layers([(CAT, half), (NOTHING, FAR)], objects=cat), cat, 0.7) == {}
    beside = layers([(SURE_CAT, whole), (CAT, half), (DOG, half)], objects=cat)
    kinds = [(e.query, e.kind, e.iou) for e in matching.false_positives(beside[-1], cat, 0.7)]
    assert kinds == [(1, "duplicate", 0.5), (2, "other-class", 0.5)]
    assert reasons(layers([(CAT, half)], [(NOTHING, half)], objects=cat), cat) == {0: [None, "no-object"]}


@pytest.mark.parametrize(("label", "expected"), [(0, [(0, 1, "other-class")]), (1, [(0, 0, "other-class")])])
def test_a_second_class_of_a_matched_query_is_a_false_positive(label: int, expected: list[object]) -> None:
    """With sigmoid scores a query may have detections of several classes, also if its object has the less probable."""
    focal = HungarianMatcher([class_cost(Sigmoid(), "focal", 1), l1_cost(5)])
    logits = torch.tensor([[[[3.0, 2.0], [-5.0, -5.0]]]])
    target = objects((label, LEFT))
    group = QueryGroup("decoder", logits, torch.tensor([[[LEFT, FAR]]]))
    (layer,) = explain(group, target, focal, Sigmoid())
    assert matching.missed_objects([layer], target, 0.7) == {}
    assert [(e.query, e.label, e.kind) for e in matching.false_positives(layer, target, 0.7)] == expected


WEIGHTS = {"cost": {"class": 1.0, "l1": 1.0, "giou": 2.0}, "loss": {"class": 3.0, "l1": 1.0, "giou": 0.5}}
CRITERIA = [
    detr.ARCHITECTURE.make_loss(CONFIG, LossConfig()),
    detr.ARCHITECTURE.make_loss(CONFIG, LossConfig(matching="last", no_object=0.4, **WEIGHTS)),
]


def losses_of(group: QueryGroup, target: Target, criterion: Criterion) -> Sequence[matching.ObjectLosses]:
    losses = matching.explain_group(group, target, criterion).losses
    assert losses is not None
    return losses


@counted(200, seeds(), st.integers(1, 6), st.integers(0, 8), st.sampled_from(CRITERIA))
def test_objects_and_unmatched_queries_sum_to_the_total(
    g: torch.Generator, queries: int, objects: int, criterion: Criterion
) -> None:
    group, target = random_group(g, 3, queries, 4), random_target(g, objects, 4)
    parts = losses_of(group, target, criterion)
    loss = criterion.compute_loss(Output(group), [target])
    assert sum(layer.total for layer in parts) == pytest.approx(float(loss.total), rel=1e-5)
    for i, layer in enumerate(parts):
        for m, term in enumerate(criterion.terms):
            ours = layer.targets[:, m].sum() + layer.unmatched[m]
            theirs = term.weight * float(loss.layers["decoder"][term.name][i])
            assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
        assert layer.terms == ("class", "l1", "giou")
        assert layer.unmatched[1:].tolist() == [0, 0]
        assert (layer.targets.sum(1) == 0).sum() == max(0, objects - queries)


def test_the_published_loss_of_a_batch_is_that_of_its_images() -> None:
    """Summed over two images with the normalizers of their batch, they are the losses of the reference."""
    golden = Golden("detr-r50")
    logits, boxes = (torch.from_numpy(golden.arrays[f"pred_{what}"]) for what in ("logits", "boxes"))
    targets, criterion = golden.targets(), CRITERIA[0]
    whole = QueryGroup("decoder", logits, boxes)
    normalizers = criterion.normalizers(Output(whole), [targets])["decoder"]
    total = 0.0
    for image, target in enumerate(targets):
        group = QueryGroup("decoder", logits[:, image : image + 1], boxes[:, image : image + 1])
        match = criterion.matcher(group, [target])
        total += sum(layer.total for layer in matching.object_losses(group, target, match, criterion, normalizers))
    assert total == pytest.approx(golden.facts["total"], rel=1e-4)


def test_a_perfect_box_has_a_class_loss_alone() -> None:
    """An object with a probability of 0.5: log 2."""
    target = Target(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.2, 0.2]]))
    logits = torch.log(torch.tensor([[[[0.1, 0.5, 0.4], [0.2, 0.2, 0.6]]]]))
    boxes = torch.tensor([[[[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]]]])
    losses = matching.explain_group(QueryGroup("decoder", logits, boxes), target, CRITERIA[0], normalized=False).losses
    assert losses is not None
    (layer,) = losses
    assert layer.targets[0].tolist() == pytest.approx([0.6931472, 0, 0], abs=1e-6)
    assert layer.unmatched.tolist() == pytest.approx([0.1 * 0.5108256, 0, 0], abs=1e-6)


def test_any_number_of_terms() -> None:
    """A fourth term, 1 for each pair."""
    g = torch.Generator().manual_seed(0)
    group, target = random_group(g, 2, 5, 4), random_target(g, 3, 4)
    plain = CRITERIA[0]
    ones = LossTerm("ones", 6.0, lambda m: torch.ones(len(m.boxes)), per_object)
    criterion = Criterion(plain.scoring, plain.matcher, [*plain.terms, ones])
    for layer in losses_of(group, target, criterion):
        assert layer.terms == ("class", "l1", "giou", "ones")
        assert layer.targets[:, 3].tolist() == [2, 2, 2]  # 6 / 3 objects


def test_a_group_with_its_own_pairs_and_objects() -> None:
    """A denoising group of two copies of an object: both copies have a loss, and nothing is matched again."""
    g = torch.Generator().manual_seed(0)
    target = random_target(g, 1, 4)
    twice = Target(target.labels.repeat(2), target.boxes.repeat(2, 1))
    zeros = torch.tensor([0, 0])
    group = random_group(g, 1, 2, 4)
    noisy = QueryGroup(
        "denoising",
        group.logits,
        group.boxes,
        targets=[twice],
        match=Match(zeros, zeros, torch.tensor([1, 0]), torch.tensor([0, 1])),
        counts=lambda objects: ([2 * n for n in objects], 2),
    )
    criterion = CRITERIA[0]
    explained = matching.explain_group(noisy, target, criterion)
    assert explained.queries.tolist() == [[1, 0]]
    assert [pair.runner_up for pair in explained.layers[0].pairs] == [None, None]
    output = Output(group, (noisy,))
    of_decoder = criterion.compute_loss(Output(group), [target]).total
    whole = criterion.compute_loss(output, [target]).total
    assert explained.losses is not None
    assert explained.losses[0].total == pytest.approx(float(whole - of_decoder), rel=1e-4)
