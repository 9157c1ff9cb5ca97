"""Missed objects and detections too many, each case made by hand."""

import torch
from test_matching_explained import explain

from detrcli.inspection.matching import LayerMatching, explain_matching
from detrcli.inspection.mistakes import extra, missed
from detrcli.losses.matching import HungarianMatcher
from detrcli.losses.scoring import Sigmoid
from detrcli.losses.terms import class_cost, l1_cost
from detrcli.structures import QueryGroup, Target

LEFT, RIGHT, FAR = [0.25, 0.5, 0.3, 0.4], [0.75, 0.5, 0.3, 0.4], [0.5, 0.1, 0.1, 0.1]
SHIFTED = [0.35, 0.6, 0.3, 0.4]  # an IoU of 0.2 * 0.3 / 0.18 = 1/3 with LEFT
CAT, DOG, NOTHING = [0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]


def layers(*predictions: list[tuple[list[float], list[float]]], objects: Target) -> list[LayerMatching]:
    """Each layer as the (probabilities, box) of its queries."""
    says = [[[says for says, _ in layer]] for layer in predictions]
    boxes = [[[box for _, box in layer]] for layer in predictions]
    return explain(QueryGroup("decoder", torch.log(torch.tensor(says)), torch.tensor(boxes)), objects)


def objects(*pairs: tuple[int, list[float]]) -> Target:
    return Target(torch.tensor([label for label, _ in pairs]), torch.tensor([box for _, box in pairs]))


def whys(found: list[LayerMatching], target: Target) -> dict[int, list[str | None]]:
    return {one.target: [answer.why for answer in one.answers] for one in missed(found, target, 0.7)}


def test_each_reason() -> None:
    one = objects((0, LEFT))
    for says, box, why in (
        (NOTHING, LEFT, "no-object"),
        (DOG, LEFT, "class"),
        ([0.6, 0.2, 0.2], LEFT, "score"),
        (CAT, SHIFTED, "box"),
    ):
        assert whys(layers([(says, box)], objects=one), one) == {0: [why]}
    assert whys(layers([(CAT, LEFT)], objects=one), one) == {}


def test_every_layer_answers() -> None:
    """Seen, then forgotten: by query 1 first, then by query 0 that says another class, at the end by nobody."""
    one = objects((0, LEFT))
    found = layers(
        [(NOTHING, FAR), (CAT, LEFT)], [(DOG, LEFT), (NOTHING, FAR)], [(NOTHING, LEFT), (NOTHING, FAR)],
        objects=one,
    )  # fmt: skip
    (lost,) = missed(found, one, 0.7)
    assert [(a.layer, a.query, a.why) for a in lost.answers] == [(0, 1, None), (1, 0, "class"), (2, 0, "no-object")]
    assert lost.answers[1].label == 1
    assert round(lost.answers[1].own_score or 0, 4) == 0.05


def test_more_objects_than_queries() -> None:
    two = objects((0, LEFT), (1, RIGHT))
    found = layers([(CAT, LEFT)], objects=two)
    assert whys(found, two) == {1: ["no-query"]}
    assert extra(found[-1], two, 0.7) == []


def test_a_detection_beside_its_pair_counts_once() -> None:
    """Two objects in one place and one detection: it stands for the one that it was given."""
    two = objects((0, LEFT), (0, LEFT))
    found = layers([(CAT, LEFT), (NOTHING, LEFT)], objects=two)
    (lost,) = missed(found, two, 0.7)
    assert lost.answers[-1].query == 1


def test_kinds_of_detections_too_many() -> None:
    one = objects((0, LEFT))
    surer = [0.98, 0.01, 0.01]
    found = layers([(surer, LEFT), (CAT, LEFT), ([0.05, 0.92, 0.03], LEFT), (CAT, FAR), (NOTHING, LEFT)], objects=one)
    seen = [(e.query, e.label, e.kind, e.target, e.partner) for e in extra(found[-1], one, 0.7)]
    assert seen == [(2, 1, "other-class", 0, 0), (1, 0, "duplicate", 0, 0), (3, 0, "background", None, None)]
    assert extra(found[-1], one, 0.99) == []


def test_half_of_two_boxes_in_common_is_the_same_place() -> None:
    """An IoU of exactly 0.5, in numbers that float32 holds exactly."""
    whole, half = [0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.25]
    one = objects((0, whole))
    found = layers([(CAT, half), (NOTHING, FAR)], objects=one)
    assert missed(found, one, 0.7) == []
    beside = layers([([0.98, 0.01, 0.01], whole), (CAT, half), (DOG, half)], objects=one)
    seen = [(e.query, e.kind, e.iou) for e in extra(beside[-1], one, 0.7)]
    assert seen == [(1, "duplicate", 0.5), (2, "other-class", 0.5)]
    forgotten = layers([(CAT, half)], [(NOTHING, half)], objects=one)
    assert whys(forgotten, one) == {0: [None, "no-object"]}


def test_without_objects_every_detection_is_of_the_background() -> None:
    none = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    found = layers([(CAT, LEFT), (NOTHING, LEFT)], objects=none)
    assert missed(found, none, 0.7) == []
    assert [e.kind for e in extra(found[-1], none, 0.7)] == ["background"]


def test_a_second_class_of_a_matched_query_is_a_false_positive() -> None:
    """With sigmoid scores a query may stand for several classes: only one of them is its object's."""
    focal = HungarianMatcher([class_cost(Sigmoid(), "focal", 1), l1_cost(5)])
    one = objects((0, LEFT))
    logits = torch.tensor([[[[3.0, 2.0], [-5.0, -5.0]]]])
    group = QueryGroup("decoder", logits, torch.tensor([[[LEFT, FAR]]]))
    (layer,) = explain_matching(group, one, focal, Sigmoid())
    assert missed([layer], one, 0.7) == []
    assert [(e.query, e.label, e.kind) for e in extra(layer, one, 0.7)] == [(0, 1, "other-class")]
    # Its object is found by a class that it says less.
    other = objects((1, LEFT))
    (layer,) = explain_matching(group, other, focal, Sigmoid())
    assert missed([layer], other, 0.7) == []
    assert [(e.query, e.label) for e in extra(layer, other, 0.7)] == [(0, 0)]
