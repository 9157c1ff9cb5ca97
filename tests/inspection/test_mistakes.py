"""Missed objects and false positives in small constructed cases."""

from collections.abc import Sequence

import pytest
import torch
from test_matching_explained import explain

from detrcli.inspection.matching import LayerMatching, false_positives, missed_objects
from detrcli.losses.matching import HungarianMatcher
from detrcli.losses.scoring import Sigmoid
from detrcli.losses.terms import class_cost, l1_cost
from detrcli.structures import QueryGroup, Target

LEFT, RIGHT, FAR = [0.25, 0.5, 0.3, 0.4], [0.75, 0.5, 0.3, 0.4], [0.5, 0.1, 0.1, 0.1]
SHIFTED = [0.35, 0.6, 0.3, 0.4]  # an IoU of 0.2 * 0.3 / 0.18 = 1/3 with LEFT
CAT, DOG, NO_OBJECT = [0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]
SURE_CAT = [0.98, 0.01, 0.01]


def layers(*predictions: list[tuple[list[float], list[float]]], objects: Target) -> Sequence[LayerMatching]:
    """Explain layers, each given by the (probabilities, box) of its queries."""
    probabilities = [[[row for row, _ in layer]] for layer in predictions]
    boxes = [[[box for _, box in layer]] for layer in predictions]
    return explain(QueryGroup("decoder", torch.log(torch.tensor(probabilities)), torch.tensor(boxes)), objects)


def objects(*pairs: tuple[int, list[float]]) -> Target:
    return Target(torch.tensor([label for label, _ in pairs]), torch.tensor([box for _, box in pairs]))


def reasons(found: Sequence[LayerMatching], target: Target) -> dict[int, list[str | None]]:
    return {n: [p.why for p in predictions] for n, predictions in missed_objects(found, target, 0.7).items()}


@pytest.mark.parametrize(
    ("probabilities", "box", "expected"),
    [
        (NO_OBJECT, LEFT, {0: ["no-object"]}),
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
        [(NO_OBJECT, FAR), (CAT, LEFT)], [(DOG, LEFT), (NO_OBJECT, FAR)], [(NO_OBJECT, LEFT), (NO_OBJECT, FAR)],
        objects=cat,
    )  # fmt: skip
    ((n, missed),) = missed_objects(found, cat, 0.7).items()
    assert n == 0
    assert [(p.layer, p.query, p.why) for p in missed] == [(0, 1, None), (1, 0, "class"), (2, 0, "no-object")]
    assert (missed[1].label, round(missed[1].own_score or 0, 4)) == (1, 0.05)


def test_more_objects_than_queries() -> None:
    both = objects((0, LEFT), (1, RIGHT))
    found = layers([(CAT, LEFT)], objects=both)
    assert reasons(found, both) == {1: ["no-query"]}
    assert false_positives(found[-1], both, 0.7) == []


def test_a_detection_counts_for_its_own_object_alone() -> None:
    """Two objects in the same place and a single detection."""
    both = objects((0, LEFT), (0, LEFT))
    (missed,) = missed_objects(layers([(CAT, LEFT), (NO_OBJECT, LEFT)], objects=both), both, 0.7).values()
    assert missed[-1].query == 1


def test_kinds_of_false_positives() -> None:
    cat = objects((0, LEFT))
    queries = [(SURE_CAT, LEFT), (CAT, LEFT), ([0.05, 0.92, 0.03], LEFT), (CAT, FAR), (NO_OBJECT, LEFT)]
    found = layers(queries, objects=cat)
    kinds = [(e.query, e.label, e.kind, e.target, e.partner) for e in false_positives(found[-1], cat, 0.7)]
    assert kinds == [(2, 1, "other-class", 0, 0), (1, 0, "duplicate", 0, 0), (3, 0, "background", None, None)]
    assert false_positives(found[-1], cat, 0.99) == []
    none = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    found = layers([(CAT, LEFT), (NO_OBJECT, LEFT)], objects=none)
    assert missed_objects(found, none, 0.7) == {}
    assert [e.kind for e in false_positives(found[-1], none, 0.7)] == ["background"]


def test_an_iou_of_a_half_is_enough() -> None:
    """With numbers that float32 represents exactly."""
    whole, half = [0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.25]
    cat = objects((0, whole))
    assert missed_objects(layers([(CAT, half), (NO_OBJECT, FAR)], objects=cat), cat, 0.7) == {}
    beside = layers([(SURE_CAT, whole), (CAT, half), (DOG, half)], objects=cat)
    kinds = [(e.query, e.kind, e.iou) for e in false_positives(beside[-1], cat, 0.7)]
    assert kinds == [(1, "duplicate", 0.5), (2, "other-class", 0.5)]
    assert reasons(layers([(CAT, half)], [(NO_OBJECT, half)], objects=cat), cat) == {0: [None, "no-object"]}


@pytest.mark.parametrize(("label", "expected"), [(0, [(0, 1, "other-class")]), (1, [(0, 0, "other-class")])])
def test_a_second_class_of_a_matched_query_is_a_false_positive(label: int, expected: list[object]) -> None:
    """With sigmoid scores a query may have detections of several classes, also if its object has the less probable."""
    focal = HungarianMatcher([class_cost(Sigmoid(), "focal", 1), l1_cost(5)])
    logits = torch.tensor([[[[3.0, 2.0], [-5.0, -5.0]]]])
    target = objects((label, LEFT))
    group = QueryGroup("decoder", logits, torch.tensor([[[LEFT, FAR]]]))
    (layer,) = explain(group, target, focal, Sigmoid())
    assert missed_objects([layer], target, 0.7) == {}
    assert [(e.query, e.label, e.kind) for e in false_positives(layer, target, 0.7)] == expected
