"""The loss taken apart is the criterion's loss."""

import pytest
import torch
from cases import counted, random_target, seeds
from golden_rules import Golden
from hypothesis import strategies as st
from test_matching_explained import random_group

from detrcli.architectures import detr, preset
from detrcli.config import LossConfig
from detrcli.inspection.explained import explain_group
from detrcli.inspection.losses import ObjectLosses, image_normalisers, object_losses
from detrcli.losses.criterion import Criterion
from detrcli.losses.loss import StepNormalizers
from detrcli.losses.terms import LossTerm, per_object
from detrcli.structures import Match, Output, QueryGroup, Target

CONFIG = preset("detr-r50").config
WEIGHTS = {"cost": {"class": 1.0, "l1": 1.0, "giou": 2.0}, "loss": {"class": 3.0, "l1": 1.0, "giou": 0.5}}
CRITERIA = [
    detr.ARCHITECTURE.make_loss(CONFIG, LossConfig()),
    detr.ARCHITECTURE.make_loss(CONFIG, LossConfig(matching="last", no_object=0.4, **WEIGHTS)),
]


def taken_apart(group: QueryGroup, target: Target, criterion: Criterion) -> list[ObjectLosses]:
    match = criterion.matcher(group, [target])
    return object_losses(group, target, match, criterion, image_normalisers(group, target, criterion))


@counted(200, seeds(), st.integers(1, 6), st.integers(0, 8), st.sampled_from(CRITERIA))
def test_objects_and_background_sum_to_the_criterions_total(
    g: torch.Generator, queries: int, objects: int, criterion: Criterion
) -> None:
    group, target = random_group(g, 3, queries, 4), random_target(g, objects, 4)
    parts = taken_apart(group, target, criterion)
    losses = criterion.compute_loss(Output(group), [target])
    assert sum(layer.total for layer in parts) == pytest.approx(float(losses.total), rel=1e-5)
    for i, layer in enumerate(parts):
        for m, term in enumerate(criterion.terms):
            ours = layer.targets[:, m].sum() + layer.unmatched[m]
            theirs = term.weight * float(losses.layers["decoder"][term.name][i])
            assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
        assert layer.terms == ("class", "l1", "giou")
        assert layer.unmatched[1:].tolist() == [0, 0]
        assert (layer.targets.sum(1) == 0).sum() == max(0, objects - queries)


def test_the_published_loss_of_a_batch_is_that_of_its_images() -> None:
    """The reference's own losses, summed over two images, once those are divided by what their batch holds."""
    golden = Golden("detr-r50")
    logits, boxes = (torch.from_numpy(golden.arrays[f"pred_{what}"]) for what in ("logits", "boxes"))
    targets, criterion = golden.targets(), CRITERIA[0]
    whole = QueryGroup("decoder", logits, boxes)
    normalisers = criterion.normalisers(Output(whole), StepNormalizers.of([targets]))["decoder"]
    total = 0.0
    for image, target in enumerate(targets):
        group = QueryGroup("decoder", logits[:, image : image + 1], boxes[:, image : image + 1])
        match = criterion.matcher(group, [target])
        total += sum(layer.total for layer in object_losses(group, target, match, criterion, normalisers))
    assert total == pytest.approx(golden.facts["total"], rel=1e-4)


def test_a_perfect_box_costs_its_class_alone() -> None:
    """An object of probability a half in its place: log 2, and nothing else."""
    target = Target(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.2, 0.2]]))
    logits = torch.log(torch.tensor([[[[0.1, 0.5, 0.4], [0.2, 0.2, 0.6]]]]))
    boxes = torch.tensor([[[[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]]]])
    ones = dict.fromkeys(("class", "l1", "giou"), 1.0)
    group, criterion = QueryGroup("decoder", logits, boxes), CRITERIA[0]
    (layer,) = object_losses(group, target, criterion.matcher(group, [target]), criterion, ones)
    assert layer.targets[0].tolist() == pytest.approx([0.6931472, 0, 0], abs=1e-6)
    assert layer.unmatched.tolist() == pytest.approx([0.1 * 0.5108256, 0, 0], abs=1e-6)


def test_any_number_of_terms_and_a_weighted_group() -> None:
    """A fourth term, of pairs, that charges 1 for each; and a group that counts half."""
    g = torch.Generator().manual_seed(0)
    group, target = random_group(g, 2, 5, 4), random_target(g, 3, 4)
    plain = CRITERIA[0]
    ones = LossTerm("ones", 6.0, lambda m: torch.ones(len(m.boxes)), per_object)
    criterion = Criterion(plain.scoring, plain.matcher, [*plain.terms, ones])
    for layer in taken_apart(QueryGroup("others", group.logits, group.boxes, weight=0.5), target, criterion):
        assert layer.terms == ("class", "l1", "giou", "ones")
        assert layer.targets[:, 3].tolist() == [1, 1, 1]  # 0.5 * 6 / 3 objects
    both = Output(group, (QueryGroup("others", group.logits, group.boxes, weight=0.5),))
    whole = float(criterion.compute_loss(both, [target]).total)
    parts = [layer.total for one in both.groups for layer in taken_apart(one, target, criterion)]
    assert sum(parts) == pytest.approx(whole, rel=1e-5)


def test_a_group_with_its_own_pairs_and_objects() -> None:
    """A denoising group of two copies of one object: both copies are charged for, nothing is matched anew."""
    g = torch.Generator().manual_seed(0)
    target = random_target(g, 1, 4)
    twice = Target(target.labels.repeat(2), target.boxes.repeat(2, 1))
    one = torch.tensor([0, 0])
    group = random_group(g, 1, 2, 4)
    noisy = QueryGroup(
        "denoising",
        group.logits,
        group.boxes,
        targets=[twice],
        match=Match(one, one, torch.tensor([1, 0]), torch.tensor([0, 1])),
        counts=lambda objects: ([2 * n for n in objects], 2),
    )
    criterion = CRITERIA[0]
    explained = explain_group(noisy, target, criterion)
    assert explained.queries.tolist() == [[1, 0]]
    assert [pair.runner_up for pair in explained.layers[0].pairs] == [None, None]
    output = Output(group, (noisy,))
    of_decoder = criterion.compute_loss(Output(group), [target]).total
    whole = criterion.compute_loss(output, [target]).total
    assert explained.losses is not None
    assert explained.losses[0].total == pytest.approx(float(whole - of_decoder), rel=1e-4)


class ForeignLoss:
    """A model's own loss, of which nothing but the matching is known."""

    scoring, matcher = CRITERIA[0].scoring, CRITERIA[0].matcher


def test_a_loss_that_cannot_be_taken_apart() -> None:
    g = torch.Generator().manual_seed(0)
    explained = explain_group(random_group(g, 1, 3, 4), random_target(g, 2, 4), ForeignLoss())
    assert explained.losses is None
    assert len(explained.layers[0].pairs) == 2
