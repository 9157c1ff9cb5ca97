"""The loss: by hand, split over micro-batches and processes, and its metrics."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import group_of, random_prediction, random_target
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from detrcli.architectures import detr
from detrcli.architectures.detr import DETRConfig
from detrcli.boxes import cxcywh_to_xyxy
from detrcli.config import LossConfig
from detrcli.losses.criterion import Criterion, cardinality_error, class_error
from detrcli.losses.loss import LossBreakdown, StepNormalizers
from detrcli.losses.matching import HungarianMatcher
from detrcli.losses.scoring import Sigmoid, Softmax
from detrcli.losses.terms import LossTerm, class_cost, class_loss
from detrcli.structures import Match, ObjectCounts, Output, Prediction, QueryGroup, Target

CLASSES, QUERIES = 4, 6


def criterion_of(loss: LossConfig | None = None) -> Criterion:
    return detr.ARCHITECTURE.make_loss(DETRConfig(classes=CLASSES), loss or LossConfig())


def loss_of(prediction: Prediction, targets: Sequence[Target]) -> LossBreakdown:
    """The published loss of a decoder with a single layer."""
    return criterion_of().compute_loss(Output(group_of(prediction)), targets)


class Toy(nn.Module):
    """Stands for a detector: two layers of predictions from a feature per query. No dropout, no norm."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(7)
        self.classes = nn.Parameter(torch.randn(2, 8, CLASSES + 1, generator=g))
        self.boxes = nn.Parameter(torch.randn(2, 8, 4, generator=g))

    def forward(self, features: Tensor) -> Output:
        logits, boxes = features @ self.classes[:, None], (features @ self.boxes[:, None]).sigmoid()
        return Output(QueryGroup("decoder", logits, boxes))


def toy_data() -> tuple[Tensor, list[Target]]:
    g = torch.Generator().manual_seed(8)
    return torch.randn(4, QUERIES, 8, generator=g), [random_target(g, n, CLASSES) for n in (3, 0, 1, 5)]


def whole_batch() -> tuple[float, list[Tensor]]:
    toy, (features, targets) = Toy(), toy_data()
    losses = criterion_of().compute_loss(toy(features), targets)
    losses.total.backward()
    return losses.total.item(), [p.grad for p in toy.parameters()]


