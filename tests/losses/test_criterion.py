"""The set prediction loss: by hand, and independent of how a step is split into batches and processes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from detrcli.losses.criterion import Criterion, LossBreakdown, class_error
from detrcli.losses.matching import HungarianMatcher
from detrcli.losses.scoring import Sigmoid, Softmax
from detrcli.losses.terms import LossTerm, class_cost, class_loss, quality_class_loss
from detrcli.structures import Match, Output, Prediction, QueryGroup, Target

CLASSES, QUERIES = 4, 6
HALVES = (slice(0, 2), slice(2, 4))


def criterion_of(**loss: Any) -> Criterion:
    return detr.ARCHITECTURE.make_loss(DETRConfig(classes=CLASSES), LossConfig(**loss))


def loss_of(prediction: Prediction, targets: Sequence[Target], **loss: Any) -> LossBreakdown:
    """The loss of a decoder with a single layer, by default the published loss."""
    return criterion_of(**loss).compute_loss(Output(group_of(prediction)), targets)


class Toy(nn.Module):
    """A detector with two linear layers of predictions from a feature per query."""

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


def test_accumulated_halves_equal_the_whole() -> None:
    total, grads = whole_batch()
    toy, (features, targets) = Toy(), toy_data()
    criterion, summed = criterion_of(), 0.0
    normalizers = criterion.normalizers(toy(features[:2]), [targets[half] for half in HALVES])
    for half in HALVES:
        losses = criterion.compute_loss(toy(features[half]), targets[half], normalizers)
        losses.total.backward()
        summed += losses.total.item()
    assert summed == pytest.approx(total, rel=1e-5)
    torch.testing.assert_close([p.grad for p in toy.parameters()], grads, rtol=1e-5, atol=1e-6)


def half_in_a_process(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=Path(folder, "meet").as_uri(), rank=rank, world_size=2)
    features, targets = toy_data()
    model = DistributedDataParallel(Toy())
    losses = criterion_of().compute_loss(model(features[HALVES[rank]]), targets[HALVES[rank]])
    losses.total.backward()
    torch.save((losses.total.detach(), [p.grad for p in model.parameters()]), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_the_whole(tmp_path: Path) -> None:
    """Through DistributedDataParallel, with 3 objects in a process and 6 in the other."""
    total, grads = whole_batch()
    torch.multiprocessing.spawn(half_in_a_process, (str(tmp_path),), nprocs=2)
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    # Gradients are averaged over processes, so the losses are averaged too.
    assert sum(loss.item() for loss, _ in results) / 2 == pytest.approx(total, rel=1e-5)
    for _, ours in results:
        torch.testing.assert_close(ours, grads, rtol=1e-5, atol=1e-6)


def by_hand(top: Sequence[int], boxes: Sequence[Sequence[float]]) -> Prediction:
    """A prediction for an image with this top class per query, at a logit of ln 3 above the others."""
    logits = torch.zeros(1, len(top), CLASSES + 1)
    logits[0, range(len(top)), top] = torch.tensor(3.0).log()
    return Prediction(logits, torch.tensor([boxes]))


def test_loss_of_a_case_worked_by_hand() -> None:
    """One object, two queries. p(top) = 3/7, p(other) = 1/7; the first query is right by 0.1 in x."""
    prediction = by_hand([2, CLASSES], [[0.5, 0.5, 0.2, 0.2], [0.9, 0.9, 0.1, 0.1]])
    target = Target(torch.tensor([2]), torch.tensor([[0.4, 0.5, 0.2, 0.2]]))
    losses = loss_of(prediction, [target])
    log = torch.log(torch.tensor(3 / 7)).item()
    assert losses.matches["decoder"].queries.tolist() == [0]
    # The boxes share a half: IoU 1/3, and the hull is their union.
    expected = {"class": -log, "l1": 0.1, "giou": 2 / 3}
    assert {name: part.item() for name, part in losses.parts.items()} == pytest.approx(expected, abs=1e-6)
    assert losses.total.item() == pytest.approx(-log + 5 * 0.1 + 2 * 2 / 3)
    weighted = loss_of(prediction, [target], loss={"class": 0, "l1": 3, "giou": 0})
    assert weighted.total.item() == pytest.approx(0.3)


def test_no_objects_at_all_leaves_the_class_term() -> None:
    g = torch.Generator().manual_seed(9)
    prediction, nothing = random_prediction(g, 2, QUERIES, CLASSES), [random_target(g, 0, CLASSES)] * 2
    losses = loss_of(prediction, nothing)
    no_object = torch.full((2 * QUERIES,), CLASSES)
    expected = nn.functional.cross_entropy(prediction.logits.flatten(0, 1), no_object)
    assert losses.parts["class"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert losses.parts["l1"] == losses.parts["giou"] == 0
    assert loss_of(prediction, nothing, no_object=0).total == 0


def test_more_objects_than_queries() -> None:
    """All queries are matched; the box terms are divided by all objects, as published."""
    g = torch.Generator().manual_seed(10)
    prediction, target = random_prediction(g, 1, 3, CLASSES), random_target(g, 5, CLASSES)
    criterion, output = criterion_of(), Output(group_of(prediction))
    losses = criterion.compute_loss(output, [target])
    assert sorted(losses.matches["decoder"].queries.tolist()) == [0, 1, 2]
    assert criterion.normalizers(output, [[target]]) == {"decoder": {"class": 3, "l1": 5, "giou": 5}}
    assert losses.total.isfinite()


def test_class_error_by_hand() -> None:
    """Query 0 predicts its object's class 1; query 2 predicts no object for class 3; query 1 is unmatched."""
    group = group_of(by_hand([1, 0, CLASSES], [[0.5, 0.5, 0.2, 0.2]] * 3))
    targets = [Target(torch.tensor([3, 1]), torch.rand(2, 4))]
    pairs = torch.tensor([[0, 0], [0, 0], [2, 0], [0, 1]])  # layers, images, queries, objects
    errors = [class_error(Softmax(), group, Match(*pairs[:, :n]), targets).item() for n in (2, 1, 0)]
    assert errors == [50, 100, 0]


