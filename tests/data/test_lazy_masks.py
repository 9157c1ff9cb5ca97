"""Masks follow the pixels: compared with an image of the masks, each drawn in a color."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import counted, seeds
from hypothesis import strategies as st
from letterbox import Letterbox
from PIL import Image, ImageDraw
from torch import Generator, Tensor

from detrcli.config import Preprocessing
from detrcli.data.augmentation import GRAY, Sample, augment, crop, flip, make_sample, mosaic, zoom
from detrcli.data.dataset import to_input
from detrcli.data.lazy_masks import LazyMask, mask_pixels
from detrcli.data.preprocessing import as_image
from detrcli.data.segmentations import as_text, to_rle
from detrcli.resize import Resize, ShortestEdge


def lazy(mask: np.ndarray) -> LazyMask:
    return LazyMask.of(as_text(to_rle(mask)), *mask.shape)


def drawn(g: Generator, width: int, height: int) -> Sample:
    """A red, a green and a blue shape, whose colors add up where they overlap."""
    channels = []
    for _ in range(3):
        channel = Image.new("L", (width, height))
        x, y = (int(torch.randint(0, side, (), generator=g)) for side in (width, height))
        w, h = (int(torch.randint(side // 4, side // 2 + 1, (), generator=g)) for side in (width, height))
        ImageDraw.Draw(channel).polygon([(x - w, y), (x, y - h), (x + w, y), (x, y + h // 2)], fill=255)
        channels.append(channel)
    boxes = torch.tensor([[0.0, 0, width, height]]).repeat(3, 1)  # so that all objects survive a crop
    masks = [lazy(np.asarray(channel) > 0) for channel in channels]
    return make_sample(Image.merge("RGB", channels), {"boxes": boxes, "labels": torch.arange(3)}, masks)


def near_edge(mask: Tensor, reach: int) -> Tensor:
    """Pixels with a pixel of the other kind at most `reach` away."""
    values = mask.float()[None, None]
    inside, outside = (F.max_pool2d(part, 2 * reach + 1, 1, reach)[0, 0] > 0 for part in (values, 1 - values))
    return inside & outside


def check(sample: Sample, preprocessing: Preprocessing, blur: int) -> None:
    """Every mask equals its color, except for `blur` pixels along its edge."""
    pixels, target = to_input(sample, preprocessing)
    assert target.masks is not None
    assert target.masks.shape[1:] == pixels.shape[1:]
    colors = torch.from_numpy(np.array(as_image(pixels, preprocessing))).permute(2, 0, 1)  # (3, H, W)
    for label, mask in zip(target.labels.tolist(), target.masks, strict=True):
        differs = mask != (colors[label] >= 128)
        assert not (differs & ~near_edge(mask, blur)).any()
        assert differs.float().mean() < 0.05


@counted(300, seeds(), st.integers(40, 160), st.integers(40, 160), st.sampled_from([48, 64, 120]))
def test_published_augmentation(g: Generator, width: int, height: int, size: int) -> None:
    sample, preprocessing = augment(drawn(g, width, height), Preprocessing(ShortestEdge(size, 2 * size)), g)
    factor = max(1.0, preprocessing.resize.side / min(sample.image.size))
    check(sample, preprocessing, blur=1 + round(factor))


@pytest.mark.parametrize(
    "change",
    [
        lambda sample, g: flip(sample),
        lambda sample, g: crop(sample, (sample.image.width, sample.image.height), 7, 9, 30, 31),
        lambda sample, g: crop(sample, (90, 50), 3, 20, 40, 60),
        lambda sample, g: zoom(sample, 0.6, g),
        lambda sample, g: zoom(sample, 1.7, g),
        lambda sample, g: flip(zoom(flip(zoom(sample, 0.7, g)), 1.3, g)),
    ],
    ids=["flip", "crop", "resized crop", "smaller", "larger", "combined"],
)
@pytest.mark.parametrize("rule", [ShortestEdge(64, 200), Letterbox(96, 96)], ids=["shortest edge", "letterbox"])
def test_each_change(change: Callable[[Sample, Generator], Sample], rule: Resize) -> None:
    for seed in range(5):
        g = Generator().manual_seed(seed)
        sample = change(drawn(g, 80, 60), g)
        pixels = np.asarray(sample.image)
        black = np.where((pixels == GRAY).all(-1, keepdims=True), 0, pixels)  # the canvas of a smaller image
        check(
            Sample(Image.fromarray(black.astype(np.uint8)), sample.objects, sample.masks), Preprocessing(rule), blur=3
        )


def test_a_mosaic() -> None:
    """Each mask lies in the quarter of its image, and equals its color there."""
    for seed in range(8):
        g = Generator().manual_seed(seed)
        sample = mosaic([drawn(g, 80, 60) for _ in range(4)], 80, 60, g)
        assert sample.masks is not None
        assert len(sample.masks) == len(sample.labels)
        colors = torch.from_numpy(np.array(sample.image)).permute(2, 0, 1) >= 128
        together = torch.zeros(3, 60, 80, dtype=torch.bool)
        for label, mask in zip(sample.labels.tolist(), mask_pixels(sample.masks, 60, 80), strict=True):
            assert not (together[label] & mask).any()  # quarters do not overlap
            together[label] |= mask
        if len(sample.labels) == 12:  # no object was dropped
            differs = together != colors
            assert all(not (d & ~near_edge(m, 2)).any() for d, m in zip(differs, together, strict=True))


@counted(500, seeds(), st.integers(1, 30), st.integers(1, 30))
def test_changes_by_whole_pixels_are_exact(g: Generator, height: int, width: int) -> None:
    array = torch.rand(height, width, generator=g).numpy() < 0.5
    mask = lazy(array)
    for _ in range(6):
        step = int(torch.randint(0, 4, (), generator=g))
        if step == 0:
            mask, array = mask.flipped(array.shape[1]), array[:, ::-1]
        elif step == 1:
            mask, array = mask.resized(2, 1), array.repeat(2, 1)
        elif step == 2:
            mask, array = mask.moved(3, 2), np.pad(array, ((2, 0), (3, 0)))
        else:
            top, left = (int(torch.randint(0, side, (), generator=g)) for side in array.shape)
            array = array[top:, left:]
            mask = mask.moved(-left, -top).cut(array.shape[1], array.shape[0])
    np.testing.assert_array_equal(mask.pixels(*array.shape), array)


def test_a_single_mask_is_in_memory_at_full_size() -> None:
    mask = np.zeros((1500, 2000), dtype=bool)
    mask[300:900, 200:1500] = True
    masks = [lazy(mask).resized(0.1, 0.1)] * 40
    tracemalloc.start()
    pixels = mask_pixels(masks, 150, 200)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pixels.shape == (40, 150, 200)
    assert torch.equal(pixels[0], torch.from_numpy(mask[5::10, 5::10].copy()))
    assert peak < 10 * mask.nbytes
