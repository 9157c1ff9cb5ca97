"""What is done to a picture before the network sees it."""

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from detrcli.config import Preprocessing
from detrcli.resize import Placement

_PILLOW = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}


def prepare(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """An RGB picture as the network's input, (3, h, w): resized and normalised."""
    p = preprocessing
    placement = p.resize.place(image.height, image.width)
    size = placement.picture_height, placement.picture_width
    if p.antialias and not p.rescale_first:
        # By Pillow's filter, as the published code: torchvision's differs by a grey level here and there.
        if image.size != size[::-1]:
            image = image.resize(size[::-1], _PILLOW[p.filter])
        pixels = _rescaled(image)
    else:
        pixels = v2.pil_to_tensor(image)
        if p.rescale_first:
            pixels = v2.to_dtype(pixels, torch.float32, scale=True)
        if image.size != size[::-1]:
            pixels = v2.resize(pixels, list(size), InterpolationMode(p.filter), antialias=p.antialias)
        pixels = v2.to_dtype(pixels, torch.float32, scale=True)
    return _normalised(_on_canvas(pixels, placement, p), p)


def as_picture(pixels: Tensor, preprocessing: Preprocessing) -> Image.Image:
    """The network's input (3, h, w) as a picture again."""
    mean, std = (pixels.new_tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
    shown = (pixels * std + mean).clamp(0, 1) * 255
    return Image.fromarray(shown.round().byte().permute(1, 2, 0).cpu().numpy())


def _rescaled(image: Image.Image) -> Tensor:
    return v2.to_dtype(v2.pil_to_tensor(image), torch.float32, scale=True)


def _normalised(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    return v2.normalize(pixels, list(preprocessing.mean), list(preprocessing.std))


def _on_canvas(pixels: Tensor, placement: Placement, preprocessing: Preprocessing) -> Tensor:
    """A picture in the middle of what a letterbox leaves around it."""
    if placement.fills:
        return pixels
    p = placement
    canvas = pixels.new_full((3, p.height, p.width), preprocessing.resize.grey / 255)
    canvas[:, p.top : p.top + p.picture_height, p.left : p.left + p.picture_width] = pixels
    return canvas
