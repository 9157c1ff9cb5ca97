"""Backbones for small images, small enough to be trained from scratch on a CPU."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from detrcli.model.backbone import Backbone, Norm


class Block(nn.Module):
    """Two convolutions beside a shortcut, which is a 1 x 1 convolution where the shape changes."""

    def __init__(self, channels: int, wanted: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, wanted, 3, stride, padding=1, bias=False)
        self.norm1 = norm(wanted)
        self.conv2 = nn.Conv2d(wanted, wanted, 3, padding=1, bias=False)
        self.norm2 = norm(wanted)
        self.shortcut = (
            nn.Identity()
            if (channels, stride) == (wanted, 1)
            else nn.Sequential(nn.Conv2d(channels, wanted, 1, stride, bias=False), norm(wanted))
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm1(self.conv1(x)).relu()
        return (self.shortcut(x) + self.norm2(self.conv2(inner))).relu()


class TinyBackbone(Backbone):
    """A convolution and two residual stages, to maps of 2, 4 and 8 pixels per cell."""

    def __init__(self, width: int, *, norm: Norm) -> None:
        super().__init__()
        self.channels = [width, 2 * width, 4 * width]
        self.conv = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.norm = norm(width)
        self.stage1 = _stage(width, 2 * width, norm)
        self.stage2 = _stage(2 * width, 4 * width, norm)

    def stem(self) -> Sequence[nn.Module]:
        """Return the first convolution with its norm, and the first stage."""
        return self.conv, self.norm, self.stage1

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.norm(self.conv(images)).relu()  # (B, width, H/2, W/2)
        x1 = self.stage1(x)  # (B, 2 width, H/4, W/4)
        x2 = self.stage2(x1)  # (B, 4 width, H/8, W/8)
        return x, x1, x2


def _stage(channels: int, wanted: int, norm: Norm) -> nn.Sequential:
    return nn.Sequential(Block(channels, wanted, 2, norm), Block(wanted, wanted, 1, norm))


class QuickBackbone(Backbone):
    """Three strided convolutions to maps of 2, 4 and 8 pixels per cell, then blocks that start as the identity."""

    def __init__(self, width: int, blocks: int, *, norm: Norm) -> None:
        super().__init__()
        self.channels = [width, 2 * width, 4 * width]
        widths = (3, *self.channels)
        self.down = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), norm(b), nn.SiLU()) for a, b in pairwise(widths))
        )
        self.blocks = nn.ModuleList(SiLUBlock(4 * width, norm) for _ in range(blocks))
        self.around = nn.Conv2d(4 * width, 4 * width, 3, padding=1)

    def stem(self) -> Sequence[nn.Module]:
        """Return the first two convolutions with their norms."""
        return self.down[0], self.down[1]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        first, second, third = self.down
        x1 = first(images)  # (B, width, H/2, W/2)
        x2 = second(x1)  # (B, 2 width, H/4, W/4)
        x = third(x2)  # (B, 4 width, H/8, W/8)
        for block in self.blocks:
            x = block(x)
        return x1, x2, self.around(x)


class SiLUBlock(nn.Module):
    """Two convolutions beside a shortcut; the last norm starts at zero."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = norm(channels)
        nn.init.zeros_(cast("Tensor", self.norm2.weight))

    def forward(self, x: Tensor) -> Tensor:
        inner = F.silu(self.norm1(self.conv1(x)))
        return F.silu(x + self.norm2(self.conv2(inner)))
