"""Augmentation of training images and their objects, as published or stronger.

Boxes are transformed by torchvision. Transformations of masks are only recorded, and each mask is rasterized once, at
the size of the network's input.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as v2
from torchvision.tv_tensors import BoundingBoxes, TVTensor, wrap

from detrcli.config import Preprocessing
from detrcli.data.segmentations import mask_of
from detrcli.resize import MAX_SIDE, Resize, ShortestEdge

Augmentation = Literal["published", "strong", "flip", "none"]

# Sides in pixels for a shorter side of 800, in proportion for other sizes.
PUBLISHED_SIZE = 800
SCALES = tuple(range(480, 801, 32))
CROP_SCALES = (400, 500, 600)
CROP = (384, 600)  # minimum and maximum side of a crop
STRONG_SCALES = (0.8, 1.25)
MIN_VISIBLE = 0.3  # fraction of a cropped object's area below which it is dropped
GRAY = (124, 116, 104)  # the mean of ImageNet


@dataclass(frozen=True)
class LazyMask:
    """The mask of an object and its transformation.

    A point p = (x, y) of the image corresponds to scale * p + shift in the original mask if first <= p < last, and is
    outside of the mask otherwise.
    """

    text: bytes  # the segmentation as in `Segmentations`
    size: tuple[int, int]  # height and width of the original image
    scale: np.ndarray  # (2,), for x and y, like the arrays below
    shift: np.ndarray
    first: np.ndarray
    last: np.ndarray

    @classmethod
    def of(cls, text: bytes, height: int, width: int) -> "LazyMask":
        return cls(text, (height, width), np.ones(2), np.zeros(2), np.zeros(2), np.array([width, height], dtype=float))

    def flipped(self, width: int) -> "LazyMask":
        return replace(
            self,
            scale=self.scale * (-1, 1),
            shift=self.scale * (width, 0) + self.shift,
            first=np.array([width - self.last[0], self.first[1]]),
            last=np.array([width - self.first[0], self.last[1]]),
        )

    def resized(self, x: float, y: float) -> "LazyMask":
        factor = np.array([x, y])
        return replace(self, scale=self.scale / factor, first=self.first * factor, last=self.last * factor)

    def moved(self, left: float, top: float) -> "LazyMask":
        """Move the mask by `left` pixels to the right and `top` pixels down."""
        offset = np.array([left, top], dtype=float)
        return replace(self, shift=self.shift - self.scale * offset, first=self.first + offset, last=self.last + offset)

    def cut(self, width: int, height: int) -> "LazyMask":
        """Clip the mask to an image of this size."""
        return replace(self, first=np.maximum(self.first, 0), last=np.minimum(self.last, (width, height)))

    def pixels(self, height: int, width: int) -> np.ndarray:
        """Rasterize the mask in an image of this size, (height, width) bool."""
        mask = np.pad(mask_of(self.text, *self.size), ((0, 1), (0, 1)))  # row and column -1 are empty
        columns, rows = self._indices(0, width), self._indices(1, height)
        return mask[rows[:, None], columns]

    def _indices(self, axis: int, length: int) -> np.ndarray:
        """Return the original pixel of each pixel along an axis, (length,); -1 for none."""
        centers = np.arange(length) + 0.5
        pixels = np.floor(self.scale[axis] * centers + self.shift[axis]).astype(np.int64)
        inside = (centers >= self.first[axis]) & (centers < self.last[axis])
        return np.where(inside & (pixels >= 0) & (pixels < self.size[1 - axis]), pixels, -1)


def mask_pixels(masks: Sequence[LazyMask], height: int, width: int) -> Tensor:
    """Rasterize masks in an image of this size, (N, height, width) bool, one at a time."""
    pixels = torch.zeros(len(masks), height, width, dtype=torch.bool)
    for target, mask in zip(pixels, masks, strict=True):
        target.copy_(torch.from_numpy(mask.pixels(height, width)))
    return pixels


@dataclass(frozen=True)
class Sample:
    """An image with its objects, during augmentation.

    Every value in `objects` has a row per object: boxes (N, 4), xyxy in pixels of the image, labels (N,), and others.
    Values of torchvision's tensor types are transformed with the image; others are only selected.
    """

    image: Image.Image  # RGB
    objects: Mapping[str, Tensor]
    masks: Sequence[LazyMask] | None = None  # (N,)

    @property
    def boxes(self) -> Tensor:
        return self.objects["boxes"].as_subclass(Tensor)  # (N, 4), a plain tensor

    @property
    def labels(self) -> Tensor:
        return self.objects["labels"]  # (N,)

    def transformed(self, transform: Callable[[Any], Any]) -> Mapping[str, Tensor]:
        return {name: transform(v) if isinstance(v, TVTensor) else v for name, v in self.objects.items()}

    def part(self, chosen: Tensor) -> "Sample":
        objects = {
            name: wrap(value[chosen], like=value) if isinstance(value, TVTensor) else value[chosen]
            for name, value in self.objects.items()
        }
        masks = self.masks and [mask for mask, kept in zip(self.masks, chosen.tolist(), strict=True) if kept]
        return Sample(self.image, objects, masks)


def make_sample(image: Image.Image, objects: Mapping[str, Tensor], masks: Sequence[LazyMask] | None = None) -> Sample:
    """Return a sample of an image and its objects, whose boxes are xyxy in pixels."""
    boxes = BoundingBoxes(objects["boxes"], format="XYXY", canvas_size=(image.height, image.width))
    return Sample(image, {**objects, "boxes": boxes}, masks)


def augment(
    sample: Sample, preprocessing: Preprocessing, generator: Generator, kind: Augmentation = "published"
) -> tuple[Sample, Preprocessing]:
    """Augment a sample, and return the preprocessing that resizes it to the drawn scale.

    As published, it is flipped with probability 1/2, cropped with probability 1/2, and resized to one of 11 scales.
    """
    if kind == "none":
        return sample, preprocessing
    sample = flip(sample) if _coin(generator) else sample
    if kind == "flip":
        return sample, preprocessing
    if kind == "strong":
        low, high = map(math.log, STRONG_SCALES)
        sample = zoom(sample, math.exp(_uniform(low, high, generator)), generator)
        return jitter_colors(sample, generator), preprocessing
    rule = preprocessing.resize
    if _coin(generator):
        enlarged = ShortestEdge(_scaled(_choice(CROP_SCALES, generator), rule.side), MAX_SIDE)
        low, high = (_scaled(side, rule.side) for side in CROP)
        sample = random_crop(sample, enlarged, low, high, generator)
    scale = _scaled(_choice(SCALES, generator), rule.side)
    return sample, replace(preprocessing, resize=rule.with_side(scale))


def flip(sample: Sample) -> Sample:
    masks = sample.masks and [mask.flipped(sample.image.width) for mask in sample.masks]
    return Sample(v2.horizontal_flip(sample.image), sample.transformed(v2.horizontal_flip), masks)


def random_crop(sample: Sample, rule: Resize, low: int, high: int, generator: Generator) -> Sample:
    """Resize a sample by a rule and crop it to random sides between `low` and `high`, or its own if smaller."""
    whole = rule.place(sample.image.height, sample.image.width).image_size[::-1]
    width, height = (_integer(min(low, side), min(high, side), generator) for side in whole)
    left, top = _integer(0, whole[0] - width, generator), _integer(0, whole[1] - height, generator)
    return crop(sample, whole, top, left, height, width)


def crop(
    sample: Sample, whole: tuple[int, int], top: int, left: int, height: int, width: int, min_visible: float = 0.0
) -> Sample:
    """Resize a sample to `whole` (width, height) and crop it; only the pixels of the crop are computed.

    A box is clipped to the crop, and kept if its width and height are positive and, with `min_visible`, that fraction
    of its area is visible. v2.SanitizeBoundingBoxes would drop boxes below a pixel, which the published rule keeps.
    """
    image = _part_resized(sample.image, whole, top, left, height, width)
    objects = sample.transformed(lambda value: v2.crop(v2.resize(value, [*whole[::-1]]), top, left, height, width))
    boxes = v2.clamp_bounding_boxes(objects["boxes"]).as_subclass(Tensor)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    x, y = whole[0] / sample.image.width, whole[1] / sample.image.height
    if min_visible:
        before, after = ((b[:, 2:] - b[:, :2]).prod(1) for b in (sample.boxes * torch.tensor([x, y, x, y]), boxes))
        kept &= after >= min_visible * before
    masks = sample.masks and [m.resized(x, y).moved(-left, -top).cut(width, height) for m in sample.masks]
    return make_sample(image, {**objects, "boxes": boxes}, masks).part(kept)


def _part_resized(
    image: Image.Image, whole: tuple[int, int], top: int, left: int, height: int, width: int
) -> Image.Image:
    """Resize only the part of the image that becomes the crop.

    Pixels may differ by 1 from those of the whole image resized, if Pillow resizes the axes in another order.
    """
    x, y = (old / new for old, new in zip(image.size, whole, strict=True))  # pixels of the image per resized pixel
    right, bottom = min((left + width) * x, image.width), min((top + height) * y, image.height)
    return image.resize((width, height), Image.Resampling.BILINEAR, box=(left * x, top * y, right, bottom))


def zoom(sample: Sample, factor: float, generator: Generator) -> Sample:
    """Scale a sample on a canvas of its original size, so that batches of equally large images need no padding."""
    width, height = sample.image.size
    whole = max(1, round(width * factor)), max(1, round(height * factor))
    left, top = _integer(0, abs(whole[0] - width), generator), _integer(0, abs(whole[1] - height), generator)
    if factor >= 1:
        return crop(sample, whole, top, left, height, width, min_visible=MIN_VISIBLE)
    canvas = Image.new("RGB", (width, height), GRAY)
    canvas.paste(sample.image.resize(whole, Image.Resampling.BILINEAR), (left, top))
    x, y = whole[0] / width, whole[1] / height
    boxes = sample.boxes * torch.tensor([x, y, x, y]) + torch.tensor([left, top, left, top])
    masks = sample.masks and [mask.resized(x, y).moved(left, top) for mask in sample.masks]
    return make_sample(canvas, {**sample.objects, "boxes": boxes}, masks)


def jitter_colors(sample: Sample, generator: Generator) -> Sample:
    """Randomly permute the channels, invert the image, and change the contrast and brightness of each channel."""
    bands = sample.image.split()
    order = torch.randperm(3, generator=generator).tolist() if _coin(generator) else [0, 1, 2]
    inverted = float(torch.rand((), generator=generator)) < 0.25
    values = np.arange(255, -1, -1) if inverted else np.arange(256)
    table: list[int] = []
    for _ in bands:
        gain, shift = _uniform(0.7, 1.3, generator), _uniform(-30, 30, generator)
        table += np.rint((values - 128) * gain + 128 + shift).clip(0, 255).astype(int).tolist()
    return replace(sample, image=Image.merge("RGB", [bands[i] for i in order]).point(table))


def mosaic(samples: Sequence[Sample], width: int, height: int, generator: Generator) -> Sample:
    """Combine four samples around a random point of an image of this size, each cropped to its quadrant."""
    x, y = (round(_uniform(0.3, 0.7, generator) * side) for side in (width, height))
    canvas = Image.new("RGB", (width, height))
    quadrants = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
    parts: list[Mapping[str, Tensor]] = []
    masks: list[LazyMask] = []
    for sample, (left, top, right, bottom) in zip(samples, quadrants, strict=True):
        size, quadrant = sample.image.size, (right - left, bottom - top)
        # Large enough to fill the quadrant, and not reduced below 0.7 of its size.
        factor = max(quadrant[0] / size[0], quadrant[1] / size[1], _uniform(0.7, 1, generator))
        whole = round(size[0] * factor), round(size[1] * factor)
        crop_top = _integer(0, max(0, whole[1] - quadrant[1]), generator)
        crop_left = _integer(0, max(0, whole[0] - quadrant[0]), generator)
        part = crop(sample, whole, crop_top, crop_left, quadrant[1], quadrant[0], min_visible=MIN_VISIBLE)
        canvas.paste(part.image, (left, top))
        parts.append({**part.objects, "boxes": part.boxes + torch.tensor([left, top, left, top])})
        masks += [mask.moved(left, top) for mask in part.masks or ()]
    objects = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return make_sample(canvas, objects, None if samples[0].masks is None else masks)


def _scaled(published: int, size: int) -> int:
    """Scale a published side to a shorter side of `size`."""
    return max(1, round(published * size / PUBLISHED_SIZE))


def _coin(generator: Generator) -> bool:
    return bool(torch.rand((), generator=generator) < 0.5)


def _uniform(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _integer(low: int, high: int, generator: Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


def _choice(choices: Sequence[int], generator: Generator) -> int:
    return choices[_integer(0, len(choices) - 1, generator)]
