"""The box head, and the initialization of heads for focal loss. The class head is a linear layer, as published."""

import math
from contextlib import nullcontext
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import is_autocast_available

FOCAL_BIAS = math.log(0.01 / 0.99)  # the logit of a probability of 0.01


class _Float32Linear(nn.Linear):
    """A linear layer that computes in float32, also in a model converted by `model.bfloat16()`."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.float(), self.bias.float())


class BoxHead(nn.Module):
    """A 3-layer MLP that predicts boxes as cxcywh in [0, 1]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Float32Linear(dim, dim), _Float32Linear(dim, dim), _Float32Linear(dim, 4)])

    def forward(self, x: Tensor) -> Tensor:
        """Return the boxes (..., 4) of hidden states (..., C)."""
        return self.logits(x).sigmoid()

    def logits(self, x: Tensor) -> Tensor:
        """Return the boxes (..., 4) before the sigmoid, where they can be added to reference boxes."""
        first, second, last = self.layers
        # In float32 also under autocast: bf16 resolves positions to a hundredth of the image only.
        device = x.device.type
        with torch.autocast(device, enabled=False) if is_autocast_available(device) else nullcontext():
            return last(second(first(x.float()).relu()).relu())


@torch.no_grad()
def init_focal_heads(class_head: nn.Linear, box_head: BoxHead, size: float = 0.0) -> None:
    """Initialize heads for focal loss: class probabilities are 0.01, and boxes equal their references.

    `size` is the logit of width and height, for references that are points.
    """
    nn.init.constant_(class_head.bias, FOCAL_BIAS)
    last = cast("nn.Linear", box_head.layers[-1])
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    last.bias[2:] = size
