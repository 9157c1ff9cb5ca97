"""Scoring: by hand, and against the losses of torch and torchvision."""

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from detrcli.errors import UsageError
from detrcli.losses.scoring import NO_OBJECT, Scoring, Sigmoid, Softmax
from detrcli.losses.terms import class_cost

# Two classes and "no object", in eighths: the second query predicts no object.
SOFT = torch.tensor([[5.0, 1, 2], [1, 2, 5], [3, 4, 1]]).log()[None]  # (B, Q, R) = (1, 3, 3)
# Odds of 3, 1 and 1/3 are probabilities of 3/4, 1/2 and 1/4.
SIGMOID = torch.tensor([[3.0, 1], [1 / 9, 1 / 3]]).log()[None]  # (B, Q, R) = (1, 2, 2)
BOTH = pytest.mark.parametrize("scoring", [Softmax(), Sigmoid()], ids=["softmax", "sigmoid"])


def test_softmax_by_hand() -> None:
    softmax = Softmax()
    assert softmax.num_logits(2) == 3
    expected = torch.tensor([[[5.0, 1], [1, 2], [3, 4]]]) / 8
    torch.testing.assert_close(softmax.probabilities(SOFT), expected, rtol=0, atol=1e-6)
    assert softmax.top_class(SOFT).tolist() == [[0, NO_OBJECT, 1]]
    assert softmax.class_normalizer(2, 5) == pytest.approx(2 + 0.1 * 3)
    assert Softmax(no_object=0.5).class_normalizer(0, 4) == 2
    selection = softmax.select(SOFT)  # every query with its most probable class
    assert selection.queries.tolist() == [[0, 1, 2]]
    assert selection.labels.tolist() == [[0, 1, 1]]
    torch.testing.assert_close(selection.scores, torch.tensor([[5.0, 2, 4]]) / 8)


def test_sigmoid_by_hand() -> None:
    sigmoid = Sigmoid()
    assert sigmoid.num_logits(2) == 2
    expected = torch.tensor([[[0.75, 0.5], [0.1, 0.25]]])
    torch.testing.assert_close(sigmoid.probabilities(SIGMOID), expected, rtol=0, atol=1e-6)
    assert sigmoid.top_class(SIGMOID).tolist() == [[0, 1]]
    assert sigmoid.class_normalizer(2, 5) == 2
    selection = Sigmoid(top_k=3).select(torch.cat([SIGMOID, SIGMOID.flip(1)]))  # the best pairs of each image
    assert selection.queries.tolist() == [[0, 0, 1], [1, 1, 0]]
    assert selection.labels.tolist() == [[0, 1, 1]] * 2
    torch.testing.assert_close(selection.scores, torch.tensor([[0.75, 0.5, 0.25]] * 2))
    assert sigmoid.select(SIGMOID).scores.shape == (1, 4)  # all pairs
    assert sigmoid.select(torch.zeros(1, 60, 2)).scores.shape == (1, 100)  # as published


def test_class_costs_by_hand() -> None:
    """The negative probability, the negative log probability, and the focal cost of Deformable DETR's matcher."""

    def focal(p: float) -> float:
        negative = (1 - 0.25) * p**2 * -math.log(1 - p + 1e-8)
        positive = 0.25 * (1 - p) ** 2 * -math.log(p + 1e-8)
        return positive - negative

    formulas = {"probability": lambda p: -p, "log": lambda p: -math.log(p), "focal": focal}
    for scoring, logits in ((Softmax(), SOFT), (Sigmoid(), SIGMOID)):
        probabilities = scoring.probabilities(logits)
        for kind in scoring.class_costs:
            expected = probabilities.double().apply_(formulas[kind]).float()
            torch.testing.assert_close(scoring.class_cost(logits, kind), expected, rtol=1e-5, atol=1e-6)
    p, alpha, gamma = 0.75, 0.4, 3
    expected = -alpha * (1 - p) ** gamma * math.log(p) + (1 - alpha) * p**gamma * math.log(1 - p)
    cost = Sigmoid(alpha=alpha, gamma=gamma).class_cost(SIGMOID, "focal")
    assert cost[0, 0, 0].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("scoring", "kind"), [(Softmax(), "focal"), (Sigmoid(), "cosine")])
def test_an_undefined_class_cost(scoring: Scoring, kind: str) -> None:
    with pytest.raises(UsageError, match=f"class_cost = '{kind}'.*{'.*'.join(scoring.class_costs)}"):
        class_cost(scoring, kind, 1.0)


def random_case() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (L, B, Q, 5) and labels (L, B, Q)."""
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (2, 3, 7), generator=g)
    return 3 * torch.randn(2, 3, 7, 5, generator=g), torch.where(labels == 4, NO_OBJECT, labels)


def test_softmax_loss_is_the_weighted_cross_entropy() -> None:
    logits, labels = random_case()
    losses = Softmax(no_object=0.3).class_loss(logits, labels)
    assert losses.shape == labels.shape
    weight = torch.tensor([1, 1, 1, 1, 0.3])
    wanted = torch.where(labels == NO_OBJECT, 4, labels)
    expected = F.cross_entropy(logits.flatten(0, 2), wanted.flatten(), weight, reduction="sum")
    torch.testing.assert_close(losses.sum(), expected)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 1.0)])
def test_sigmoid_loss_is_torchvisions_focal_loss(alpha: float, gamma: float) -> None:
    logits, labels = random_case()
    losses = Sigmoid(alpha=alpha, gamma=gamma).class_loss(logits, labels)
    assert losses.shape == labels.shape
    wanted = F.one_hot(torch.where(labels == NO_OBJECT, 5, labels), 6)[..., :5].float()
    expected = sigmoid_focal_loss(logits, wanted, alpha, gamma, reduction="none").sum(-1)
    torch.testing.assert_close(losses, expected)


@BOTH
def test_extreme_logits_have_finite_costs_and_gradients(scoring: Scoring) -> None:
    logits = torch.tensor([[200.0, -200], [-200, 200], [-200, -200]], requires_grad=True)
    scoring.class_loss(logits, torch.tensor([0, 0, NO_OBJECT])).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    for kind in scoring.class_costs:
        assert scoring.class_cost(logits, kind).isfinite().all()


@BOTH
def test_probabilities_of_half_precision_are_float32(scoring: Scoring) -> None:
    half = SOFT.bfloat16()
    assert scoring.probabilities(half).dtype == torch.float32
    torch.testing.assert_close(scoring.probabilities(half), scoring.probabilities(half.float()))


def test_quality_loss_by_hand() -> None:
    logits = SIGMOID[0, :1]  # probabilities 3/4 and 1/2
    (loss,) = Sigmoid().quality_loss(logits, torch.tensor([0]), torch.tensor([0.6]))
    positive = 0.6 * -(0.6 * math.log(0.75) + 0.4 * math.log(0.25))
    negative = 0.75 * 0.5**2 * -math.log(0.5)
    assert loss.item() == pytest.approx(positive + negative)
    (unmatched,) = Sigmoid().quality_loss(logits, torch.tensor([NO_OBJECT]), torch.tensor([0.0]))
    assert unmatched.item() == pytest.approx(0.75 * 0.75**2 * -math.log(0.25) + negative)
