"""What is done to a picture before the network sees it."""

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as v2

from detrcli.config import Preprocessing


def input_size(height: int, width: int, size: int, max_size: float) -> tuple[int, int]:
    """The published size of a picture for the network: its shorter side `size`, its longer at most `max_size`.

    Where the longer would pass `max_size`, the shorter is rounded and the longer then cut to an integer; so
    the longer can pass `max_size` by a little. A strip too narrow for that keeps one pixel of width.
    """
    shorter, longer = min(height, width), max(height, width)
    if longer / shorter * size > max_size:
        size = round(max_size * shorter / longer)
    if size < 1:
        size, long_size = 1, int(max_size)
    else:
        long_size = int(size * longer / shorter)
    return (size, long_size) if height <= width else (long_size, size)


def prepare(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """An RGB picture as the network's input, (3, h, w): resized with Pillow's bilinear filter, normalised."""
    p = preprocessing
    height, width = input_size(image.height, image.width, p.size, p.max_size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return normalise(image, preprocessing)


def normalise(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """An RGB picture as numbers around zero, (3, h, w)."""
    pixels = v2.to_dtype(v2.pil_to_tensor(image), torch.float32, scale=True)
    return v2.normalize(pixels, list(preprocessing.mean), list(preprocessing.std))
