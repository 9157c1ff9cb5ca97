"""The convolutional backbone: pictures to a map of features."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]  # a norm for so many channels
Part = Literal["none", "stem", "all"]


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with numbers that were learned once and never change: small batches would give poor ones."""

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
            # Under autocast: in one operator that keeps the kind of its input, half the memory for the way back.
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        scale = self.weight * (self.running_var + self.eps).rsqrt()  # (channels,)
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


NORMS: dict[str, Norm] = {"frozen": FrozenBatchNorm2d, "batch": nn.BatchNorm2d, "group": partial(nn.GroupNorm, 32)}


class Backbone(nn.Module, ABC):
    """A backbone of any kind. Parts of it can be kept as they are in training."""

    channels: Sequence[int]  # of each map of features

    def __init__(self) -> None:
        super().__init__()
        self._frozen: Sequence[nn.Module] = ()

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) to maps of features (B, channels, h, w), the finest first."""

    @abstractmethod
    def stem(self) -> Sequence[nn.Module]:
        """What sees the picture first: it learns edges and colours, which are the same in all pictures."""

    def freeze(self, part: Part) -> None:
        """Keep this part as it is, and let all others learn."""
        parts = {"none": (), "stem": self.stem(), "all": tuple(self.children())}
        self._frozen = parts[part]
        self.requires_grad_(True)
        for module in self._frozen:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Frozen parts stay as for inference, or batch norm would go on counting in them."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self


class ResNet(Backbone):
    """A torchvision ResNet up to its last stage, and the maps of some of its four stages.

    `dilated` (DC5) trades the last stage's stride for dilation: twice the resolution, 16 pixels a cell in
    place of 32.
    """

    def __init__(self, name: str, *, norm: Norm, dilated: bool, stages: Sequence[int] = (4,)) -> None:
        from torchvision.models import get_model  # slow to import, and of no use to other backbones

        super().__init__()
        resnet = get_model(name, weights=None, norm_layer=norm, replace_stride_with_dilation=[False, False, dilated])
        self.stages = tuple(stages)
        self.channels = [resnet.fc.in_features >> (4 - stage) for stage in stages]
        del resnet.fc, resnet.avgpool
        self.body = resnet

    def stem(self) -> Sequence[nn.Module]:
        """The first convolution with its norm, and the first stage."""
        return self.body.conv1, self.body.bn1, self.body.layer1

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) to the maps of the stages, C2 to C5 for 1 to 4."""
        body = self.body
        x = body.maxpool(body.relu(body.bn1(body.conv1(images))))  # (B, 64, H/4, W/4)
        c2 = body.layer1(x)  # (B, 256, H/4, W/4)
        c3 = body.layer2(c2)  # (B, 512, H/8, W/8)
        c4 = body.layer3(c3)  # (B, 1024, H/16, W/16)
        c5 = body.layer4(c4)  # (B, 2048, H/32, W/32), or H/16, W/16 dilated
        return tuple((c2, c3, c4, c5)[stage - 1] for stage in self.stages)
