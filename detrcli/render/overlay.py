"""Masks over a picture: a translucent fill, so that what is below can still be seen, and a thin outline."""

import math
from collections.abc import Iterable

import numpy as np
from PIL import Image

from detrcli.render.colour import Colour

FILL = 0.42  # how much of a colour lies over what is below
EDGE = 0.95


def overlay(picture: np.ndarray, masks: Iterable[tuple[np.ndarray, Colour]]) -> Image.Image:
    """Masks (H, W) in their colours over a picture (H, W, 3) uint8, the later ones on top."""
    shown = picture.astype(np.float32)
    line = max(1, round(math.sqrt(min(picture.shape[:2])) / 14))
    for mask, colour in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            continue
        part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        inside = shrunk(mask[part], line)
        strength = np.where(inside, FILL, EDGE * mask[part])[..., None].astype(np.float32)
        shown[part] += strength * (np.array(colour, np.float32) - shown[part])
    return Image.fromarray(shown.round().astype(np.uint8))


def shrunk(mask: np.ndarray, by: int) -> np.ndarray:
    """A mask (H, W) without the pixels along its edge, so many; beyond the frame it goes on nowhere."""
    height, width = mask.shape
    wide = np.pad(mask, by)
    inside = np.ones_like(mask)
    for step in range(2 * by + 1):
        inside &= wide[step : step + height, by : by + width] & wide[by : by + height, step : step + width]
    return inside
