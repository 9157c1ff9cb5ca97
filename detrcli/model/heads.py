"""The prediction heads. The class head is one linear layer, as published, and needs no room of its own."""

import math
from contextlib import nullcontext
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import is_autocast_available

FOCAL_BIAS = math.log(0.01 / 0.99)


class _Linear(nn.Linear):
    """A linear layer that computes in float32 whatever its weights were converted to, by `model.bfloat16()` say."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.float(), self.bias.float())


class BoxHead(nn.Module):
    """Three linear layers to cx, cy, w, h in [0, 1]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Linear(dim, dim), _Linear(dim, dim), _Linear(dim, 4)])

    def forward(self, x: Tensor) -> Tensor:
        """Hidden states (..., C) to boxes (..., 4)."""
        return self.logits(x).sigmoid()

    def logits(self, x: Tensor) -> Tensor:
        """The same before the sigmoid, where corrections of a box can be added to it."""
        first, second, last = self.layers
        # In float32 whatever the rest is computed in: bf16 tells a picture's places apart to a hundredth only.
        device = x.device.type
        exact = torch.autocast(device, enabled=False) if is_autocast_available(device) else nullcontext()
        with exact:
            return last(second(first(x.float()).relu()).relu())


@torch.no_grad()
def init_focal_heads(class_head: nn.Linear, box_head: BoxHead, size: float = 0.0) -> None:
    """The start of heads whose class loss is focal: every class is said with 0.01, and boxes stay where they begin.

    `size` is the logit of their width and height, where no box begins anywhere.
    """
    nn.init.constant_(class_head.bias, FOCAL_BIAS)
    last = cast("nn.Linear", box_head.layers[-1])
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    last.bias[2:] = size
