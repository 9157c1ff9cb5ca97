"""Box conversions, areas and IoU."""

import torch
from torch import Tensor

from detrcli.resize import Placement


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Convert boxes (..., 4) from cxcywh to xyxy.

    In memory all x0 come first, then all y0 and so on: later operations run over contiguous coordinates.
    """
    cx, cy, w, h = boxes.unbind(-1)
    return torch.stack([cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w, cy + 0.5 * h]).movedim(0, -1)


def to_pixels(boxes: Tensor, height: int, width: int, placement: Placement | None = None) -> Tensor:
    """Convert boxes (..., 4) from cxcywh in [0, 1] of the network's input to xyxy in pixels of the image.

    Without a placement the image fills the input.
    """
    scale = boxes.new_tensor([width, height, width, height])
    if placement is None or placement.fills:
        return cxcywh_to_xyxy(boxes) * scale
    input_size, offset, image_size = _in_input(boxes, placement)
    return (cxcywh_to_xyxy(boxes) * input_size - offset) / image_size * scale


def from_pixels(boxes: Tensor, height: int, width: int, placement: Placement | None = None) -> Tensor:
    """Convert boxes (..., 4) from xyxy in pixels of the image to cxcywh in [0, 1] of the network's input."""
    boxes = boxes / boxes.new_tensor([width, height, width, height])
    if placement is not None and not placement.fills:
        input_size, offset, image_size = _in_input(boxes, placement)
        boxes = (boxes * image_size + offset) / input_size
    x0, y0, x1, y1 = boxes.unbind(-1)
    return torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], dim=-1)


def _in_input(boxes: Tensor, p: Placement) -> Tensor:
    """Return the size of the input, and offset and size of the image in it, (3, 4): x, y, x, y."""
    return boxes.new_tensor([[p.width, p.height] * 2, [p.left, p.top] * 2, [p.image_width, p.image_height] * 2])


def clip_boxes(boxes: Tensor, height: float, width: float) -> Tensor:
    """Clip xyxy boxes (..., 4) to an image of this size. Boxes outside become empty, at its edge."""
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))


def masks_to_boxes(masks: Tensor) -> Tensor:
    """Return the boxes (..., 4), xyxy in pixels, around masks (..., H, W) bool; all 0 for empty masks."""
    sides = []
    for axis in (-2, -1):  # over all rows, then over all columns
        present = masks.any(axis).int()  # (..., W), then (..., H)
        first, after = present.argmax(-1), present.flip(-1).argmax(-1)
        sides += [first, (present.shape[-1] - after) * present.amax(-1)]
    x0, x1, y0, y1 = sides
    return torch.stack([x0, y0, x1, y1], -1)


def generalized_iou(a: Tensor, b: Tensor, eps: float = 0.0) -> Tensor:
    """Return the generalized IoU of xyxy boxes (..., 4) and (..., 4), broadcast.

    Unlike torchvision's function this is not pairwise, treats inverted boxes as empty, and returns 0 for 0 / 0, with
    gradient 0. DINO adds `eps` to the denominators.
    """
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a.unbind(-1), b.unbind(-1)
    hull = _product(
        torch.maximum(ax1, bx1) - torch.minimum(ax0, bx0), torch.maximum(ay1, by1) - torch.minimum(ay0, by0)
    )
    intersection, union = _intersection_and_union(a, b)
    return _ratio(intersection, union + eps) - _ratio(hull - union, hull + eps)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU of xyxy boxes (..., 4) and (..., 4), broadcast."""
    return _ratio(*_intersection_and_union(a, b))


def _intersection_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a.unbind(-1), b.unbind(-1)
    intersection = _product(
        torch.minimum(ax1, bx1) - torch.maximum(ax0, bx0), torch.minimum(ay1, by1) - torch.maximum(ay0, by0)
    )
    return intersection, area(a) + area(b) - intersection


def area(boxes: Tensor) -> Tensor:
    """Return the areas of xyxy boxes (..., 4); 0 for inverted boxes."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    return _product(x1 - x0, y1 - y0)


def _product(width: Tensor, height: Tensor) -> Tensor:
    return width.clamp(min=0) * height.clamp(min=0)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    positive = whole > 0
    if not torch.is_grad_enabled():
        return (part / whole).masked_fill_(~positive, 0)
    # The inner `where` keeps 0 / 0, and with it NaN gradients, out of the backward pass.
    return torch.where(positive, part / torch.where(positive, whole, 1), 0)
