"""The convolutional backbone: pictures to a map of features."""

from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.ops import FrozenBatchNorm2d


class Backbone(nn.Module):
    """A torchvision ResNet up to its last stage, with frozen batch norm.

    `dilated` (DC5) trades the last stage's stride for dilation: twice the resolution, 16 pixels a cell in
    place of 32. Stem and first stage keep their weights in training, as published.
    """

    def __init__(self, name: str, *, dilated: bool) -> None:
        super().__init__()
        resnet = get_model(
            name,
            weights=None,
            norm_layer=FrozenBatchNorm2d,
            replace_stride_with_dilation=[False, False, dilated],
        )
        self.channels: int = resnet.fc.in_features
        del resnet.fc, resnet.avgpool
        self.body = resnet
        for fixed in (self.body.conv1, self.body.layer1):
            fixed.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to C5, (B, channels, h, w)."""
        body = self.body
        x = body.maxpool(body.relu(body.bn1(body.conv1(images))))  # (B, 64, H/4, W/4)
        x = body.layer1(x)  # (B, 256, H/4, W/4)
        x = body.layer2(x)  # (B, 512, H/8, W/8)
        x = body.layer3(x)  # (B, 1024, H/16, W/16)
        return body.layer4(x)  # (B, 2048, H/32, W/32), or H/16, W/16 dilated
