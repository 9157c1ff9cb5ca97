"""Images to the network's input: resizing, normalization, and batches."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from detrcli.config import Preprocessing
from detrcli.resize import Placement
from detrcli.structures import Batch


def prepare(image: Image.Image, preprocessing: Preprocessing, *, exact: bool = True) -> Tensor:
    """Resize and normalize an RGB image to (3, h, w), in channels-last memory.

    Without `exact`, gray levels may differ by 1, which is faster.
    """
    p = preprocessing
    placement = p.resize.place(image.height, image.width)
    if p.backend == "torchvision" or p.rescale_first or p.blur or not p.antialias or p.resize.pads_first:
        return _by_torchvision(_levels(image), placement, p)
    size = placement.image_size
    if image.size == size[::-1]:
        levels = _levels(image)
    elif exact or p.filter == "nearest":
        # Pillow's filter, as in the published code; torch's differs by a gray level in places.
        levels = _levels(image.resize(size[::-1], Image.Resampling[p.filter.upper()]))
    else:
        # In channels-last memory, which the result keeps.
        batch = torch.from_numpy(np.array(image))[None].permute(0, 3, 1, 2)  # (1, 3, H, W)
        levels = F.interpolate(batch, size, mode=p.filter, antialias=True)[0]
    return _normalize(_on_canvas(levels, placement), p)


def _levels(image: Image.Image) -> Tensor:
    """Return gray levels from 0 to 255, (3, h, w) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _by_torchvision(levels: Tensor, placement: Placement, preprocessing: Preprocessing) -> Tensor:
    """Follow the steps of transformers' processors, for bitwise equal results where they use torchvision."""
    from torchvision.transforms.v2 import InterpolationMode  # slow to import, and rarely used
    from torchvision.transforms.v2.functional import normalize, resize

    p = preprocessing
    size = list(placement.image_size)
    factor = 1 / 255
    pixels = levels.contiguous()
    if p.rescale_first:
        pixels = pixels * factor
    if p.resize.pads_first:
        height, width = pixels.shape[1:]
        side, size = max(height, width), [placement.height, placement.width]
        pixels = F.pad(pixels, (0, side - width, 0, side - height))
    if p.blur:
        pixels = _blur(pixels, size)
    mode = "nearest-exact" if p.filter == "nearest" else p.filter  # as Pillow's
    pixels = resize(pixels, size, InterpolationMode(mode), antialias=p.antialias)
    if not p.resize.pads_first:
        pixels = _on_canvas(pixels, placement)
    mean, std = torch.tensor(p.mean), torch.tensor(p.std)
    if not mean.any() and (std == 1).all():
        return pixels if p.rescale_first else pixels * factor
    if not p.rescale_first:  # rescale and normalize in a single step
        mean, std = mean * (1.0 / factor), std * (1.0 / factor)
    return normalize(pixels.float(), mean, std)


def _blur(pixels: Tensor, size: list[int]) -> Tensor:
    """Remove frequencies that are too high for a new size, if both sides become smaller."""
    from torchvision.transforms.v2.functional import gaussian_blur

    sigma = (torch.tensor(pixels.shape[1:]) / torch.tensor(size) - 1) / 2
    if not (sigma > 0).all():
        return pixels
    kernel = 2 * (3 * sigma).ceil().int() + 1
    # transformers passes height before width, and sizes as tensors, which determine the last bits.
    return gaussian_blur(pixels, list(kernel), sigma.tolist())


def _normalize(levels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Compute (levels / 255 - mean) / std for levels (3, h, w), as a product and a sum."""
    mean, std = (np.array(values) for values in (preprocessing.mean, preprocessing.std))
    h, w = levels.shape[1:]
    rows = levels.permute(1, 2, 0).float().reshape(h, w * 3)
    gain, shift = (torch.from_numpy(np.tile(values, w)).float() for values in (1 / (255 * std), -mean / std))
    # By rows instead of by three channels, so that the operation is vectorized.
    torch.addcmul(shift, rows, gain, out=rows)
    return rows.view(h, w, 3).permute(2, 0, 1)


def _on_canvas(levels: Tensor, placement: Placement) -> Tensor:
    """Place an image (3, h, w) on a black canvas of the size of the input."""
    if placement.fills:
        return levels
    p = placement
    height, width = p.image_size
    canvas = levels.new_zeros(p.height, p.width, 3).permute(2, 0, 1)
    canvas[:, p.top : p.top + height, p.left : p.left + width] = levels
    return canvas


def as_image(pixels: Tensor, preprocessing: Preprocessing) -> Image.Image:
    """Convert a network's input (3, h, w) to an image."""
    mean, std = (pixels.new_tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
    levels = (pixels * std + mean).clamp(0, 1) * 255
    return Image.fromarray(levels.round().byte().permute(1, 2, 0).cpu().numpy())


def collate(images: Sequence[Tensor]) -> Batch:
    """Stack normalized images (3, H, W), padded with zeros at the right and the bottom to a common size.

    The batch is in channels-last memory, in which convolutions are faster.
    """
    if len({image.shape for image in images}) == 1:
        rows = [image.permute(1, 2, 0) for image in images]  # (H, W, 3)
        whole = rows[0][None] if len(rows) == 1 else torch.stack(rows)
        return Batch(whole.contiguous().permute(0, 3, 1, 2), None)
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    padded = images[0].new_zeros(len(images), height, width, 3).permute(0, 3, 1, 2)
    padding = torch.ones(len(images), height, width, dtype=torch.bool, device=padded.device)
    for image, canvas, outside in zip(images, padded, padding, strict=True):
        _, h, w = image.shape
        canvas[:, :h, :w] = image
        outside[:h, :w] = False
    return Batch(padded, padding)
