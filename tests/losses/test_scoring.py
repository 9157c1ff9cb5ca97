"""What class logits mean: by hand, and against the losses of torch and torchvision."""

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from detrcli.errors import UsageError
from detrcli.losses.scoring import NO_OBJECT, Scoring, Sigmoid, Softmax

# Two classes and "no object", in shares of 8: the second query says that there is none.
SOFT = torch.tensor([[5.0, 1, 2], [1, 2, 5], [3, 4, 1]]).log()[None]  # (B, Q, R) = (1, 3, 3)
# Odds of 3, 1 and 1/3 to one are 3/4, 1/2 and 1/4.
SIGMOID = torch.tensor([[3.0, 1], [1 / 9, 1 / 3]]).log()[None]  # (B, Q, R) = (1, 2, 2)


def test_softmax_by_hand() -> None:
    softmax = Softmax()
    assert softmax.num_logits(2) == 3
    torch.testing.assert_close(
        softmax.probabilities(SOFT), torch.tensor([[[5.0, 1], [1, 2], [3, 4]]]) / 8, rtol=0, atol=1e-6
    )
    assert softmax.top_class(SOFT).tolist() == [[0, NO_OBJECT, 1]]
    assert softmax.class_normaliser(2, 5) == pytest.approx(2 + 0.1 * 3)
    assert Softmax(no_object=0.5).class_normaliser(0, 4) == 2


def test_sigmoid_by_hand() -> None:
    sigmoid = Sigmoid()
    assert sigmoid.num_logits(2) == 2
    torch.testing.assert_close(
        sigmoid.probabilities(SIGMOID), torch.tensor([[[0.75, 0.5], [0.1, 0.25]]]), rtol=0, atol=1e-6
    )
    assert sigmoid.top_class(SIGMOID).tolist() == [[0, 1]]  # none is "no object"
    assert sigmoid.class_normaliser(2, 5) == 2


def test_class_costs_by_hand() -> None:
    """Minus the probability, minus its logarithm, and the focal cost as Deformable DETR's matcher writes it."""

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


def test_focal_cost_takes_its_numbers() -> None:
    p, alpha, gamma = 0.75, 0.4, 3
    expected = -alpha * (1 - p) ** gamma * math.log(p) + (1 - alpha) * p**gamma * math.log(1 - p)
    cost = Sigmoid(alpha=alpha, gamma=gamma).class_cost(SIGMOID, "focal")
    assert cost[0, 0, 0].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("scoring", "kind"), [(Softmax(), "focal"), (Sigmoid(), "cosine")])
def test_a_class_cost_that_a_scoring_lacks(scoring: Scoring, kind: str) -> None:
    there = ".*".join(scoring.class_costs)
    with pytest.raises(UsageError, match=f"class_cost = '{kind}'.*{scoring.name}.*{there}"):
        scoring.class_cost(SOFT, kind)


def random_case() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (L, B, Q, 5) and labels (L, B, Q), the last of five meaning nothing."""
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


@pytest.mark.parametrize("scoring", [Softmax(), Sigmoid()], ids=["softmax", "sigmoid"])
def test_sure_queries_cost_finite_numbers(scoring: Scoring) -> None:
    """However sure, right or wrong; their gradients too."""
    logits = torch.tensor([[200.0, -200], [-200, 200], [-200, -200]], requires_grad=True)
    scoring.class_loss(logits, torch.tensor([0, 0, NO_OBJECT])).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    for kind in scoring.class_costs:
        assert scoring.class_cost(logits, kind).isfinite().all()


@pytest.mark.parametrize("scoring", [Softmax(), Sigmoid()], ids=["softmax", "sigmoid"])
def test_probabilities_of_half_precision_are_float32(scoring: Scoring) -> None:
    half = SOFT.bfloat16()
    assert scoring.probabilities(half).dtype == torch.float32
    torch.testing.assert_close(scoring.probabilities(half), scoring.probabilities(half.float()))


def test_softmax_selects_every_query_with_its_best_class() -> None:
    """In their order, "no object" out of the choice."""
    found = Softmax().select(SOFT)
    assert found.queries.tolist() == [[0, 1, 2]]
    assert found.labels.tolist() == [[0, 1, 1]]
    torch.testing.assert_close(found.scores, torch.tensor([[5.0, 2, 4]]) / 8)


def test_sigmoid_selects_the_best_pairs() -> None:
    """The first query stands in it twice, before the second comes in at all."""
    found = Sigmoid(top_k=3).select(SIGMOID)
    assert found.queries.tolist() == [[0, 0, 1]]
    assert found.labels.tolist() == [[0, 1, 1]]
    torch.testing.assert_close(found.scores, torch.tensor([[0.75, 0.5, 0.25]]))
    assert Sigmoid().select(SIGMOID).scores.shape == (1, 4)  # all there are
    assert Sigmoid().select(torch.zeros(1, 60, 2)).scores.shape == (1, 100)  # as published


def test_pictures_are_selected_from_by_themselves() -> None:
    both = torch.cat([SIGMOID, SIGMOID.flip(1)])
    found = Sigmoid(top_k=2).select(both)
    assert found.queries.tolist() == [[0, 0], [1, 1]]
    assert found.labels.tolist() == [[0, 1], [0, 1]]


def test_quality_loss_by_hand() -> None:
    """The class that is there is charged by its quality, the others by how sure they are."""
    logits = SIGMOID[0, :1]  # probabilities 3/4 and 1/2
    (found,) = Sigmoid().quality_loss(logits, torch.tensor([0]), torch.tensor([0.6]))
    there = 0.6 * -(0.6 * math.log(0.75) + 0.4 * math.log(0.25))
    absent = 0.75 * 0.5**2 * -math.log(0.5)
    assert found.item() == pytest.approx(there + absent)
    (nothing,) = Sigmoid().quality_loss(logits, torch.tensor([NO_OBJECT]), torch.tensor([0.0]))
    assert nothing.item() == pytest.approx(0.75 * 0.75**2 * -math.log(0.25) + absent)
