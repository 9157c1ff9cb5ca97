"""Augmentation: boxes and masks follow the pixels, at the published sizes, and are dropped by the published rule."""

import collections
import tracemalloc
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import counted, random_boxes, seeds
from hypothesis import strategies as st
from letterbox import Letterbox
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms.v2 import functional as v2

from detrcli.boxes import cxcywh_to_xyxy
from detrcli.config import Preprocessing
from detrcli.data.augmentation import (
    CROP,
    GRAY,
    SCALES,
    LazyMask,
    Sample,
    augment,
    crop,
    flip,
    jitter_colors,
    make_sample,
    mask_pixels,
    mosaic,
    random_crop,
    zoom,
)
from detrcli.data.dataset import to_input
from detrcli.data.preprocessing import as_image
from detrcli.data.segmentations import as_text, to_rle
from detrcli.resize import Resize, ShortestEdge

COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def sample_of(image: Image.Image, boxes: Sequence[Sequence[float]] = (), labels: Sequence[int] = ()) -> Sample:
    objects = {"boxes": torch.tensor(boxes).float().reshape(-1, 4), "labels": torch.tensor(labels)}
    return make_sample(image, objects)


def resize(sample: Sample, preprocessing: Preprocessing) -> Sample:
    """A sample resized to the network's input: a crop of the whole image."""
    placement = preprocessing.resize.place(sample.image.height, sample.image.width)
    return crop(sample, (placement.width, placement.height), 0, 0, placement.height, placement.width)


