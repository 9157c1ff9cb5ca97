"""The loss: by hand, split over micro-batches and processes, and its metrics."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from cases import random_prediction, random_target
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from detrcli.config import LossConfig, MatchingConfig
from detrcli.losses.criterion import cardinality_error, class_error
from detrcli.structures import Group, Match, Output, Prediction, Target
from detrcli.variants.detr import build_criterion

CLASSES, QUERIES = 4, 6


class Toy(nn.Module):
    """Stands for a detector: two layers of predictions from a feature per query. No dropout, no norm."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(7)
        self.classes = nn.Parameter(torch.randn(2, 8, CLASSES + 1, generator=g))
        self.boxes = nn.Parameter(torch.randn(2, 8, 4, generator=g))

    def forward(self, features: Tensor) -> Output:
        logits, boxes = features @ self.classes[:, None], (features @ self.boxes[:, None]).sigmoid()
        first, last = (Prediction(*layer) for layer in zip(logits, boxes, strict=True))
        return Output(last, (Group("layer 0", first),))


def toy_data() -> tuple[Tensor, list[Target]]:
    g = torch.Generator().manual_seed(8)
    return torch.randn(4, QUERIES, 8, generator=g), [random_target(g, n, CLASSES) for n in (3, 0, 1, 5)]


def whole_batch() -> tuple[float, list[Tensor]]:
    toy, (features, targets) = Toy(), toy_data()
    losses = build_criterion()(toy(features), targets)
    losses.total.backward()
    return losses.total.item(), [p.grad for p in toy.parameters()]


def test_halves_accumulated_equal_the_whole() -> None:
    total, grads = whole_batch()
    toy, (features, targets) = Toy(), toy_data()
    criterion = build_criterion()
    halves = [slice(0, 2), slice(2, 4)]
    normalisers = criterion.normalisers([targets[half] for half in halves], QUERIES)
    summed = 0.0
    for half in halves:
        losses = criterion(toy(features[half]), targets[half], normalisers)
        losses.total.backward()
        summed += losses.total.item()
    assert summed == pytest.approx(total, rel=1e-5)
    for ours, whole in zip(toy.parameters(), grads, strict=True):
        torch.testing.assert_close(ours.grad, whole, rtol=1e-5, atol=1e-6)


