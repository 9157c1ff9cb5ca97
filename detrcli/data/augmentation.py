"""What training does to pictures, as published; on torchvision's transforms v2 and its boxes."""

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
from detrcli.data.placed_masks import PlacedMask, PlacedMasks
from detrcli.resize import LARGEST, Resize, ShortestEdge

Augmentation = Literal["published", "strong", "flip", "none"]

# For a shorter side of 800; all of them grow and shrink with it.
PUBLISHED_SIZE = 800
SCALES = tuple(range(480, 801, 32))
CROP_SCALES = (400, 500, 600)
CROP = (384, 600)  # least and greatest side of a crop
STRONG_SCALES = (0.8, 1.25)
LEAST_PART = 0.3  # of an object that is cut, or it is not one any more
GREY = (124, 116, 104)  # the mean of ImageNet


@dataclass(frozen=True)
class Sample:
    """A picture with its objects, on the way to the network.

    All that is known of an object is a row in one of `objects`: its box (N, 4), x0, y0, x1, y1 in pixels of the
    image, its label (N,). What torchvision has a kind of tensor for moves with the picture; the rest stays.
    """

    image: Image.Image  # RGB
    objects: Mapping[str, Tensor]
    masks: PlacedMasks | None = None  # likewise a row each, where the network is to learn them

    @property
    def boxes(self) -> Tensor:
        """(N, 4), as a plain tensor."""
        return self.objects["boxes"].as_subclass(Tensor)

    @property
    def labels(self) -> Tensor:
        """(N,)"""
        return self.objects["labels"]

    def moved_objects(self, change: Callable[[Any], Any]) -> Mapping[str, Tensor]:
        """The objects after one of torchvision's functions."""
        return {name: change(value) if isinstance(value, TVTensor) else value for name, value in self.objects.items()}

    def part(self, stays: Tensor) -> "Sample":
        """Only some of the objects, (N,) bool."""
        return Sample(
            self.image,
            {
                name: wrap(value[stays], like=value) if isinstance(value, TVTensor) else value[stays]
                for name, value in self.objects.items()
            },
            self.masks and self.masks.part(stays),
        )


def sample(image: Image.Image, objects: Mapping[str, Tensor], masks: PlacedMasks | None = None) -> Sample:
    """A picture with what is known of its objects, boxes in its pixels."""
    boxes = BoundingBoxes(objects["boxes"], format="XYXY", canvas_size=(image.height, image.width))
    return Sample(image, {**objects, "boxes": boxes}, masks)


def augment(
    seen: Sample, preprocessing: Preprocessing, chance: Generator, kind: Augmentation = "published"
) -> tuple[Sample, Preprocessing]:
    """A sample as training sees it, and how it is then brought to the network's size.

    As published it is flipped or not; then resized to one of 11 scales, or a part of it is cut out before that.
    """
    if kind == "none":
        return seen, preprocessing
    seen = flip(seen) if _one_in_two(chance) else seen
    if kind == "flip":
        return seen, preprocessing
    if kind == "strong":
        seen = other_colours(zoom(seen, _log_uniform(*STRONG_SCALES, chance), chance), chance)
        return seen, preprocessing
    rule = preprocessing.resize
    if _one_in_two(chance):
        enlarged = ShortestEdge(_scaled(_one_of(CROP_SCALES, chance), rule.side), LARGEST)
        least, greatest = (_scaled(side, rule.side) for side in CROP)
        seen = random_crop(seen, enlarged, least, greatest, chance)
    scale = _scaled(_one_of(SCALES, chance), rule.side)
    return seen, replace(preprocessing, resize=rule.with_side(scale))


def flip(seen: Sample) -> Sample:
    """Left is right."""
    masks = seen.masks and seen.masks.flipped(seen.image.width)
    return Sample(v2.horizontal_flip(seen.image), seen.moved_objects(v2.horizontal_flip), masks)


def random_crop(seen: Sample, rule: Resize, least: int, greatest: int, chance: Generator) -> Sample:
    """Resize by a rule, and cut out a part with sides between the bounds, where it is smaller its own."""
    whole = rule.place(seen.image.height, seen.image.width).picture_size[::-1]
    width, height = (_between(min(least, side), min(greatest, side), chance) for side in whole)
    left = _between(0, whole[0] - width, chance)
    top = _between(0, whole[1] - height, chance)
    return crop(seen, whole, top, left, height, width)


