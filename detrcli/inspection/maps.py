"""What there is to say of a map over feature cells: (h, w), not negative, summing to 1.

Cells cover the network's input. Where the picture fills it, they cover the picture.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from detrcli.boxes import from_pixels, to_pixels
from detrcli.resize import Placement

Point = tuple[float, float]  # x, y


def brightest(map_: np.ndarray) -> Point:
    """The centre of the cell with the most weight, as shares of the input's width and height."""
    row, column = np.unravel_index(map_.argmax(), map_.shape)
    h, w = map_.shape
    return (float(column) + 0.5) / w, (float(row) + 0.5) / h


def cell_at(x: float, y: float, cells: tuple[int, int]) -> int:
    """The cell, counted row by row, at a place given as shares of the input's width and height."""
    h, w = cells
    return min(int(y * h), h - 1) * w + min(int(x * w), w - 1)


def to_picture(points: np.ndarray, size: tuple[int, int], placement: Placement) -> np.ndarray:
    """Points (..., 2), x and y as shares of the input, to pixels of the picture of this (height, width)."""
    boxes = np.concatenate([points, np.zeros_like(points)], axis=-1)  # of no width and height
    moved: np.ndarray = to_pixels(torch.from_numpy(boxes), *size, placement)[..., :2].numpy()
    return moved


def to_input(points: Sequence[Point], size: tuple[int, int], placement: Placement) -> np.ndarray:
    """Points, x and y in pixels of the picture of this (height, width), to shares of the input, (n, 2)."""
    both = torch.tensor(points, dtype=torch.float64).reshape(-1, 2).repeat(1, 2)
    moved: np.ndarray = from_pixels(both, *size, placement)[:, :2].numpy()
    return moved


def box_coverage(box: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
    """How much of each cell a box x0, y0, x1, y1 in [0, 1] of the input covers, (h, w) in [0, 1]."""
    h, w = cells
    across, down = (
        (np.minimum(high * n, np.arange(1, n + 1)) - np.maximum(low * n, np.arange(n))).clip(0)
        for low, high, n in ((box[0], box[2], w), (box[1], box[3], h))
    )
    return np.outer(down, across)


def mask_coverage(mask: np.ndarray, cells: tuple[int, int], placement: Placement | None = None) -> np.ndarray:
    """How much of each cell a mask (H, W) of the whole picture covers, (h, w) in [0, 1]."""
    h, w = cells
    full = Image.fromarray(mask.astype(np.float32))
    if placement is not None and not placement.fills:
        p = placement
        inside = full.resize(p.image_size[::-1], Image.Resampling.BOX)
        full = Image.new("F", (p.width, p.height))
        full.paste(inside, (p.left, p.top))
    return np.asarray(full.resize((w, h), Image.Resampling.BOX))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Of two boxes x0, y0, x1, y1; 0 where both are empty."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    both = float(sides.clip(0).prod())
    return both / max(float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - both, 1e-9)
