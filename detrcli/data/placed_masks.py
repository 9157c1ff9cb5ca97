"""Masks of a picture on its way to the network: what becomes of its pixels is noted, and each mask is made once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Self

import numpy as np
import torch
from torch import Tensor

from detrcli.data.outlines import mask_of


@dataclass(frozen=True)
class Axis:
    """Where the pixels along an axis come from: the place u shows the mask's place scale * u + shift."""

    scale: float
    shift: float
    first: float  # places before it and from `last` on show nothing
    last: float

    @classmethod
    def whole(cls, length: int) -> Self:
        """Every pixel in its own place."""
        return cls(1.0, 0.0, 0.0, float(length))

    def resized(self, factor: float) -> "Axis":
        """So many times as long."""
        return Axis(self.scale / factor, self.shift, self.first * factor, self.last * factor)

    def flipped(self, length: int) -> "Axis":
        """An axis of this length, from its other end."""
        return Axis(-self.scale, self.scale * length + self.shift, length - self.last, length - self.first)

    def moved(self, by: float) -> "Axis":
        """Everything further on by so much."""
        return Axis(self.scale, self.shift - self.scale * by, self.first + by, self.last + by)

    def cut(self, length: int) -> "Axis":
        """Nothing shows beyond 0 and this length."""
        return replace(self, first=max(self.first, 0.0), last=min(self.last, float(length)))

    def pixels(self, length: int, of: int) -> np.ndarray:
        """For each pixel of such an axis the mask's, of so many; -1 where there is none: (length,)."""
        middle = np.arange(length) + 0.5
        found = np.floor(self.scale * middle + self.shift).astype(np.int64)
        there = (middle >= self.first) & (middle < self.last) & (found >= 0) & (found < of)
        return np.where(there, found, -1)


@dataclass(frozen=True)
class PlacedMask:
    """An object's outline, in a picture of a size, and where that lies now."""

    outline: bytes
    size: tuple[int, int]  # height and width that the outline is of
    x: Axis
    y: Axis

    def pixels(self, height: int, width: int) -> np.ndarray:
        """The mask on a picture of this size, (height, width) bool."""
        mask = np.pad(mask_of(self.outline, *self.size), ((0, 1), (0, 1)))  # what -1 stands for shows nothing
        rows, columns = self.y.pixels(height, self.size[0]), self.x.pixels(width, self.size[1])
        return mask[rows[:, None], columns]


@dataclass(frozen=True)
class PlacedMasks:
    """Those of the objects of a picture, a row each."""

    rows: Sequence[PlacedMask]

    @classmethod
    def of(cls, outlines: Sequence[bytes], height: int, width: int) -> Self:
        """Masks of a picture of this size, in their place."""
        x, y = Axis.whole(width), Axis.whole(height)
        return cls([PlacedMask(outline, (height, width), x, y) for outline in outlines])

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, stays: Tensor) -> "PlacedMasks":
        """Some of them, (N,) bool."""
        return PlacedMasks([row for row, kept in zip(self.rows, stays.tolist(), strict=True) if kept])

    def along(self, x: Callable[[Axis], Axis], y: Callable[[Axis], Axis] = lambda axis: axis) -> "PlacedMasks":
        """With other axes; the objects of a picture share theirs."""
        x, y = cache(x), cache(y)
        return PlacedMasks([replace(row, x=x(row.x), y=y(row.y)) for row in self.rows])

    def flipped(self, width: int) -> "PlacedMasks":
        """Left is right in a picture of this width."""
        return self.along(lambda x: x.flipped(width))

    def resized(self, x: float, y: float) -> "PlacedMasks":
        """A picture so many times as wide and as high."""
        return self.along(lambda axis: axis.resized(x), lambda axis: axis.resized(y))

    def moved(self, left: float, top: float) -> "PlacedMasks":
        """Further to the right and down."""
        return self.along(lambda x: x.moved(left), lambda y: y.moved(top))

    def cut(self, width: int, height: int) -> "PlacedMasks":
        """Nothing shows outside of a picture of this size."""
        return self.along(lambda x: x.cut(width), lambda y: y.cut(height))

    def pixels(self, height: int, width: int) -> Tensor:
        """All masks on a picture of this size, (N, height, width) bool. At full size there is one at a time."""
        masks = torch.zeros(len(self.rows), height, width, dtype=torch.bool)
        for mask, row in zip(masks, self.rows, strict=True):
            mask.copy_(torch.from_numpy(row.pixels(height, width)))
        return masks