def denoising(g: torch.Generator, targets: Sequence[Target]) -> QueryGroup:
    """Queries with known objects, two copies of each object of the batch."""
    queries, layers = 12, 2
    own = [Target(target.labels.repeat(2), target.boxes.repeat(2, 1)) for target in targets]
    pairs = torch.tensor([(image, query) for image, target in enumerate(own) for query in range(len(target))])  # (P, 2)
    pairs = torch.cat([pairs, torch.arange(len(pairs))[:, None]], 1).T.repeat(1, layers)  # images, queries, objects
    match = Match(torch.arange(layers).repeat_interleave(pairs.shape[1] // layers), *pairs)
    predictions = [random_prediction(g, len(targets), queries, CLASSES) for _ in range(layers)]
    return group_of(
        *predictions, name="denoising", targets=own, match=match, counts=lambda ns: ([2 * n for n in ns], queries)
    )


def summed_by_hand(group: QueryGroup, match: Match, targets: Sequence[Target], layer: int) -> dict[str, Tensor]:
    """The terms of a layer before they are divided, by torch's and torchvision's own losses."""
    labels, boxes = torch.cat([t.labels for t in targets]), torch.cat([t.boxes for t in targets])
    here = match.layer(layer)
    wanted = torch.full(group.logits.shape[1:3], CLASSES)
    wanted[here.images, here.queries] = labels[here.targets]
    weight = torch.tensor([1.0] * CLASSES + [0.1])
    predicted, truth = group.boxes[layer][here.images, here.queries], boxes[here.targets]
    logits = group.logits[layer].flatten(0, 1)
    return {
        "class": nn.functional.cross_entropy(logits, wanted.flatten(), weight, reduction="sum"),
        "l1": nn.functional.l1_loss(predicted, truth, reduction="sum"),
        "giou": generalized_box_iou_loss(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(truth), reduction="sum"),
    }


def test_several_groups_by_hand() -> None:
    """Each group is divided by its own counts, over its own layers and queries."""
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
            summed = summed_by_hand(group, losses.matches[group.name], own, layer)
            for term, value in summed.items():
                value = value / divisors[group.name][term]
                torch.testing.assert_close(losses.layers[group.name][term][layer], value)
                total = total + weights[term] * value
                if layer == len(group) - 1:
                    torch.testing.assert_close(losses.parts[prefix + term], value)
    assert losses.parts.keys() == {*("class", "l1", "giou"), *("denoising_class", "denoising_l1", "denoising_giou")}
    torch.testing.assert_close(losses.total, total)


def test_several_groups_in_a_split_step() -> None:
    """Two batches of a step, the second without objects, sum to the loss of both together."""
    g = torch.Generator().manual_seed(12)
    targets = [random_target(g, n, CLASSES) for n in (3, 1, 0, 0)]
    decoder = group_of(*(random_prediction(g, 4, QUERIES, CLASSES) for _ in range(2)))
    second = denoising(g, targets)
    criterion, whole = criterion_of(), Output(decoder, (second,))
    total = criterion.compute_loss(whole, targets).total

    summed = torch.zeros(())
    for half, match in zip(HALVES, (second.match, second.match.layer(-1)), strict=True):  # all pairs, no pairs
        of_half = [
            replace(group, logits=group.logits[:, half], boxes=group.boxes[:, half]) for group in (decoder, second)
        ]
        output = Output(of_half[0], (replace(of_half[1], targets=second.targets[half], match=match),))
        normalizers = criterion.normalizers(output, [targets[part] for part in HALVES])
        summed = summed + criterion.compute_loss(output, targets[half], normalizers).total
        for group, divisors in criterion.normalizers(whole, [targets]).items():
            assert normalizers[group] == pytest.approx(divisors)
    torch.testing.assert_close(summed, total)


@pytest.mark.parametrize("kind", ["focal", "probability"])
def test_sigmoid_scoring(kind: str) -> None:
    """The class term is focal, divided by the number of objects, at least 1."""
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


def test_the_quality_term_does_not_train_boxes() -> None:
    g = torch.Generator().manual_seed(16)
    logits, boxes = torch.randn(1, 1, 5, 5, generator=g), torch.rand(1, 1, 5, 4, generator=g)
    output = Output(QueryGroup("decoder", logits.requires_grad_(), boxes.requires_grad_()))
    criterion = Criterion(Sigmoid(), criterion_of().matcher, [quality_class_loss(Sigmoid(), 1.0)])
    total = criterion.compute_loss(output, [random_target(g, 2, CLASSES)]).total
    of_logits, of_boxes = torch.autograd.grad(total, [logits, boxes], allow_unused=True)
    assert of_logits.any()
    assert of_boxes is None


def test_divisors_have_a_lower_bound() -> None:
    term = LossTerm("own", 1.0, lambda matched: matched.labels * 0 + 3.0, lambda objects, _: objects / 2)
    group = group_of(random_prediction(torch.Generator().manual_seed(14), 1, 2, CLASSES))
    criterion = Criterion(Softmax(), criterion_of().matcher, [term])
    for objects, divisor in ((0, 1), (1, 1), (2, 1), (4, 2)):
        target = random_target(torch.Generator().manual_seed(15), objects, CLASSES)
        assert criterion.compute_loss(Output(group), [target]).total.item() == pytest.approx(2 * 3 / divisor)
