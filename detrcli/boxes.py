"""Box geometry that torchvision leaves open."""

import torch
from torch import Tensor
from torchvision.ops import box_convert


def corners(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) from cx, cy, w, h to x0, y0, x1, y1."""
    return box_convert(boxes, "cxcywh", "xyxy")


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of boxes given by their corners: (..., 4) and (..., 4), broadcast, to (...).

    torchvision's function compares every box with every other, scores an inverted box 1 and two empty ones
    NaN. Here a box whose corners are swapped is empty, and what would be 0 / 0 is 0, gradients included.
    """
    intersection = area(
        torch.cat([torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])], -1)
    )
    hull = area(torch.cat([torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])], -1))
    union = area(a) + area(b) - intersection
    return _ratio(intersection, union) - _ratio(hull - union, hull)


def area(boxes: Tensor) -> Tensor:
    """Area of boxes (..., 4) given by their corners; 0 for inverted ones."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    positive = whole > 0
    # The inner where keeps 0 / 0 out of the backward pass too, where the outer one alone would give NaN.
    return torch.where(positive, part / torch.where(positive, whole, 1), 0)
