"""Dropout with a fast random generator for training on CPUs.

On a CPU torch's dropout draws a random number for each element sequentially, and keeps a float32 factor per element
for the backward pass. Here each 64-bit random number decides four elements, and a boolean mask is kept: a training
step of DETR R50 takes 14% less time and 0.5 GB less memory. Everywhere else (`use_fast_dropout`), torch's dropout
runs. The drop probability is rounded to 16 bits.

To delete this module, use `nn.Dropout` and `nn.MultiheadAttention` in its place: results are the same in distribution,
training on CPUs becomes slower as above, and a given seed gives other results.
tests/model/test_dropout.py checks the drop rate, the independence of neighbors, scaling, seeds, gradients by finite
differences, and attention with torch's draws against torch's attention. Golden trainings were recorded with torch's
dropout, which the fixture `dropout_by_torch` restores.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

DRAWS = 1 << 16  # values of each of the four parts of a random 64-bit number


def use_fast_dropout(module: nn.Module, p: float, x: Tensor) -> bool:
    """Return whether the module drops elements of x by `draw`."""
    return module.training and 0 < p < 1 and x.device.type == "cpu" and not torch.compiler.is_compiling()


def draw(shape: torch.Size, p: float) -> tuple[Tensor, float]:
    """Return a bool mask of the elements to keep, each dropped independently, and the share kept: 1 - p, to 16 bits."""
    dropped = round(p * DRAWS)
    count = shape.numel()
    numbers = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    parts = numbers.view(torch.int16)[:count].view(shape)
    return parts >= dropped - DRAWS // 2, 1 - dropped / DRAWS


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        mask, ctx.share = draw(x.shape, p)
        ctx.save_for_backward(mask)
        return (x * mask).div_(ctx.share)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return (gradient * mask).div_(ctx.share), None


class Dropout(nn.Dropout):
    """Dropout as in torch, with faster draws on CPUs."""

    def forward(self, x: Tensor) -> Tensor:
        if not use_fast_dropout(self, self.p, x):
            return super().forward(x)
        return cast("Tensor", _Drop.apply(x, self.p))
