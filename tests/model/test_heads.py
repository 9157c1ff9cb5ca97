"""The box head computes in float32 in models of any precision."""

import copy

import pytest
import torch
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_converted_head_computes_in_float32(head: BoxHead, hidden: Tensor, dtype: torch.dtype) -> None:
    converted, x = head.to(dtype), hidden.to(dtype)
    exact = copy.deepcopy(converted).float()
    assert torch.equal(converted.logits(x), plain(exact, x.float()))
    assert converted(x).dtype == torch.float32
    expected = gradients(exact, plain(exact, x.float()).sigmoid())
    for a, b in zip(gradients(converted, converted(x)), expected, strict=True):
        assert a.dtype == dtype
        assert torch.equal(a, b.to(dtype))


def test_the_head_computes_in_float32_under_autocast(head: BoxHead, hidden: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        boxes = head.logits(hidden.bfloat16())
    assert torch.equal(boxes, plain(head, hidden.bfloat16().float()))
