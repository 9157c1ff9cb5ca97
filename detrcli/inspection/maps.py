"""What there is to say of a map over feature cells: (h, w), not negative, summing to 1."""

import numpy as np
from PIL import Image

Point = tuple[float, float]  # x, y


def brightest(map_: np.ndarray) -> Point:
    """The centre of the cell with the most weight, as shares of the picture's width and height."""
    row, column = np.unravel_index(map_.argmax(), map_.shape)
    h, w = map_.shape
    return (float(column) + 0.5) / w, (float(row) + 0.5) / h


def cell_at(x: float, y: float, cells: tuple[int, int]) -> int:
    """The cell, counted row by row, at a place given as shares of the picture's width and height."""
    h, w = cells
    return min(int(y * h), h - 1) * w + min(int(x * w), w - 1)


def box_coverage(box: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
    """How much of each cell a box x0, y0, x1, y1 in [0, 1] covers, (h, w) in [0, 1]."""
    h, w = cells
    across, down = (
        (np.minimum(high * n, np.arange(1, n + 1)) - np.maximum(low * n, np.arange(n))).clip(0)
        for low, high, n in ((box[0], box[2], w), (box[1], box[3], h))
    )
    return np.outer(down, across)


def mask_coverage(mask: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
    """How much of each cell a mask (H, W) of the whole picture covers, (h, w) in [0, 1]."""
    h, w = cells
    full = Image.fromarray(mask.astype(np.float32))
    return np.asarray(full.resize((w, h), Image.Resampling.BOX))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Of two boxes x0, y0, x1, y1; 0 where both are empty."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    both = float(sides.clip(0).prod())
    return both / max(float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - both, 1e-9)
