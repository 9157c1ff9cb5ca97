"""Pictures of several sizes in one tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor

from detrcli.structures import Batch


def collate(images: Sequence[Tensor]) -> Batch:
    """Normalised images (3, H, W) in a batch, padded with zeros at the right and the bottom where sizes differ."""
    if len({image.shape for image in images}) == 1:
        return Batch(torch.stack(list(images)), None)
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    padded = images[0].new_zeros(len(images), 3, height, width)
    padding = torch.ones(len(images), height, width, dtype=torch.bool, device=padded.device)
    for image, canvas, outside in zip(images, padded, padding, strict=True):
        _, h, w = image.shape
        canvas[:, :h, :w] = image
        outside[:h, :w] = False
    return Batch(padded, padding)
