"""Masks as published with RF-DETR: mask logits are resized to the image and thresholded."""

import torch
import torch.nn.functional as F
from torch import Tensor

from detrcli.resize import Placement
from detrcli.run_lengths import MaskRows, encode
from detrcli.segmentation.detr import CHUNK, DETRSegmentation
from detrcli.structures import Masks

CHUNK_PIXELS = 2**24  # of the masks in memory at a time


class InstanceSegmentation(DETRSegmentation):
    """Masks are the pixels with positive logits after bilinear interpolation to the size of the image."""

    resizing = ("image",)

    def masks_of(
        self, masks: Masks, image: int, queries: Tensor, size: tuple[int, int], placement: Placement
    ) -> MaskRows:
        assert placement.fills  # the masks cover the network's input, and the image all of it
        counts: list[bytes] = []
        for chunk in torch.split(queries, min(CHUNK, max(1, CHUNK_PIXELS // (size[0] * size[1])))):
            logits = masks(torch.full_like(chunk, image), chunk)[:, None]  # (n, 1, h, w)
            positive = F.interpolate(logits, size=size, mode="bilinear")[:, 0] > 0  # (n, height, width)
            counts += [encode(mask) for mask in positive.cpu().numpy()]
        return MaskRows(size, counts)
