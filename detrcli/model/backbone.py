"""Convolutional backbones: from images to feature maps."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, Self

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
        """Return the first layers, which detect edges and colors as in any other images."""

    def freeze(self, part: Part) -> None:
        """Exclude a part from training, and include everything else."""
        parts = {"none": (), "stem": self.stem(), "all": tuple(self.children())}
        self._frozen = parts[part]
        self.requires_grad_(True)
        for module in self._frozen:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode. Frozen parts stay in eval mode, or their batch norm would update its statistics."""
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
        """Return the first convolution with its norm, and the first stage."""
        return self.body.conv1, self.body.bn1, self.body.layer1

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        body = self.body
        x = body.maxpool(body.relu(body.bn1(body.conv1(images))))  # (B, 64, H/4, W/4)
        c2 = body.layer1(x)  # (B, 256, H/4, W/4)
        c3 = body.layer2(c2)  # (B, 512, H/8, W/8)
        c4 = body.layer3(c3)  # (B, 1024, H/16, W/16)
        c5 = body.layer4(c4)  # (B, 2048, H/32, W/32), or H/16, W/16 dilated
        return c2, c3, c4, c5
