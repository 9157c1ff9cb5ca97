"""Masks in augmentation: transformations are recorded, and each mask is made once, at the network's size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Self

import numpy as np
import torch
from torch import Tensor

from detrcli.data.segmentations import mask_of


@dataclass(frozen=True)
class Axis:
    """A transformation along an axis: place u shows place scale * u + shift of the mask."""

    scale: float
    shift: float
    first: float  # places before it, and from `last` on, show nothing
    last: float

    @classmethod
    def identity(cls, length: int) -> Self:
        return cls(1.0, 0.0, 0.0, float(length))

    def resized(self, factor: float) -> "Axis":
        return Axis(self.scale / factor, self.shift, self.first * factor, self.last * factor)

    def flipped(self, length: int) -> "Axis":
        return Axis(-self.scale, self.scale * length + self.shift, length - self.last, length - self.first)

    def moved(self, by: float) -> "Axis":
        return Axis(self.scale, self.shift - self.scale * by, self.first + by, self.last + by)

    def cut(self, length: int) -> "Axis":
        """Show nothing beyond 0 and this length."""
        return replace(self, first=max(self.first, 0.0), last=min(self.last, float(length)))

    def pixels(self, length: int, mask_length: int) -> np.ndarray:
        """Return the mask's pixel for each pixel of an axis, (length,); -1 for none."""
        centres = np.arange(length) + 0.5
        pixels = np.floor(self.scale * centres + self.shift).astype(np.int64)
        inside = (centres >= self.first) & (centres < self.last) & (pixels >= 0) & (pixels < mask_length)
        return np.where(inside, pixels, -1)


@dataclass(frozen=True)
class LazyMask:
    """The mask of an object, as a text of `Segmentations` with transformations along x and y."""

    text: bytes
    size: tuple[int, int]  # height and width of the original image
    x: Axis
    y: Axis

    def pixels(self, height: int, width: int) -> np.ndarray:
        """Return the mask on an image of this size, (height, width) bool."""
        mask = np.pad(mask_of(self.text, *self.size), ((0, 1), (0, 1)))  # index -1 is empty
        rows, columns = self.y.pixels(height, self.size[0]), self.x.pixels(width, self.size[1])
        return mask[rows[:, None], columns]


@dataclass(frozen=True)
class LazyMasks:
    """The masks of the N objects of an image."""

    rows: Sequence[LazyMask]

    @classmethod
    def of(cls, texts: Sequence[bytes], height: int, width: int) -> Self:
        """Return the masks of an image of this size, not transformed."""
        x, y = Axis.identity(width), Axis.identity(height)
        return cls([LazyMask(text, (height, width), x, y) for text in texts])

    def part(self, chosen: Tensor) -> "LazyMasks":
        """Select masks by a boolean tensor (N,)."""
        return LazyMasks([row for row, kept in zip(self.rows, chosen.tolist(), strict=True) if kept])

    def along(self, x: Callable[[Axis], Axis], y: Callable[[Axis], Axis] = lambda axis: axis) -> "LazyMasks":
        """Transform the axes, which the objects of an image share."""
        x, y = cache(x), cache(y)
        return LazyMasks([replace(row, x=x(row.x), y=y(row.y)) for row in self.rows])

    def flipped(self, width: int) -> "LazyMasks":
        """Flip an image of this width horizontally."""
        return self.along(lambda x: x.flipped(width))

    def resized(self, x: float, y: float) -> "LazyMasks":
        """Scale an image by these factors."""
        return self.along(lambda axis: axis.resized(x), lambda axis: axis.resized(y))

    def moved(self, left: float, top: float) -> "LazyMasks":
        """Move to the right and down."""
        return self.along(lambda x: x.moved(left), lambda y: y.moved(top))

    def cut(self, width: int, height: int) -> "LazyMasks":
        """Crop an image to this size."""
        return self.along(lambda x: x.cut(width), lambda y: y.cut(height))

    def pixels(self, height: int, width: int) -> Tensor:
        """Return the masks on an image of this size, (N, height, width) bool, made one at a time."""
        masks = torch.zeros(len(self.rows), height, width, dtype=torch.bool)
        for mask, row in zip(masks, self.rows, strict=True):
            mask.copy_(torch.from_numpy(row.pixels(height, width)))
        return masks
