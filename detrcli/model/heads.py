"""The prediction heads. The class head is one linear layer, as published, and needs no room of its own."""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import is_autocast_available


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
