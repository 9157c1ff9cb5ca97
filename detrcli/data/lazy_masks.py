"""Masks in augmentation: transformations are recorded, and each mask is made once, at the network's size."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from detrcli.data.segmentations import mask_of


@dataclass(frozen=True)
class LazyMask:
    """The mask of an object and its transformation.

    A point (x, y) of the image shows the point scale * (x, y) + shift of the original mask, if it lies from `first` to
    `last`, and nothing otherwise.
    """

    text: bytes  # of `Segmentations`
    size: tuple[int, int]  # height and width of the original image
    scale: np.ndarray  # (2,), for x and y, like the others
    shift: np.ndarray
    first: np.ndarray
    last: np.ndarray

    @classmethod
    def of(cls, text: bytes, height: int, width: int) -> "LazyMask":
        """Return the mask of an object in an image of this size, not transformed."""
        return cls(text, (height, width), np.ones(2), np.zeros(2), np.zeros(2), np.array([width, height], dtype=float))

    def flipped(self, width: int) -> "LazyMask":
        """Flip an image of this width horizontally."""
        return replace(
            self,
            scale=self.scale * (-1, 1),
            shift=self.scale * (width, 0) + self.shift,
            first=np.array([width - self.last[0], self.first[1]]),
            last=np.array([width - self.first[0], self.last[1]]),
        )

    def resized(self, x: float, y: float) -> "LazyMask":
        """Scale an image by these factors."""
        factor = np.array([x, y])
        return replace(self, scale=self.scale / factor, first=self.first * factor, last=self.last * factor)

    def moved(self, left: float, top: float) -> "LazyMask":
        """Move an image to the right and down."""
        by = np.array([left, top], dtype=float)
        return replace(self, shift=self.shift - self.scale * by, first=self.first + by, last=self.last + by)

    def cut(self, width: int, height: int) -> "LazyMask":
        """Crop an image to this size."""
        return replace(self, first=np.maximum(self.first, 0), last=np.minimum(self.last, (width, height)))

    def pixels(self, height: int, width: int) -> np.ndarray:
        """Return the mask in an image of this size, (height, width) bool."""
        mask = np.pad(mask_of(self.text, *self.size), ((0, 1), (0, 1)))  # index -1 is empty
        columns, rows = self._indices(0, width), self._indices(1, height)
        return mask[rows[:, None], columns]

    def _indices(self, axis: int, length: int) -> np.ndarray:
        """Return the original pixel of each pixel along an axis, (length,); -1 for none."""
        centers = np.arange(length) + 0.5
        pixels = np.floor(self.scale[axis] * centers + self.shift[axis]).astype(np.int64)
        inside = (centers >= self.first[axis]) & (centers < self.last[axis])
        return np.where(inside & (pixels >= 0) & (pixels < self.size[1 - axis]), pixels, -1)


def mask_pixels(masks: Sequence[LazyMask], height: int, width: int) -> Tensor:
    """Return masks in an image of this size, (N, height, width) bool, made one at a time."""
    pixels = torch.zeros(len(masks), height, width, dtype=torch.bool)
    for target, mask in zip(pixels, masks, strict=True):
        target.copy_(torch.from_numpy(mask.pixels(height, width)))
    return pixels
