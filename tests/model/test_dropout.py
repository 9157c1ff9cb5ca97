"""Fast dropout has the right statistics, and attention with it computes what torch's attention computes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detrcli.model import attention
from detrcli.model.attention import Dropout, MultiheadAttention, _FastAttention, draw_mask


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_elements_are_dropped_independently_at_the_right_rate(p: float) -> None:
    torch.manual_seed(0)
    mask, share = draw_mask(torch.Size((1000, 1003)), p)
    assert mask.shape == (1000, 1003)
    assert share == pytest.approx(1 - p, abs=1e-5)
    kept = mask.flatten()[: 4 * 250_000].double()
    spread = (p * (1 - p)) ** 0.5
    # Four standard deviations, of all elements and of each of the four parts of the random numbers.
    assert abs(kept.mean() - share) <= 4 * spread / 1000
    for part in range(4):
        assert abs(kept[part::4].mean() - share) <= 4 * spread / 500
    if p:
        # Neighbors, and the same part of the next number, are independent.
        for distance in (1, 2, 3, 4, 8):
            product = (kept[:-distance] - share) * (kept[distance:] - share)
            assert abs(product.mean()) <= 4 * spread**2 / 1000


def test_kept_elements_are_scaled_and_have_the_gradient() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 5, 3, requires_grad=True)
    dropout = Dropout(0.3)
    y = dropout(x)
    y.sum().backward()
    kept = y != 0
    assert 0.4 < kept.float().mean() < 0.95
    torch.testing.assert_close(y, torch.where(kept, x / 0.7, 0), rtol=1e-4, atol=0)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, kept / torch.tensor(0.7), rtol=1e-4, atol=0)
    assert not torch.equal(dropout(x), y)
    torch.manual_seed(0)
    torch.randn(7, 5, 3)
    assert torch.equal(dropout(x), y)
    assert dropout.eval()(x) is x


def test_the_gradients_of_attention() -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Any:
        torch.manual_seed(3)
        mask = torch.zeros(2, 1, 1, 5, dtype=q.dtype)
        mask[1, ..., 3:] = -torch.inf
        return _FastAttention.apply(q, k, v, mask, 0.4)

    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, n, 4, dtype=torch.float64, requires_grad=True) for n in (6, 5, 5)]
    assert torch.autograd.gradcheck(attend, inputs)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_torchs(masked: bool, padded: bool, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def as_torch_draws(shape: torch.Size, p: float) -> tuple[Tensor, float]:
        return torch.empty(shape, dtype=torch.bool).bernoulli_(1 - p), 1 - p

    monkeypatch.setattr(attention, "draw_mask", as_torch_draws)
    torch.manual_seed(0)
    ours = MultiheadAttention(16, 4, 0.2)
    theirs = nn.MultiheadAttention(16, 4, 0.2, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    padding = torch.zeros(2, 9, dtype=torch.bool)
    padding[1, 6:] = True
    options: dict[str, Any] = {
        "key_padding_mask": padding if padded else None,
        "attn_mask": torch.rand(7, 9) < 0.3 if masked else None,
        "need_weights": False,
    }
    given = [torch.randn(2, n, 16) for n in (7, 9, 9)]
    results = []
    for module in (ours, theirs):
        inputs = [tensor.clone().requires_grad_() for tensor in given]
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            output, weights = module(*inputs, **options)
        assert weights is None
        output.float().square().sum().backward()
        results.append([output, *(tensor.grad for tensor in (*inputs, *module.parameters()))])
    tolerance = {"rtol": 0.02, "atol": 0.05} if precision == "bf16" else {"rtol": 1e-4, "atol": 1e-5}
    for ours_, theirs_ in zip(*results, strict=True):
        torch.testing.assert_close(ours_, theirs_, **tolerance)