def half_in_a_process(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=Path(folder, "meet").as_uri(), rank=rank, world_size=2)
    features, targets = toy_data()
    half = slice(2 * rank, 2 * rank + 2)
    model = DistributedDataParallel(Toy())
    criterion = build_criterion()
    normalisers = criterion.normalisers([targets[half]], QUERIES)
    losses = criterion(model(features[half]), targets[half], normalisers)
    losses.total.backward()
    torch.save((losses.total.detach(), [p.grad for p in model.parameters()]), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_equal_the_whole(tmp_path: Path) -> None:
    """Through DistributedDataParallel, one process with 3 objects and the other with 6."""
    total, grads = whole_batch()
    torch.multiprocessing.spawn(half_in_a_process, (str(tmp_path),), nprocs=2)
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    # Gradients are averaged over processes, so the losses are to be averaged too.
    assert sum(loss.item() for loss, _ in results) / 2 == pytest.approx(total, rel=1e-5)
    for _, theirs in results:
        for ours, whole in zip(theirs, grads, strict=True):
            torch.testing.assert_close(ours, whole, rtol=1e-5, atol=1e-6)


def by_hand(said: Sequence[int], boxes: Sequence[Sequence[float]]) -> Prediction:
    """A prediction for one image whose top class per query is given, at a logit of ln 3 above the others."""
    logits = torch.zeros(1, len(said), CLASSES + 1)
    logits[0, range(len(said)), said] = torch.tensor(3.0).log()
    return Prediction(logits, torch.tensor([boxes]))


def test_loss_of_a_case_worked_by_hand() -> None:
    """One object, two queries. p(top) = 3/7, p(other) = 1/7; the first query is right by 0.1 in x."""
    prediction = by_hand([2, CLASSES], [[0.5, 0.5, 0.2, 0.2], [0.9, 0.9, 0.1, 0.1]])
    target = Target(torch.tensor([2]), torch.tensor([[0.4, 0.5, 0.2, 0.2]]))
    losses = build_criterion()(Output(prediction, ()), [target])
    log = torch.log(torch.tensor([3 / 7, 3 / 7]))
    assert losses.matches["last"].queries.tolist() == [0]
    assert losses.parts["last"]["class"].item() == pytest.approx(-(log[0] + 0.1 * log[1]).item() / 1.1)
    assert losses.parts["last"]["l1"].item() == pytest.approx(0.1)
    # Boxes 0.2 x 0.2 that share a half: IoU 1/3, and the hull is their union.
    assert losses.parts["last"]["giou"].item() == pytest.approx(1 - 1 / 3, abs=1e-6)
    expected = (
        losses.parts["last"]["class"] + 5 * losses.parts["last"]["l1"] + 2 * losses.parts["last"]["giou"]
    )
    assert losses.total.item() == pytest.approx(expected.item())


def test_weights_of_the_config_reach_the_total() -> None:
    prediction = by_hand([2, CLASSES], [[0.5, 0.5, 0.2, 0.2], [0.9, 0.9, 0.1, 0.1]])
    target = Target(torch.tensor([2]), torch.tensor([[0.4, 0.5, 0.2, 0.2]]))
    criterion = build_criterion(LossConfig(loss_class=0, loss_l1=3, loss_giou=0), MatchingConfig())
    assert criterion(Output(prediction, ()), [target]).total.item() == pytest.approx(0.3)


def test_no_objects_at_all_leaves_the_class_term() -> None:
    g = torch.Generator().manual_seed(9)
    prediction = random_prediction(g, 2, QUERIES, CLASSES)
    losses = build_criterion()(Output(prediction, ()), [random_target(g, 0, CLASSES)] * 2)
    no_object = torch.full((2 * QUERIES,), CLASSES)
    expected = nn.functional.cross_entropy(prediction.logits.flatten(0, 1), no_object)
    assert losses.parts["last"]["class"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert losses.parts["last"]["l1"] == losses.parts["last"]["giou"] == 0


def test_more_objects_than_queries() -> None:
    """All queries are taken; the box terms still divide by all objects, as published."""
    g = torch.Generator().manual_seed(10)
    prediction, target = random_prediction(g, 1, 3, CLASSES), random_target(g, 5, CLASSES)
    criterion = build_criterion()
    losses = criterion(Output(prediction, ()), [target])
    assert sorted(losses.matches["last"].queries.tolist()) == [0, 1, 2]
    assert criterion.normalisers([[target]], 3) == {"class": 3, "l1": 5, "giou": 5}
    assert losses.total.isfinite()


def test_class_error_by_hand() -> None:
    """Pairs: query 0 says 1 and should; query 2 says no-object and should say 3; query 1 is free."""
    prediction = by_hand([1, 0, CLASSES], [[0.5, 0.5, 0.2, 0.2]] * 3)
    targets = [Target(torch.tensor([3, 1]), torch.rand(2, 4))]
    match = Match(torch.tensor([0, 0]), torch.tensor([2, 0]), torch.tensor([0, 1]))
    assert class_error(prediction, match, targets).item() == 50
    none = Match(*(torch.zeros(0, dtype=torch.int64) for _ in range(3)))
    assert class_error(prediction, none, [Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))]) == 0


def test_cardinality_error_by_hand() -> None:
    """Image 0: two queries say an object, one is there; image 1: none says so, three are there."""
    said = [by_hand(s, [[0.5, 0.5, 0.2, 0.2]] * 3) for s in ([1, 0, CLASSES], [CLASSES] * 3)]
    prediction = Prediction(torch.cat([p.logits for p in said]), torch.cat([p.boxes for p in said]))
    targets = [Target(torch.zeros(n, dtype=torch.int64), torch.zeros(n, 4)) for n in (1, 3)]
    assert cardinality_error(prediction, targets).item() == 2
