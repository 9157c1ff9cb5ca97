"""The box head computes in float32, whatever the precision of the model around it."""

import copy

import pytest
import torch
from small import small_weights
from torch import Tensor

from detrcli.model.detection_transformer import BoxHead

DIM = 32


@pytest.fixture
def head() -> BoxHead:
    torch.manual_seed(0)
    return BoxHead(DIM)


@pytest.fixture
def hidden() -> Tensor:
    return torch.randn(2, 9, DIM, generator=torch.Generator().manual_seed(1))


def plain(head: BoxHead, x: Tensor) -> Tensor:
    first, second, last = head.layers
    for layer in (first, second):
        x = torch.nn.functional.linear(x, layer.weight, layer.bias).relu()
    return torch.nn.functional.linear(x, last.weight, last.bias)


def gradients(head: BoxHead, boxes: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(boxes.square().sum(), list(head.parameters())))


def test_in_a_float32_model_it_is_three_linear_layers_to_the_bit(head: BoxHead, hidden: Tensor) -> None:
    assert torch.equal(head.logits(hidden), plain(head, hidden))
    for a, b in zip(gradients(head, head.logits(hidden)), gradients(head, plain(head, hidden)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_in_a_converted_model_it_computes_in_float32(head: BoxHead, hidden: Tensor, dtype: torch.dtype) -> None:
    converted, x = head.to(dtype), hidden.to(dtype)
    exact = copy.deepcopy(converted).float()
    assert torch.equal(converted.logits(x), exact.logits(x.float()))
    assert converted(x).dtype == torch.float32
    ours, wanted = gradients(converted, converted(x)), gradients(exact, exact(x.float()))
    for a, b in zip(ours, wanted, strict=True):
        assert a.dtype == dtype
        assert torch.equal(a, b.to(dtype))


def test_under_autocast_it_computes_in_float32(head: BoxHead, hidden: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        boxes = head.logits(hidden.bfloat16())
    assert torch.equal(boxes, plain(head, hidden.bfloat16().float()))


def test_in_a_whole_model_that_was_converted(hidden: Tensor) -> None:
    model = small_weights().model().bfloat16()
    boxes = model.box_head(hidden.bfloat16())
    boxes.sum().backward()
    assert boxes.dtype == torch.float32
    assert all(p.grad.abs().sum() > 0 for p in model.box_head.parameters())
