"""What is done to a picture before the network sees it."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from detrcli.config import Preprocessing
from detrcli.resize import Placement

_PILLOW = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}


def prepare(image: Image.Image, preprocessing: Preprocessing, *, exact: bool = True) -> Tensor:
    """An RGB picture as the network's input, (3, h, w): resized and normalised. In memory its channels come last.

    What is not to be exact may differ by one grey level from what the weights' preprocessing says, and is faster.
    """
    p = preprocessing
    placement = p.resize.place(image.height, image.width)
    beyond_pillow = p.rescale_first or p.blur or not p.antialias or p.resize.pads_first
    if p.backend == "torchvision" or beyond_pillow:
        return _by_torchvision(_levels(image), placement, p)
    size = placement.picture_size
    if image.size == size[::-1]:
        grey = _levels(image)
    elif exact or p.filter == "nearest":
        # By Pillow's filter, as the published code: torch's differs by a grey level here and there.
        grey = _levels(image.resize(size[::-1], _PILLOW[p.filter]))
    else:
        # As a batch whose memory is seen to have the channels last: so they come out.
        batch = torch.from_numpy(np.array(image))[None].permute(0, 3, 1, 2)
        grey = F.interpolate(batch, size, mode=p.filter, antialias=True)[0]
    return _normalised(_on_canvas(grey, placement, p.resize.grey), p)


def _levels(image: Image.Image) -> Tensor:
    """Grey levels from 0 to 255, (3, h, w), uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _by_torchvision(levels: Tensor, placement: Placement, preprocessing: Preprocessing) -> Tensor:
    """Step by step as transformers goes: the same bits, where its processors compute with torchvision."""
    from torchvision.transforms.v2 import InterpolationMode  # slow to import, and of no use to most
    from torchvision.transforms.v2.functional import normalize, resize

    p = preprocessing
    size = list(placement.picture_size)
    factor = 1 / 255
    pixels = levels.contiguous()
    if p.rescale_first:
        pixels = pixels * factor
    if p.resize.pads_first:
        height, width = pixels.shape[1:]
        side, size = max(height, width), [placement.height, placement.width]
        pixels = F.pad(pixels, (0, side - width, 0, side - height))
    if p.blur:
        pixels = _blurred(pixels, size)
    pixels = resize(pixels, size, InterpolationMode(p.filter), antialias=p.antialias)
    if not p.resize.pads_first:
        pixels = _on_canvas(pixels, placement, p.resize.grey * (factor if p.rescale_first else 1))
    mean, std = torch.tensor(p.mean), torch.tensor(p.std)
    if not mean.any() and (std == 1).all():
        return pixels if p.rescale_first else pixels * factor
    if not p.rescale_first:  # both in one step
        mean, std = mean * (1.0 / factor), std * (1.0 / factor)
    return normalize(pixels.float(), mean, std)


def _blurred(pixels: Tensor, size: list[int]) -> Tensor:
    """What would be too fine for the new size taken out, where both sides become smaller."""
    from torchvision.transforms.v2.functional import gaussian_blur

    sigma = (torch.tensor(pixels.shape[1:]) / torch.tensor(size) - 1) / 2
    if not (sigma > 0).all():
        return pixels
    kernel = 2 * (3 * sigma).ceil().int() + 1
    # As transformers hands them over: height before width, and sizes as tensors, on which the last bits hang.
    return gaussian_blur(pixels, list(kernel), sigma.tolist())


def _normalised(grey: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Levels (3, h, w) / 255, from which the mean is taken, over the deviation: as one product and one sum."""
    mean, std = (np.array(values) for values in (preprocessing.mean, preprocessing.std))
    h, w = grey.shape[1:]
    rows = grey.permute(1, 2, 0).float().reshape(h, w * 3)
    gain, shift = (torch.from_numpy(np.tile(values, w)).float() for values in (1 / (255 * std), -mean / std))
    # Row by row, not three numbers at a time: so the processor works on many at once.
    torch.addcmul(shift, rows, gain, out=rows)
    return rows.view(h, w, 3).permute(2, 0, 1)


def _on_canvas(grey: Tensor, placement: Placement, fill: float) -> Tensor:
    """A picture in the middle of what a letterbox leaves around it."""
    if placement.fills:
        return grey
    p = placement
    height, width = p.picture_size
    canvas = grey.new_full((p.height, p.width, 3), fill).permute(2, 0, 1)
    canvas[:, p.top : p.top + height, p.left : p.left + width] = grey
    return canvas


def as_picture(pixels: Tensor, preprocessing: Preprocessing) -> Image.Image:
    """The network's input (3, h, w) as a picture again."""
    mean, std = (pixels.new_tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
    shown = (pixels * std + mean).clamp(0, 1) * 255
    return Image.fromarray(shown.round().byte().permute(1, 2, 0).cpu().numpy())