def test_halves_accumulated_equal_the_whole() -> None:
    total, grads = whole_batch()
    toy, (features, targets) = Toy(), toy_data()
    halves = [slice(0, 2), slice(2, 4)]
    step = StepNormalizers.of([targets[half] for half in halves])
    summed = 0.0
    for half in halves:
        losses = criterion_of().compute_loss(toy(features[half]), targets[half], step)
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
    losses = criterion_of().compute_loss(model(features[half]), targets[half], StepNormalizers.of([targets[half]]))
    losses.total.backward()
    torch.save((losses.total.detach(), [p.grad for p in model.parameters()]), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
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
    losses = loss_of(prediction, [target])
    log = torch.log(torch.tensor([3 / 7, 3 / 7]))
    assert losses.matches["decoder"].queries.tolist() == [0]
    assert losses.parts["class"].item() == pytest.approx(-(log[0] + 0.1 * log[1]).item() / 1.1)
    assert losses.parts["l1"].item() == pytest.approx(0.1)
    # Boxes 0.2 x 0.2 that share a half: IoU 1/3, and the hull is their union.
    assert losses.parts["giou"].item() == pytest.approx(1 - 1 / 3, abs=1e-6)
    expected = losses.parts["class"] + 5 * losses.parts["l1"] + 2 * losses.parts["giou"]
    assert losses.total.item() == pytest.approx(expected.item())


def test_weights_of_the_config_reach_the_total() -> None:
    prediction = by_hand([2, CLASSES], [[0.5, 0.5, 0.2, 0.2], [0.9, 0.9, 0.1, 0.1]])
    target = Target(torch.tensor([2]), torch.tensor([[0.4, 0.5, 0.2, 0.2]]))
    criterion = criterion_of(LossConfig(loss={"class": 0, "l1": 3, "giou": 0}))
    losses = criterion.compute_loss(Output(group_of(prediction)), [target])
    assert losses.total.item() == pytest.approx(0.3)


def test_no_objects_at_all_leaves_the_class_term() -> None:
    g = torch.Generator().manual_seed(9)
    prediction = random_prediction(g, 2, QUERIES, CLASSES)
    losses = loss_of(prediction, [random_target(g, 0, CLASSES)] * 2)
    no_object = torch.full((2 * QUERIES,), CLASSES)
    expected = nn.functional.cross_entropy(prediction.logits.flatten(0, 1), no_object)
    assert losses.parts["class"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert losses.parts["l1"] == losses.parts["giou"] == 0


def test_more_objects_than_queries() -> None:
    """All queries are taken; the box terms still divide by all objects, as published."""
    g = torch.Generator().manual_seed(10)
    prediction, target = random_prediction(g, 1, 3, CLASSES), random_target(g, 5, CLASSES)
    criterion, output, step = criterion_of(), Output(group_of(prediction)), StepNormalizers.of([[target]])
    losses = criterion.compute_loss(output, [target], step)
    assert sorted(losses.matches["decoder"].queries.tolist()) == [0, 1, 2]
    assert step.normalisers == {"decoder": {"class": 3, "l1": 5, "giou": 5}}
    assert losses.total.isfinite()


def test_class_error_by_hand() -> None:
    """Pairs: query 0 says 1 and should; query 2 says no-object and should say 3; query 1 is free."""
    prediction = by_hand([1, 0, CLASSES], [[0.5, 0.5, 0.2, 0.2]] * 3)
    targets = [Target(torch.tensor([3, 1]), torch.rand(2, 4))]
    match = Match(torch.tensor([0, 0]), torch.tensor([0, 0]), torch.tensor([2, 0]), torch.tensor([0, 1]))
    assert class_error(Softmax(), group_of(prediction), match, targets).item() == 50
    single = Match(*(part[:1] for part in (match.layers, match.images, match.queries, match.targets)))
    assert class_error(Softmax(), group_of(prediction), single, targets).item() == 100
    none = Match(*(torch.zeros(0, dtype=torch.int64) for _ in range(4)))
    nothing = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    assert class_error(Softmax(), group_of(prediction), none, [nothing]) == 0


def test_cardinality_error_by_hand() -> None:
    """Image 0: two queries say an object, one is there; image 1: none says so, three are there."""
    said = [by_hand(s, [[0.5, 0.5, 0.2, 0.2]] * 3) for s in ([1, 0, CLASSES], [CLASSES] * 3)]
    prediction = Prediction(torch.cat([p.logits for p in said]), torch.cat([p.boxes for p in said]))
    targets = [Target(torch.zeros(n, dtype=torch.int64), torch.zeros(n, 4)) for n in (1, 3)]
    assert cardinality_error(Softmax(), prediction, targets).item() == 2


def denoising(g: torch.Generator, targets: Sequence[Target]) -> QueryGroup:
    """Queries that stand for two copies of each object, which they have by the way they were made."""
    queries, layers = 12, 2
    own = [
        Target(t.labels.repeat(2), (t.boxes.repeat(2, 1) + 0.01 * torch.randn(2 * len(t), 4, generator=g)))
        for t in targets
    ]
    pairs, start = [], 0
    for image, target in enumerate(own):
        n = torch.arange(len(target))
        pairs.append(torch.stack([torch.full_like(n, image), n, start + n]))
        start += len(target)
    images, matched, objects = torch.cat(pairs, 1).repeat(1, layers)
    match = Match(torch.arange(layers).repeat_interleave(start), images, matched, objects)

    def counts(of_images: Sequence[int]) -> ObjectCounts:
        return [2 * n for n in of_images], queries

    predictions = [random_prediction(g, len(targets), queries, CLASSES) for _ in range(layers)]
    return group_of(
        *predictions, name="denoising", targets=own, match=match, weight=0.5, counts=counts
    )  # fmt: skip


def summed_by_hand(group: QueryGroup, match: Match, targets: Sequence[Target], layer: int) -> dict[str, Tensor]:
    """The terms of one layer before they are divided, by torch's and torchvision's own losses."""
    labels, boxes = torch.cat([t.labels for t in targets]), torch.cat([t.boxes for t in targets])
    here = match.layer(layer)
    wanted = torch.full(group.logits.shape[1:3], CLASSES)
    wanted[here.images, here.queries] = labels[here.targets]
    weight = torch.tensor([1.0] * CLASSES + [0.1])
    found, there = group.boxes[layer][here.images, here.queries], boxes[here.targets]
    return {
        "class": nn.functional.cross_entropy(
            group.logits[layer].flatten(0, 1), wanted.flatten(), weight, reduction="sum"
        ),
        "l1": nn.functional.l1_loss(found, there, reduction="sum"),
        "giou": generalized_box_iou_loss(cxcywh_to_xyxy(found), cxcywh_to_xyxy(there), reduction="sum"),
    }


def test_several_groups_by_hand() -> None:
    """Each is divided by its own counts and weighted by its own weight, over its own layers and queries."""
    g = torch.Generator().manual_seed(11)
    targets = [random_target(g, n, CLASSES) for n in (2, 0, 4)]
    decoder = group_of(*(random_prediction(g, 3, QUERIES, CLASSES) for _ in range(3)))
    second = denoising(g, targets)
    losses = criterion_of().compute_loss(Output(decoder, (second,)), targets)
    assert losses.matches["denoising"] is second.match

    divisors = {
        "decoder": {"class": 6 + 0.1 * (3 * QUERIES - 6), "l1": 6, "giou": 6},
        "denoising": {"class": 12 + 0.1 * (3 * 12 - 12), "l1": 12, "giou": 12},
    }
    weights, total = {"class": 1, "l1": 5, "giou": 2}, torch.zeros(())
    for group, own, prefix in ((decoder, targets, ""), (second, second.targets, "denoising_")):
        for layer in range(len(group)):
            by_hand = summed_by_hand(group, losses.matches[group.name], own, layer)
            for term, value in by_hand.items():
                value = value / divisors[group.name][term]
                torch.testing.assert_close(losses.layers[group.name][term][layer], value)
                total = total + group.weight * weights[term] * value
                if layer == len(group) - 1:
                    torch.testing.assert_close(losses.parts[prefix + term], value)
    assert losses.parts.keys() == {*("class", "l1", "giou"), *("denoising_class", "denoising_l1", "denoising_giou")}
    torch.testing.assert_close(losses.total, total)


def test_several_groups_however_a_step_is_split() -> None:
    """Two batches of a step, one of them without objects, sum up to the loss of both in one."""
    g = torch.Generator().manual_seed(12)
    targets = [random_target(g, n, CLASSES) for n in (3, 1, 0, 0)]
    decoder = group_of(*(random_prediction(g, 4, QUERIES, CLASSES) for _ in range(2)))
    second = denoising(g, targets)
    criterion, whole = criterion_of(), StepNormalizers.of([targets])
    total = criterion.compute_loss(Output(decoder, (second,)), targets, whole).total

    halves = [slice(0, 2), slice(2, 4)]
    step, summed = StepNormalizers.of([targets[half] for half in halves]), torch.zeros(())
    for half, match in zip(halves, (second.match, none_of(second.match)), strict=True):
        of_half = [replace(group, logits=group.logits[:, half], boxes=group.boxes[:, half]) for group in
                   (decoder, second)]  # fmt: skip
        noisy = replace(of_half[1], targets=second.targets[half], match=match)
        summed = summed + criterion.compute_loss(Output(of_half[0], (noisy,)), targets[half], step).total
    assert step.normalisers.keys() == whole.normalisers.keys() == {"decoder", "denoising"}
    for group, normalisers in whole.normalisers.items():
        assert step.normalisers[group] == pytest.approx(normalisers)
    torch.testing.assert_close(summed, total)


def none_of(match: Match) -> Match:
    """No pairs."""
    return match.layer(-1)


@pytest.mark.parametrize("kind", ["focal", "probability"])
def test_a_member_with_sigmoid_scoring(kind: str) -> None:
    """Its class term is focal, and divided by the objects, of which there is at least one."""
    g = torch.Generator().manual_seed(13)
    scoring = Sigmoid()
    criterion = Criterion(scoring, HungarianMatcher([class_cost(scoring, kind, 2)]), [class_loss(scoring, 2)])
    group = QueryGroup("decoder", torch.randn(1, 2, 5, CLASSES, generator=g), torch.rand(1, 2, 5, 4, generator=g))
    for counts, divisor in (((2, 1), 3), ((0, 0), 1)):
        targets = [random_target(g, n, CLASSES) for n in counts]
        losses = criterion.compute_loss(Output(group), targets)
        match = losses.matches["decoder"]
        wanted = torch.zeros(2, 5, CLASSES)
        wanted[match.images, match.queries, torch.cat([t.labels for t in targets])[match.targets]] = 1
        expected = sigmoid_focal_loss(group.logits[0], wanted, 0.25, 2, reduction="sum") / divisor
        torch.testing.assert_close(losses.parts["class"], expected)
        torch.testing.assert_close(losses.total, 2 * expected)


def test_nothing_is_divided_by_less_than_the_least() -> None:
    """Half an object for each process still counts as a whole one."""
    term = LossTerm("own", 1.0, lambda matched: matched.labels * 0 + 3.0, lambda objects, _: objects / 2)
    group = group_of(random_prediction(torch.Generator().manual_seed(14), 1, 2, CLASSES))
    matcher = criterion_of().matcher
    for objects, divisor in ((0, 1), (1, 1), (2, 1), (4, 2)):
        target = random_target(torch.Generator().manual_seed(15), objects, CLASSES)
        losses = Criterion(Softmax(), matcher, [term]).compute_loss(Output(group), [target])
        assert losses.total.item() == pytest.approx(2 * 3 / divisor)


def test_where_nothing_counts_the_loss_is_zero() -> None:
    """No objects, and "no object" weighs nothing."""
    g = torch.Generator().manual_seed(16)
    output = Output(group_of(random_prediction(g, 2, QUERIES, CLASSES)))
    losses = criterion_of(LossConfig(no_object=0)).compute_loss(output, [random_target(g, 0, CLASSES)] * 2)
    assert losses.total == 0
