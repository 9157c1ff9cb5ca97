"""From mask logits to masks of a picture's own size, by the published way."""

import torch
import torch.nn.functional as F
from torch import Tensor

from detrcli.resize import Placement
from detrcli.run_lengths import MaskRows, encode
from detrcli.structures import Masks

TOGETHER = 8  # masks that are held at full size


def masks_of_queries(
    masks: Masks, image: int, queries: Tensor, size: tuple[int, int], placement: Placement
) -> MaskRows:
    """The masks of some queries (n,) of an image, for a picture of this (height, width) that was placed so.

    Logits are enlarged to the network's input, each pixel is the object's or not, and what was the picture there gets
    the picture's size.
    """
    counts: list[bytes] = []
    for some in torch.split(queries, TOGETHER):
        shown = logits_in_input(masks, image, some) > 0  # (n, H, W)
        counts += [encode(mask) for mask in in_picture(shown, size, placement, by_corner=masks.by_corner).cpu().numpy()]
    return MaskRows(size, counts)


def logits_in_input(masks: Masks, image: int, queries: Tensor) -> Tensor:
    """The logits of some queries at every pixel of the network's input, (n, H, W)."""
    logits = masks(torch.full_like(queries, image), queries)  # (n, h, w)
    return F.interpolate(logits[:, None], size=masks.input_size, mode="bilinear")[:, 0]


def in_picture(values: Tensor, size: tuple[int, int], placement: Placement, *, by_corner: bool) -> Tensor:
    """Values (n, H, W) of the network's input at the pixels of the picture, (n, height, width), the nearest each."""
    offset = 0.0 if by_corner else 0.5
    rows, columns = (
        nearest(length, start, inside, offset, values.device)
        for length, start, inside in (
            (size[0], placement.top, placement.image_height),
            (size[1], placement.left, placement.image_width),
        )
    )
    return values[:, rows[:, None].clamp(max=values.shape[1] - 1), columns.clamp(max=values.shape[2] - 1)]


def nearest(length: int, start: int, inside: float, offset: float, device: torch.device) -> Tensor:
    """Which pixels of the input an axis of a picture takes, (length,): at so much of each of its own."""
    return start + ((torch.arange(length, device=device) + offset) * (inside / length)).long()
