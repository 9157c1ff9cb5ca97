"""Convolutional backbones: ResNet, and small backbones that are trained from scratch on a CPU."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]  # creates a norm for a number of channels
Part = Literal["none", "stem", "all"]


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with fixed statistics and affine parameters."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != self.weight.dtype:
            # Under autocast, a single operator that keeps the input's dtype saves half the memory in training.
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        scale = self.weight * (self.running_var + self.eps).rsqrt()  # (channels,)
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


NORMS: dict[str, Norm] = {"frozen": FrozenBatchNorm2d, "batch": nn.BatchNorm2d, "group": partial(nn.GroupNorm, 32)}


class Backbone(nn.Module, ABC):
    """A backbone, parts of which can be frozen."""

    channels: Sequence[int]  # of each feature map, the finest first

    def __init__(self) -> None:
        super().__init__()
        self._frozen: Sequence[nn.Module] = ()

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return all feature maps (B, channels, h, w) of images (B, 3, H, W), the finest first."""

    @abstractmethod
    def stem(self) -> Sequence[nn.Module]:
        """Return the first layers, whose features (edges, colors) suit any images."""

    def freeze(self, part: Part) -> None:
        """Freeze a part and train everything else."""
        self._frozen = {"none": (), "stem": self.stem(), "all": tuple(self.children())}[part]
        self.requires_grad_(True)
        for module in self._frozen:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode. Frozen parts stay in eval mode, so that their batch norm keeps its statistics."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self


class ResNet(Backbone):
    """A torchvision ResNet without its classifier.

    `dilated` (DC5) replaces the last stage's stride by dilation, which doubles the resolution of its map.
    """

    def __init__(self, name: str, *, norm: Norm, dilated: bool) -> None:
        from torchvision.models import get_model  # slow to import, and unused by other backbones

        super().__init__()
        resnet = get_model(name, weights=None, norm_layer=norm, replace_stride_with_dilation=[False, False, dilated])
        self.channels = [resnet.fc.in_features >> (3 - stage) for stage in range(4)]
        del resnet.fc, resnet.avgpool
        self.body = resnet

    def stem(self) -> Sequence[nn.Module]:
        return self.body.conv1, self.body.bn1, self.body.layer1

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        body = self.body
        x = body.maxpool(body.relu(body.bn1(body.conv1(images))))  # (B, 64, H/4, W/4)
        c2 = body.layer1(x)  # (B, 256, H/4, W/4)
        c3 = body.layer2(c2)  # (B, 512, H/8, W/8)
        c4 = body.layer3(c3)  # (B, 1024, H/16, W/16)
        c5 = body.layer4(c4)  # (B, 2048, H/32, W/32), or H/16, W/16 dilated
        return c2, c3, c4, c5


class ResidualBlock(nn.Module):
    """Two convolutions with a shortcut, which is a 1 x 1 convolution where the shape changes."""

    def __init__(
        self, channels: int, out: int, stride: int, norm: Norm, activation: Callable[[Tensor], Tensor] = F.relu
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.norm1 = norm(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norm2 = norm(out)
        self.shortcut: nn.Module = nn.Identity()
        if (channels, stride) != (out, 1):
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), norm(out))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        inner = self.activation(self.norm1(self.conv1(x)))
        return self.activation(self.shortcut(x) + self.norm2(self.conv2(inner)))


class TinyBackbone(Backbone):
    """A convolution and two residual stages, to maps of 2, 4 and 8 pixels per cell."""

    def __init__(self, width: int, *, norm: Norm) -> None:
        super().__init__()
        self.channels = [width, 2 * width, 4 * width]
        self.conv = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.norm = norm(width)
        self.stage1, self.stage2 = (
            nn.Sequential(ResidualBlock(channels, out, 2, norm), ResidualBlock(out, out, 1, norm))
            for channels, out in pairwise(self.channels)
        )

    def stem(self) -> Sequence[nn.Module]:
        return self.conv, self.norm, self.stage1

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.norm(self.conv(images)).relu()  # (B, width, H/2, W/2)
        x1 = self.stage1(x)  # (B, 2 width, H/4, W/4)
        x2 = self.stage2(x1)  # (B, 4 width, H/8, W/8)
        return x, x1, x2


class QuickBackbone(Backbone):
    """Three strided convolutions to maps of 2, 4 and 8 pixels per cell, then blocks that start as the identity."""

    def __init__(self, width: int, blocks: int, *, norm: Norm) -> None:
        super().__init__()
        self.channels = [width, 2 * width, 4 * width]
        widths = (3, *self.channels)
        self.down = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), norm(b), nn.SiLU()) for a, b in pairwise(widths))
        )
        self.blocks = nn.ModuleList(ResidualBlock(4 * width, 4 * width, 1, norm, F.silu) for _ in range(blocks))
        for block in self.blocks:
            nn.init.zeros_(cast("Any", block).norm2.weight)
        self.around = nn.Conv2d(4 * width, 4 * width, 3, padding=1)

    def stem(self) -> Sequence[nn.Module]:
        return self.down[0], self.down[1]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        first, second, third = self.down
        x1 = first(images)  # (B, width, H/2, W/2)
        x2 = second(x1)  # (B, 2 width, H/4, W/4)
        x = third(x2)  # (B, 4 width, H/8, W/8)
        for block in self.blocks:
            x = block(x)
        return x1, x2, self.around(x)