def painted(g: torch.Generator, width: int, height: int) -> Sample:
    """A black image with a red, a green and a blue box that do not touch."""
    image = Image.new("RGB", (width, height))
    draw, boxes = ImageDraw.Draw(image), []
    for i, color in enumerate(COLORS):
        third = width // 3
        x0 = i * third + int(torch.randint(1, third // 3, (), generator=g))
        x1 = x0 + int(torch.randint(third // 4, third // 2, (), generator=g))
        y0 = int(torch.randint(0, height // 2, (), generator=g))
        y1 = y0 + int(torch.randint(height // 8, height // 2, (), generator=g))
        draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=color)
        boxes.append([x0, y0, x1, y1])
    return sample_of(image, boxes, range(3))


def box_of_color(pixels: np.ndarray, channel: int) -> tuple[float, float, float, float] | None:
    """The box around a color, up to its blurred edges; None if it is hardly visible."""
    strength = pixels[..., channel].astype(float) / 255
    if strength.max() < 0.9:
        return None
    rows, columns = strength.max(1), strength.max(0)
    y, x = np.flatnonzero(rows > 0.5), np.flatnonzero(columns > 0.5)
    return x[0], y[0], x[-1] + 1, y[-1] + 1


def check_boxes(pixels: np.ndarray, sample: Sample, tolerance: float) -> None:
    """Every box lies inside the image, and around its color if that is visible."""
    for label, box in zip(sample.labels.tolist(), sample.boxes.tolist(), strict=True):
        visible = box_of_color(pixels, label)
        assert visible is None or np.abs(np.array(visible) - box).max() <= tolerance
        assert 0 <= box[0] < box[2] <= sample.image.width + 1e-4  # float32 scales a little beyond
        assert 0 <= box[1] < box[3] <= sample.image.height + 1e-4


@counted(1000, seeds(), st.integers(60, 300), st.integers(60, 300), st.sampled_from([64, 200, 800]))
def test_boxes_follow_their_colors(g: torch.Generator, width: int, height: int, size: int) -> None:
    """Within the blur of two resizings; every visible color has a box with its label."""
    sample, preprocessing = augment(painted(g, width, height), Preprocessing(ShortestEdge(size, 2 * size)), g)
    after = resize(sample, preprocessing)
    inputs, target = to_input(sample, preprocessing)
    pixels = np.asarray(as_image(inputs, preprocessing))
    assert pixels.shape[:2] == (after.image.height, after.image.width)
    assert target.labels.tolist() == after.labels.tolist()
    scaled = cxcywh_to_xyxy(target.boxes) * torch.tensor([after.image.width, after.image.height] * 2)
    torch.testing.assert_close(scaled, after.boxes, rtol=0, atol=1e-2)
    check_boxes(pixels, after, 1.5 + 1.5 * max(after.image.size) / min(width, height))
    assert all(channel in after.labels for channel in range(3) if box_of_color(pixels, channel) is not None)


def test_targets_are_relative_to_the_image() -> None:
    p = Preprocessing(ShortestEdge(30, 60))
    sample = sample_of(Image.new("RGB", (200, 100)), [[20, 10, 60, 40]], [2])
    pixels, target = to_input(sample, p)
    assert pixels.shape == (3, 30, 60)
    torch.testing.assert_close(target.boxes, torch.tensor([[0.2, 0.25, 0.2, 0.3]]))
    assert type(target.boxes) is Tensor
    assert target.labels.tolist() == [2]
    assert to_input(sample_of(Image.new("RGB", (9, 9))), p)[1].boxes.shape == (0, 4)


@counted(5000, seeds(), st.integers(20, 200), st.integers(20, 200))
def test_a_crop_keeps_the_published_boxes(g: torch.Generator, width: int, height: int) -> None:
    """Shifted, clipped to the crop, and kept if width and height are above zero."""
    scale = torch.tensor([width, height, width, height])
    boxes = random_boxes(g, 12) * scale
    boxes = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    boxes = boxes.clamp(min=0).minimum(scale)
    if torch.rand((), generator=g) < 0.3:
        boxes = boxes.round()  # so that edges meet exactly
    left, top = (int(torch.randint(0, side - 4, (), generator=g)) for side in (width, height))
    w = int(torch.randint(1, width - left + 1, (), generator=g))
    h = int(torch.randint(1, height - top + 1, (), generator=g))

    shifted = boxes - torch.tensor([left, top, left, top], dtype=torch.float32)
    corners = torch.min(shifted.reshape(-1, 2, 2), torch.tensor([w, h], dtype=torch.float32)).clamp(min=0)
    keep = (corners[:, 1] > corners[:, 0]).all(1)

    sample = sample_of(Image.new("RGB", (width, height)), boxes.tolist(), range(12))
    after = crop(sample, sample.image.size, top, left, h, w)
    assert after.image.size == (w, h)
    assert after.labels.tolist() == torch.arange(12)[keep].tolist()
    torch.testing.assert_close(after.boxes.as_subclass(Tensor), corners.reshape(-1, 4)[keep])


@counted(2000, seeds(), st.integers(30, 1500), st.integers(30, 1500))
def test_crops_keep_their_bounds(g: torch.Generator, width: int, height: int) -> None:
    rule = ShortestEdge(500, 6000)
    placement = rule.place(height, width)
    after = random_crop(sample_of(Image.new("1", (width, height))), rule, *CROP, g)
    for side, whole in zip(after.image.size, (placement.width, placement.height), strict=True):
        assert min(CROP[0], whole) <= side <= min(CROP[1], whole)


def test_crops_reach_every_edge() -> None:
    """A box in each corner is in some crops, also in the outermost pixel."""
    width, height, corner = 12, 13, 0.5
    boxes = [[x, y, x + corner, y + corner] for x in (0, width - corner) for y in (0, height - corner)]
    sample = sample_of(Image.new("RGB", (width, height)), boxes, range(4))
    g, rule = torch.Generator().manual_seed(0), ShortestEdge(12, 13)
    counts = collections.Counter(
        label for _ in range(400) for label in random_crop(sample, rule, 10, 10, g).labels.tolist()
    )
    assert all(15 < counts[label] < 60 for label in range(4)), counts  # by 3 x 4 positions of a crop


def test_scales_flips_and_crops_have_their_probabilities() -> None:
    """In 600 draws: 11 scales about evenly, flips and crops about half of the time."""
    g = torch.Generator().manual_seed(0)
    flips, crops, shorter = 0, 0, collections.Counter()
    start = sample_of(Image.new("1", (100, 100)), [[0, 0, 10, 10]], [0])
    for _ in range(600):
        after = resize(*augment(start, Preprocessing(), g))
        shorter[min(after.image.size)] += 1
        whole = after.image.size[0] == after.image.size[1] and len(after.boxes) == 1
        wide = whole and abs(float(after.boxes[0, 2] - after.boxes[0, 0]) / after.image.width - 0.1) < 1e-4
        crops += not wide
        flips += wide and float(after.boxes[0, 0]) > after.image.width / 2
    assert set(SCALES) >= {size for size, count in shorter.items() if count > 5} - set(range(1, 480))
    assert all(shorter[scale] > 15 for scale in SCALES)
    assert 230 < crops < 370
    assert 100 < flips < 200


def test_scales_follow_the_size() -> None:
    g = torch.Generator().manual_seed(1)
    sample = sample_of(Image.new("RGB", (640, 480)))
    p = Preprocessing(ShortestEdge(100, 167))
    sizes = {min(resize(*augment(sample, p, g)).image.size) for _ in range(200)}
    assert max(sizes) == 100
    assert {60, 64, 68, 72, 76, 80, 84, 88, 92, 96, 100} <= sizes


@pytest.mark.parametrize("size", [(640, 427), (427, 640), (900, 200)])
def test_a_crop_is_a_part_of_the_resized_image(size: tuple[int, int]) -> None:
    """Within a gray level, since only that part is computed; boxes are exact."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    boxes = torch.tensor([[0.0, 0, *size], [100, 50, 300, 150]])
    placement = ShortestEdge(500, 6000).place(size[1], size[0])
    whole = placement.width, placement.height
    cut = crop(sample_of(image, boxes.tolist(), [0, 1]), whole, 30, 50, 384, 400)
    expected = v2.crop(v2.resize(image, [*whole[::-1]]), 30, 50, 384, 400)
    assert cut.image.size == expected.size == (400, 384)
    difference = np.abs(np.asarray(cut.image).astype(int) - np.asarray(expected))
    assert difference.max() <= 1
    assert difference.mean() < 0.5
    scale = torch.tensor([whole[0] / size[0], whole[1] / size[1]] * 2)
    moved = boxes * scale - torch.tensor([50, 30, 50, 30])
    torch.testing.assert_close(cut.boxes, moved.clamp(min=0).minimum(torch.tensor([400.0, 384, 400, 384])))


def test_further_fields_of_objects_stay_with_them() -> None:
    """In a selection, a flip and a resized crop."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 30], [50, 5, 60, 9]])
    objects = {"boxes": boxes, "labels": torch.tensor([4, 5, 6]), "tracks": torch.tensor([70, 71, 72])}
    objects["parts"] = torch.arange(6.0).reshape(3, 2)  # any shape after the first axis
    sample = make_sample(Image.new("RGB", (64, 48)), objects)
    some = sample.part(torch.tensor([True, False, True]))
    assert some.objects.keys() == objects.keys()
    assert some.objects["tracks"].tolist() == [70, 72]
    assert some.boxes.tolist() == boxes[[0, 2]].tolist()

    cut = crop(flip(sample), (128, 96), 0, 0, 60, 100)  # enlarged; the right half, at the top
    assert cut.image.size == (100, 60)
    assert cut.labels.tolist() == [5, 6]
    assert cut.objects["tracks"].tolist() == [71, 72]
    assert cut.objects["parts"].tolist() == [[2, 3], [4, 5]]
    torch.testing.assert_close(cut.boxes, torch.tensor([[48.0, 40, 88, 60], [8, 10, 28, 18]]))


@counted(300, seeds(), st.integers(60, 200), st.integers(60, 200), st.floats(0.5, 2))
def test_boxes_follow_their_colors_in_zoom(g: torch.Generator, width: int, height: int, factor: float) -> None:
    sample = painted(g, width, height)
    after = zoom(sample, factor, g)
    assert after.image.size == (width, height)
    pixels = np.asarray(after.image).copy()
    pixels[(pixels == GRAY).all(-1)] = 0  # the canvas of a smaller image
    check_boxes(pixels, after, 1.5 + factor)
    if factor < 1:
        assert after.labels.tolist() == [0, 1, 2]


def test_a_mosaic_has_a_part_of_each_image_in_its_quarter() -> None:
    colors = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0)]
    parts = [sample_of(Image.new("RGB", (60, 40), c), [[0, 0, 60, 40]], [i]) for i, c in enumerate(colors)]
    for seed in range(20):
        made = mosaic(parts, 60, 40, torch.Generator().manual_seed(seed))
        assert made.image.size == (60, 40)
        pixels = np.asarray(made.image)
        for label, (x0, y0, x1, y1) in zip(made.labels.tolist(), made.boxes.int().tolist(), strict=True):
            assert (pixels[y0:y1, x0:x1] == colors[label]).all()
        assert pixels.reshape(-1, 3).any(1).all()  # no pixel is empty


def test_objects_are_kept_from_a_visible_fraction_on() -> None:
    # A quarter of the second box remains.
    sample = sample_of(Image.new("RGB", (80, 40)), [[0, 0, 20, 20], [45, 0, 65, 20]], [0, 1])
    assert crop(sample, (80, 40), 0, 0, 40, 50, min_visible=0.3).labels.tolist() == [0]
    assert crop(sample, (80, 40), 0, 0, 40, 50, min_visible=0.2).labels.tolist() == [0, 1]
    assert crop(sample, (160, 80), 0, 0, 80, 100, min_visible=0.3).labels.tolist() == [0]  # at any scale


def test_jittered_colors_keep_boxes_and_regions() -> None:
    sample = painted(torch.Generator().manual_seed(3), 90, 60)
    colors = len(np.unique(np.asarray(sample.image).reshape(-1, 3), axis=0))
    changed = [np.asarray(jitter_colors(sample, torch.Generator().manual_seed(seed)).image) for seed in range(10)]
    assert len({pixels.tobytes() for pixels in changed}) == 10
    for pixels in changed:  # regions of a single color keep a single color
        for x0, y0, x1, y1 in sample.boxes.int().tolist():
            assert len(np.unique(pixels[y0:y1, x0:x1].reshape(-1, 3), axis=0)) == 1
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) == colors


def lazy(mask: np.ndarray) -> LazyMask:
    return LazyMask.of(as_text(to_rle(mask)), *mask.shape)


def sample_with_masks(g: torch.Generator, width: int, height: int) -> Sample:
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


def check_masks(sample: Sample, preprocessing: Preprocessing, blur: int) -> None:
    """Every mask equals its color, except for `blur` pixels along the edges of both: either can lose a thin tip."""
    pixels, target = to_input(sample, preprocessing)
    assert target.masks.shape[1:] == pixels.shape[1:]
    colors = torch.from_numpy(np.array(as_image(pixels, preprocessing))).permute(2, 0, 1)  # (3, H, W)
    for label, mask in zip(target.labels.tolist(), target.masks, strict=True):
        colored = colors[label] >= 128
        differs = mask != colored
        assert not (differs & ~near_edge(mask, blur) & ~near_edge(colored, blur)).any()
        assert differs.float().mean() < 0.05


@counted(300, seeds(), st.integers(40, 160), st.integers(40, 160), st.sampled_from([48, 64, 120]))
def test_masks_in_the_published_augmentation(g: torch.Generator, width: int, height: int, size: int) -> None:
    sample, preprocessing = augment(sample_with_masks(g, width, height), Preprocessing(ShortestEdge(size, 2 * size)), g)
    factor = max(1.0, preprocessing.resize.side / min(sample.image.size))
    check_masks(sample, preprocessing, blur=1 + round(factor))


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
def test_masks_after_each_change(change: Callable[[Sample, torch.Generator], Sample], rule: Resize) -> None:
    for seed in range(5):
        g = torch.Generator().manual_seed(seed)
        sample = change(sample_with_masks(g, 80, 60), g)
        pixels = np.asarray(sample.image)
        black = np.where((pixels == GRAY).all(-1, keepdims=True), 0, pixels)  # the canvas of a smaller image
        on_black = Sample(Image.fromarray(black.astype(np.uint8)), sample.objects, sample.masks)
        check_masks(on_black, Preprocessing(rule), blur=3)


def test_masks_of_a_mosaic() -> None:
    """Each mask lies in the quarter of its image, and equals its color there."""
    for seed in range(8):
        g = torch.Generator().manual_seed(seed)
        sample = mosaic([sample_with_masks(g, 80, 60) for _ in range(4)], 80, 60, g)
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
def test_changes_of_masks_by_whole_pixels_are_exact(g: torch.Generator, height: int, width: int) -> None:
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
