"""The losses of objects and unmatched queries sum to the loss of the criterion."""

from collections.abc import Sequence

import pytest
import torch
from cases import counted, random_target, seeds
from golden_rules import Golden
from hypothesis import strategies as st
from test_matching_explained import random_group

from detrcli.architectures import detr, preset
from detrcli.config import LossConfig
from detrcli.inspection.matching import ObjectLosses, explain_group, object_losses
from detrcli.losses.criterion import Criterion
from detrcli.losses.terms import LossTerm, per_object
from detrcli.structures import Match, Output, QueryGroup, Target

CONFIG = preset("detr-r50").config
WEIGHTS = {"cost": {"class": 1.0, "l1": 1.0, "giou": 2.0}, "loss": {"class": 3.0, "l1": 1.0, "giou": 0.5}}
CRITERIA = [
    detr.ARCHITECTURE.make_loss(CONFIG, LossConfig()),
    detr.ARCHITECTURE.make_loss(CONFIG, LossConfig(matching="last", no_object=0.4, **WEIGHTS)),
]


def losses_of(group: QueryGroup, target: Target, criterion: Criterion) -> Sequence[ObjectLosses]:
    losses = explain_group(group, target, criterion).losses
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
        total += sum(layer.total for layer in object_losses(group, target, match, criterion, normalizers))
    assert total == pytest.approx(golden.facts["total"], rel=1e-4)


def test_a_perfect_box_has_a_class_loss_alone() -> None:
    """An object with a probability of 0.5: log 2."""
    target = Target(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.2, 0.2]]))
    logits = torch.log(torch.tensor([[[[0.1, 0.5, 0.4], [0.2, 0.2, 0.6]]]]))
    boxes = torch.tensor([[[[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]]]])
    losses = explain_group(QueryGroup("decoder", logits, boxes), target, CRITERIA[0], normalized=False).losses
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
    explained = explain_group(noisy, target, criterion)
    assert explained.queries.tolist() == [[1, 0]]
    assert [pair.runner_up for pair in explained.layers[0].pairs] == [None, None]
    output = Output(group, (noisy,))
    of_decoder = criterion.compute_loss(Output(group), [target]).total
    whole = criterion.compute_loss(output, [target]).total
    assert explained.losses is not None
    assert explained.losses[0].total == pytest.approx(float(whole - of_decoder), rel=1e-4)
