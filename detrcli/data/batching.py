"""Batches of images of different sizes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from detrcli.structures import Batch


def collate(images: Sequence[Tensor]) -> Batch:
    """Stack normalized images (3, H, W), padded with zeros at the right and the bottom to a common size.

    The batch is in channels-last memory, in which convolutions are faster.
    """
    if len({image.shape for image in images}) == 1:
        rows = [image.permute(1, 2, 0) for image in images]  # (H, W, 3)
        whole = rows[0][None] if len(rows) == 1 else torch.stack(rows)
        return Batch(whole.contiguous().permute(0, 3, 1, 2), None)
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    padded = images[0].new_zeros(len(images), height, width, 3).permute(0, 3, 1, 2)
    padding = torch.ones(len(images), height, width, dtype=torch.bool, device=padded.device)
    for image, canvas, outside in zip(images, padded, padding, strict=True):
        _, h, w = image.shape
        canvas[:, :h, :w] = image
        outside[:h, :w] = False
    return Batch(padded, padding)
