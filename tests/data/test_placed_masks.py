"""Masks go where the pixels go: compared with a picture that is the masks, drawn in a colour each."""

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
from detrcli.data.augmentation import Sample, augment, crop, flip, make_sample, mosaic, zoom
from detrcli.data.dataset import to_input
from detrcli.data.lazy_masks import Axis, LazyMasks
from detrcli.data.preprocessing import as_image
from detrcli.data.segmentations import as_text, to_rle
from detrcli.resize import ShortestEdge

Change = Callable[[Sample, Generator], tuple[Sample, Preprocessing]]


def drawn(g: Generator, width: int, height: int) -> Sample:
    """A red, a green and a blue shape, which may overlap: where they do the colours add up."""
    channels = []
    for _ in range(3):
        channel = Image.new("L", (width, height))
        x, y = (int(torch.randint(0, side, (), generator=g)) for side in (width, height))
        w, h = (int(torch.randint(side // 4, side // 2 + 1, (), generator=g)) for side in (width, height))
        ImageDraw.Draw(channel).polygon([(x - w, y), (x, y - h), (x + w, y), (x, y + h // 2)], fill=255)
        channels.append(channel)
    masks = [np.asarray(channel) > 0 for channel in channels]
    boxes = torch.tensor([[0.0, 0, width, height]]).repeat(3, 1)  # so that all of them survive what is cut
    outlines = [as_text(to_rle(mask)) for mask in masks]
    return make_sample(
        Image.merge("RGB", channels),
        {"boxes": boxes, "labels": torch.arange(3)},
        LazyMasks.of(outlines, height, width),
    )


def check(seen: Sample, preprocessing: Preprocessing, blur: int) -> None:
    """Every mask is its colour, but for what is blurred along its edge, so many pixels to both sides."""
    pixels, target = to_input(seen, preprocessing)
    assert target.masks is not None
    assert target.masks.shape[1:] == pixels.shape[1:]
    colours = torch.from_numpy(np.array(as_image(pixels, preprocessing))).permute(2, 0, 1)  # (3, H, W)
    for label, mask in zip(target.labels.tolist(), target.masks, strict=True):
        differs = mask != (colours[label] >= 128)
        assert not (differs & ~near_an_edge(mask, blur)).any()
        assert differs.float().mean() < 0.05


def near_an_edge(mask: Tensor, reach: int) -> Tensor:
    """Where a pixel of the other kind is not further off than that; the frame is no edge."""
    one = mask.float()[None, None]
    grown, rest = (F.max_pool2d(part, 2 * reach + 1, 1, reach)[0, 0] > 0 for part in (one, 1 - one))
    return grown & rest


@counted(300, seeds(), st.integers(40, 160), st.integers(40, 160), st.sampled_from([48, 64, 120]))
def test_published_augmentation(g: Generator, width: int, height: int, size: int) -> None:
    seen, preprocessing = augment(drawn(g, width, height), Preprocessing(ShortestEdge(size, 2 * size)), g)
    enlarged = max(1.0, preprocessing.resize.side / min(seen.image.size))
    check(seen, preprocessing, blur=1 + round(enlarged))


@pytest.mark.parametrize(
    "change",
    [
        lambda seen, g: flip(seen),
        lambda seen, g: crop(seen, (seen.image.width, seen.image.height), 7, 9, 30, 31),
        lambda seen, g: crop(seen, (90, 50), 3, 20, 40, 60),
        lambda seen, g: zoom(seen, 0.6, g),
        lambda seen, g: zoom(seen, 1.7, g),
        lambda seen, g: flip(zoom(flip(zoom(seen, 0.7, g)), 1.3, g)),
    ],
    ids=["flip", "crop", "crop of another size", "smaller", "larger", "one after the other"],
)
@pytest.mark.parametrize("rule", [ShortestEdge(64, 200), Letterbox(96, 96)], ids=["shortest edge", "letterbox"])
def test_each_change(change: Callable[[Sample, Generator], Sample], rule: ShortestEdge | Letterbox) -> None:
    for seed in range(5):
        g = Generator().manual_seed(seed)
        check(grey_is_black(change(drawn(g, 80, 60), g)), Preprocessing(rule), blur=3)


def grey_is_black(seen: Sample) -> Sample:
    """What a smaller picture is laid on is half as bright as a colour; here it shall be none of them."""
    pixels = np.asarray(seen.image)
    black = np.where((pixels == (124, 116, 104)).all(-1, keepdims=True), 0, pixels)
    return Sample(Image.fromarray(black.astype(np.uint8)), seen.objects, seen.masks)


def test_four_in_a_mosaic() -> None:
    """Each object's mask lies in the quarter of its picture, and is its colour there."""
    for seed in range(8):
        g = Generator().manual_seed(seed)
        four = [drawn(g, 80, 60) for _ in range(4)]
        seen = mosaic(four, 80, 60, g)
        assert seen.masks is not None
        assert len(seen.masks) == len(seen.labels)
        colours = torch.from_numpy(np.array(seen.image)).permute(2, 0, 1) >= 128
        together = torch.zeros(3, 60, 80, dtype=torch.bool)
        for label, mask in zip(seen.labels.tolist(), seen.masks.pixels(60, 80), strict=True):
            assert not (together[label] & mask).any()  # quarters do not overlap
            together[label] |= mask
        if len(seen.labels) == 12:  # none was cut away
            differs = together != colours
            assert all(not (d & ~near_an_edge(m, 2)).any() for d, m in zip(differs, together, strict=True))


@counted(500, seeds(), st.integers(1, 30))
def test_an_axis_moves_as_an_array_does(g: Generator, length: int) -> None:
    """By whole pixels, step by step."""
    axis, array = Axis.whole(length), np.arange(length)
    for _ in range(6):
        step = int(torch.randint(0, 4, (), generator=g))
        if step == 0:
            axis, array = axis.flipped(len(array)), array[::-1]
        elif step == 1:
            axis, array = axis.resized(2), array.repeat(2)
        elif step == 2:
            axis, array = axis.moved(3), np.concatenate([[-1] * 3, array])
        else:
            left = int(torch.randint(0, len(array), (), generator=g))
            axis, array = axis.moved(-left).cut(len(array) - left), array[left:]
    assert axis.pixels(len(array), length).tolist() == array.tolist()
