"""What training does to pictures, as published; on torchvision's transforms v2 and its boxes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as v2
from torchvision.tv_tensors import BoundingBoxes

from detrcli.config import Preprocessing
from detrcli.data.preprocessing import input_size

Augmentation = Literal["published", "flip", "none"]  # of which `augment` is the first

# For a shorter side of 800; all of them grow and downsample_padding with it.
PUBLISHED_SIZE = 800
SCALES = tuple(range(480, 801, 32))
CROP_SCALES = (400, 500, 600)
CROP = (384, 600)  # least and greatest side of a crop


@dataclass(frozen=True)
class Sample:
    """A picture with its objects, on the way to the network."""

    image: Image.Image  # RGB
    boxes: BoundingBoxes  # (N, 4) float32, x0, y0, x1, y1 in pixels of the image
    labels: Tensor  # (N,)


def view(image: Image.Image, boxes: Tensor, labels: Tensor) -> Sample:
    """A picture with boxes (N, 4) in its pixels."""
    return Sample(image, BoundingBoxes(boxes, format="XYXY", canvas_size=(image.height, image.width)), labels)


def augment(seen: Sample, preprocessing: Preprocessing, chance: Generator) -> Sample:
    """Flip it or not; resize it to one of 11 scales, or cut out a part of it and do so then."""
    size, longest = preprocessing.size, preprocessing.max_size
    seen = flip_some(seen, chance)
    if _one_in_two(chance):
        seen = resize(seen, _scaled(_one_of(CROP_SCALES, chance), size))
        least, greatest = (_scaled(side, size) for side in CROP)
        seen = random_crop(seen, least, greatest, chance)
    return resize(seen, _scaled(_one_of(SCALES, chance), size), longest)


def flip_some(seen: Sample, chance: Generator) -> Sample:
    """Flip it or not."""
    return flip(seen) if _one_in_two(chance) else seen


def flip(seen: Sample) -> Sample:
    """Left is right."""
    return Sample(v2.horizontal_flip(seen.image), v2.horizontal_flip(seen.boxes), seen.labels)


def resize(seen: Sample, size: int, max_size: float = math.inf) -> Sample:
    """By the published size formula."""
    wanted = list(input_size(seen.image.height, seen.image.width, size, max_size))
    return Sample(v2.resize(seen.image, wanted), v2.resize(seen.boxes, wanted), seen.labels)


def random_crop(seen: Sample, least: int, greatest: int, chance: Generator) -> Sample:
    """Cut out a part whose sides are drawn between the bounds, or the picture's own where that is smaller."""
    width, height = (
        _between(min(least, side), min(greatest, side), chance)
        for side in (seen.image.width, seen.image.height)
    )
    left = _between(0, seen.image.width - width, chance)
    top = _between(0, seen.image.height - height, chance)
    return crop(seen, top, left, height, width)


def crop(seen: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """Cut out a part. A box is cut to it, and stays if anything is left of its width and height.

    v2's SanitizeBoundingBoxes asks for at least a pixel, and would drop boxes that the published rule keeps.
    """
    boxes = v2.clamp_bounding_boxes(v2.crop(seen.boxes, top, left, height, width))
    stays = (boxes[:, 2:] > boxes[:, :2]).all(1)
    image = v2.crop(seen.image, top, left, height, width)
    return view(image, boxes[stays].as_subclass(Tensor), seen.labels[stays])


def _scaled(published: int, size: int) -> int:
    return max(1, round(published * size / PUBLISHED_SIZE))


def _one_in_two(chance: Generator) -> bool:
    return bool(torch.rand((), generator=chance) < 0.5)


def _one_of(choices: Sequence[int], chance: Generator) -> int:
    return choices[_between(0, len(choices) - 1, chance)]


def _between(low: int, high: int, chance: Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=chance))
