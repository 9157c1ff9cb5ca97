"""Maps over feature cells: arrays (h, w), non-negative, summing to 1; their geometry, and numbers that describe them.

The cells cover the network's input. Where the image fills the input, they cover the image.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from detrcli.boxes import from_pixels, to_pixels
from detrcli.inspection.record import ImageRecord, Point
from detrcli.resize import Placement

MAP_COLUMNS = ("most at", "in a cell", "in its box", "in its mask")


@dataclass(frozen=True)
class MapFacts:
    """Numbers that describe a map."""

    brightest: Point  # the center of the cell with the largest share, in pixels of the image
    most: float  # the share of that cell
    in_box: float | None = None  # the share inside the query's box
    in_mask: float | None = None  # the share inside the mask of the query's object

    @classmethod
    def of(
        cls, map_: np.ndarray, record: ImageRecord, box: np.ndarray | None = None, mask: np.ndarray | None = None
    ) -> "MapFacts":
        """Describe a map (h, w). The box is xyxy in [0, 1] of the network's input, the mask (H, W) of the image."""

        def share(coverage: np.ndarray) -> float:
            return round(float((map_ * coverage).sum()), 6)

        h, w = map_.shape
        row, column = np.unravel_index(map_.argmax(), map_.shape)
        center = np.array([(float(column) + 0.5) / w, (float(row) + 0.5) / h])
        x, y = points_to_image(center, record.size, record.placement).tolist()
        return cls(
            brightest=(round(x, 1), round(y, 1)),
            most=round(float(map_.max()), 6),
            in_box=None if box is None else share(box_coverage(box, map_.shape)),
            in_mask=None if mask is None else share(mask_coverage(mask, map_.shape, record.placement)),
        )

    def document(self) -> dict[str, Any]:
        fields = vars(self) | {"brightest": list(self.brightest)}
        return {name: value for name, value in fields.items() if value is not None}

    def cells(self) -> list[str]:
        """Return the facts for the columns of MAP_COLUMNS."""
        x, y = self.brightest
        return [f"{x:.0f},{y:.0f}", f"{100 * self.most:.1f}%", percent(self.in_box), percent(self.in_mask)]


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}%"


def cell_at(x: float, y: float, cells: tuple[int, int]) -> int:
    """Return the row-major index of the cell at a point given as fractions of the input's width and height."""
    h, w = cells
    return min(int(y * h), h - 1) * w + min(int(x * w), w - 1)


def points_to_image(points: np.ndarray, size: tuple[int, int], placement: Placement) -> np.ndarray:
    """Convert points (..., 2), x and y as fractions of the input, to pixels of an image of this (height, width)."""
    boxes = np.concatenate([points, np.zeros_like(points)], axis=-1)  # of zero width and height
    pixels: np.ndarray = to_pixels(torch.from_numpy(boxes), *size, placement)[..., :2].numpy()
    return pixels


def boxes_to_image(boxes: np.ndarray, placement: Placement) -> np.ndarray:
    """Convert boxes (..., 4), cxcywh in [0, 1] of the network's input, to cxcywh in [0, 1] of the image."""
    if placement.fills:
        return boxes
    converted: np.ndarray = from_pixels(to_pixels(torch.from_numpy(boxes), 1, 1, placement), 1, 1).numpy()
    return converted


def box_coverage(box: np.ndarray, cells: tuple[int, ...]) -> np.ndarray:
    """Return the fraction of each cell that a box, xyxy in [0, 1] of the input, covers, (h, w)."""
    h, w = cells
    across, down = (
        (np.minimum(high * n, np.arange(1, n + 1)) - np.maximum(low * n, np.arange(n))).clip(0)
        for low, high, n in ((box[0], box[2], w), (box[1], box[3], h))
    )
    return np.outer(down, across)


def mask_coverage(mask: np.ndarray, cells: tuple[int, ...], placement: Placement | None = None) -> np.ndarray:
    """Return the fraction of each cell that a mask (H, W) of the whole image covers, (h, w)."""
    h, w = cells
    full = Image.fromarray(mask.astype(np.float32))
    if placement is not None and not placement.fills:
        inside = full.resize(placement.image_size[::-1], Image.Resampling.BOX)
        full = Image.new("F", (placement.width, placement.height))
        full.paste(inside, (placement.left, placement.top))
    return np.asarray(full.resize((w, h), Image.Resampling.BOX))
