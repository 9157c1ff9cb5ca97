"""Dropout drawn fast drops what it should, and attention with it is torch's."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detrcli.model import attention
from detrcli.model.attention import MultiheadAttention, _Gather
from detrcli.model.dropout import Dropout, draw


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_the_right_share_is_dropped_each_by_itself(p: float) -> None:
    torch.manual_seed(0)
    stays, share = draw(torch.Size((1000, 1003)), p)
    assert stays.shape == (1000, 1003)
    assert share == pytest.approx(1 - p, abs=1e-5)
    kept = stays.flatten()[: 4 * 250_000].double()
    spread = (p * (1 - p)) ** 0.5
    # Four standard deviations, of all and of each of the four parts of a number.
    assert abs(kept.mean() - share) <= 4 * spread / 1000
    for part in range(4):
        assert abs(kept[part::4].mean() - share) <= 4 * spread / 500
    if p:
        # Neighbours, and the same part of the next number, know nothing of each other.
        for distance in (1, 2, 3, 4, 8):
            product = (kept[:-distance] - share) * (kept[distance:] - share)
            assert abs(product.mean()) <= 4 * spread**2 / 1000


def test_what_stays_is_scaled_and_has_the_gradient() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 5, 3, requires_grad=True)
    dropout = Dropout(0.3)
    y = dropout(x)
    y.sum().backward()
    stays = y != 0
    assert 0.4 < stays.float().mean() < 0.95
    torch.testing.assert_close(y, torch.where(stays, x / 0.7, 0), rtol=1e-4, atol=0)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, stays / torch.tensor(0.7), rtol=1e-4, atol=0)
    assert dropout.eval()(x) is x


def test_a_seed_decides_it() -> None:
    x = torch.ones(100)
    seen = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        seen.append(Dropout(0.5)(x))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_the_gradients_of_attention() -> None:
    def gather(q: Tensor, k: Tensor, v: Tensor) -> Any:
        torch.manual_seed(3)
        mask = torch.zeros(2, 1, 1, 5, dtype=q.dtype)
        mask[1, ..., 3:] = -torch.inf
        return _Gather.apply(q, k, v, mask, 0.4)

    torch.manual_seed(0)
    given = [torch.randn(2, 3, n, 4, dtype=torch.float64, requires_grad=True) for n in (6, 5, 5)]
    assert torch.autograd.gradcheck(gather, given)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("masks", ["none", "padding", "hidden", "both"])
def test_attention_is_torchs(masks: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def as_torch_draws(shape: torch.Size, p: float) -> tuple[Tensor, float]:
        return torch.empty(shape, dtype=torch.bool).bernoulli_(1 - p), 1 - p

    monkeypatch.setattr(attention, "draw", as_torch_draws)
    torch.manual_seed(0)
    ours = MultiheadAttention(16, 4, 0.2)
    theirs = nn.MultiheadAttention(16, 4, 0.2, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    padding = torch.zeros(2, 9, dtype=torch.bool)
    padding[1, 6:] = True
    hidden = torch.rand(7, 9) < 0.3
    asked: dict[str, Any] = {
        "key_padding_mask": padding if masks in ("padding", "both") else None,
        "attn_mask": hidden if masks in ("hidden", "both") else None,
        "need_weights": False,
    }
    given = [torch.randn(2, n, 16) for n in (7, 9, 9)]
    answers = []
    for module in (ours, theirs):
        inputs = [one.clone().requires_grad_() for one in given]
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            gathered, weights = module(*inputs, **asked)
        assert weights is None
        gathered.float().square().sum().backward()
        answers.append([gathered, *(one.grad for one in (*inputs, *module.parameters()))])
    for mine, other in zip(*answers, strict=True):
        loose = {"rtol": 0.02, "atol": 0.05} if precision == "bf16" else {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(mine, other, **loose)


def test_whoever_asks_for_weights_gets_torchs() -> None:
    ours = MultiheadAttention(16, 4, 0.2)
    x = torch.randn(2, 5, 16)
    _, weights = ours(x, x, x, need_weights=True, average_attn_weights=False)
    assert weights is not None
    assert weights.shape == (2, 4, 5, 5)