def crop(
    seen: Sample, whole: tuple[int, int], top: int, left: int, height: int, width: int, least: float = 0.0
) -> Sample:
    """A part of the sample resized to `whole`, of which only that part is computed.

    A box is cut to it, and stays if anything is left of its width and height. v2's SanitizeBoundingBoxes asks for at
    least a pixel, and would drop boxes that the published rule keeps.
    """
    image = _part_resized(seen.image, whole, top, left, height, width)
    objects = seen.moved_objects(lambda value: v2.crop(v2.resize(value, [*whole[::-1]]), top, left, height, width))
    boxes = v2.clamp_bounding_boxes(objects["boxes"]).as_subclass(Tensor)
    stays = (boxes[:, 2:] > boxes[:, :2]).all(1)
    if least:
        scale = torch.tensor([whole[0] / seen.image.width, whole[1] / seen.image.height])
        before, after = ((b[:, 2:] - b[:, :2]).prod(1) for b in (seen.boxes * scale.repeat(2), boxes))
        stays &= after >= least * before
    masks = seen.masks
    if masks is not None:
        enlarged = masks.resized(whole[0] / seen.image.width, whole[1] / seen.image.height)
        masks = enlarged.moved(-left, -top).cut(width, height)
    return sample(image, {**objects, "boxes": boxes}, masks).part(stays)


def _part_resized(
    image: Image.Image, whole: tuple[int, int], top: int, left: int, height: int, width: int
) -> Image.Image:
    """Where Pillow goes along its other axis first, a value may differ by a level from that part of the whole."""
    x, y = (old / new for old, new in zip(image.size, whole, strict=True))
    right, bottom = min((left + width) * x, image.width), min((top + height) * y, image.height)
    return image.resize((width, height), Image.Resampling.BILINEAR, box=(left * x, top * y, right, bottom))


def zoom(seen: Sample, factor: float, chance: Generator) -> Sample:
    """The same sample larger or smaller on a canvas of its old size: batches of equal pictures stay unpadded."""
    width, height = seen.image.size
    whole = max(1, round(width * factor)), max(1, round(height * factor))
    if factor >= 1:
        left, top = _between(0, whole[0] - width, chance), _between(0, whole[1] - height, chance)
        return crop(seen, whole, top, left, height, width, least=LEAST_PART)
    left, top = _between(0, width - whole[0], chance), _between(0, height - whole[1], chance)
    canvas = Image.new("RGB", (width, height), GREY)
    canvas.paste(seen.image.resize(whole, Image.Resampling.BILINEAR), (left, top))
    x, y = whole[0] / width, whole[1] / height
    moved = seen.boxes * torch.tensor([x, y, x, y]) + torch.tensor([left, top, left, top])
    return sample(canvas, {**seen.objects, "boxes": moved}, seen.masks and seen.masks.resized(x, y).moved(left, top))


def other_colours(seen: Sample, chance: Generator) -> Sample:
    """Channels in another order, perhaps a negative, other contrast and brightness in each channel."""
    bands = seen.image.split()
    order = torch.randperm(3, generator=chance).tolist() if _one_in_two(chance) else [0, 1, 2]
    negative = float(torch.rand((), generator=chance)) < 0.25
    values = np.arange(255, -1, -1) if negative else np.arange(256)
    table: list[int] = []
    for _ in bands:
        gain, shift = _uniform(0.7, 1.3, chance), _uniform(-30, 30, chance)
        table += np.rint((values - 128) * gain + 128 + shift).clip(0, 255).astype(int).tolist()
    image = Image.merge("RGB", [bands[i] for i in order]).point(table)
    return replace(seen, image=image)


def mosaic(samples: Sequence[Sample], width: int, height: int, chance: Generator) -> Sample:
    """Four samples around a point of a picture of this size, each cut to its quarter."""
    x, y = (round(_uniform(0.3, 0.7, chance) * side) for side in (width, height))
    canvas = Image.new("RGB", (width, height))
    quarters = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
    parts: list[Mapping[str, Tensor]] = []
    masks: list[PlacedMask] = []
    for one, (left, top, right, bottom) in zip(samples, quarters, strict=True):
        # Large enough to fill the quarter, and no smaller than it is in the whole.
        factor = max((right - left) / one.image.width, (bottom - top) / one.image.height, _uniform(0.7, 1, chance))
        whole = round(one.image.width * factor), round(one.image.height * factor)
        cut = crop(
            one,
            whole,
            _between(0, max(0, whole[1] - (bottom - top)), chance),
            _between(0, max(0, whole[0] - (right - left)), chance),
            bottom - top,
            right - left,
            least=LEAST_PART,
        )
        canvas.paste(cut.image, (left, top))
        offset = torch.tensor([left, top, left, top])
        parts.append({**cut.objects, "boxes": cut.boxes + offset})
        masks += cut.masks.moved(left, top).rows if cut.masks else ()
    objects = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return sample(canvas, objects, None if samples[0].masks is None else PlacedMasks(masks))


def _log_uniform(low: float, high: float, chance: Generator) -> float:
    return math.exp(_uniform(math.log(low), math.log(high), chance))


def _uniform(low: float, high: float, chance: Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=chance))


def _scaled(published: int, size: int) -> int:
    return max(1, round(published * size / PUBLISHED_SIZE))


def _one_in_two(chance: Generator) -> bool:
    return bool(torch.rand((), generator=chance) < 0.5)


def _one_of(choices: Sequence[int], chance: Generator) -> int:
    return choices[_between(0, len(choices) - 1, chance)]


def _between(low: int, high: int, chance: Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=chance))
