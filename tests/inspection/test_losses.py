"""The loss taken apart is the criterion's loss."""

import pytest
import torch
from cases import counted, random_target, seeds
from golden_rules import Golden
from hypothesis import strategies as st
from test_matching_explained import random_output

from detrcli.config import LossConfig, MatchingConfig
from detrcli.inspection.losses import charges
from detrcli.losses.criterion import Criterion
from detrcli.structures import Group, Output, Prediction, Target
from detrcli.variants.detr import build_criterion

CRITERIA = [
    build_criterion(),
    build_criterion(LossConfig(3, 1, 0.5, 0.4), MatchingConfig(matching="last", cost_l1=1)),
]


@counted(200, seeds(), st.integers(1, 6), st.integers(0, 8), st.sampled_from(CRITERIA))
def test_objects_and_background_sum_to_the_criterions_total(
    g: torch.Generator, queries: int, objects: int, criterion: Criterion
) -> None:
    output, target = random_output(g, 3, queries, 4), random_target(g, objects, 4)
    parts = charges(output, target, criterion)
    total = sum(layer.targets.sum() + layer.background for layer in parts)
    losses = criterion(output, [target])
    assert total == pytest.approx(float(losses.total), rel=1e-5)
    for layer, by_term in zip(parts, losses.parts.values(), strict=True):
        for i, term in enumerate(criterion.terms):
            ours = layer.targets[:, i].sum() + (layer.background if term.name == "class" else 0)
            assert ours == pytest.approx(term.weight * float(by_term[term.name]), rel=1e-4, abs=1e-6)
        assert (layer.targets.sum(1) == 0).sum() == max(0, objects - queries)


def test_the_published_loss_of_a_batch_is_that_of_its_images() -> None:
    """The reference's own losses, summed over two images, once those are divided by what their batch holds."""
    golden = Golden("detr-r50")
    logits, boxes = (torch.from_numpy(golden.arrays[f"pred_{what}"]) for what in ("logits", "boxes"))
    targets, criterion = golden.targets(), build_criterion()
    normalisers = criterion.normalisers([targets], logits.shape[2])
    total = 0.0
    for image, target in enumerate(targets):
        *auxiliary, last = (
            Prediction(logits[layer, image : image + 1], boxes[layer, image : image + 1])
            for layer in range(len(logits))
        )
        output = Output(last, tuple(Group(f"layer {i}", one) for i, one in enumerate(auxiliary)))
        layers = charges(output, target, criterion, normalisers)
        total += sum(layer.targets.sum() + layer.background for layer in layers)
    assert total == pytest.approx(golden.facts["total"], rel=1e-4)


def test_a_perfect_box_costs_its_class_alone() -> None:
    """An object of probability a half in its place: log 2, and nothing else."""
    target = Target(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.2, 0.2]]))
    logits = torch.log(torch.tensor([[[0.1, 0.5, 0.4], [0.2, 0.2, 0.6]]]))
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]]])
    ones = dict.fromkeys(("class", "l1", "giou"), 1.0)
    (layer,) = charges(Output(Prediction(logits, boxes), ()), target, build_criterion(), ones)
    assert layer.targets[0].tolist() == pytest.approx([0.6931472, 0, 0], abs=1e-6)
    assert layer.background == pytest.approx(0.1 * 0.5108256, abs=1e-6)
