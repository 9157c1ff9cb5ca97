"""The network's input: sizes by the published formula, pixels, and batches."""

import numpy as np
import pytest
import torch
from cases import counted
from golden_rules import GOLDEN
from hypothesis import strategies as st
from PIL import Image

from detrcli.config import Preprocessing
from detrcli.data.images import open_image
from detrcli.data.preprocessing import collate, prepare
from detrcli.resize import ShortestEdge


def input_size(height: int, width: int, size: int, max_size: int) -> tuple[int, int]:
    placement = ShortestEdge(size, max_size).place(height, width)
    assert placement.fills
    return placement.height, placement.width


def published_size(w: int, h: int, size: int, max_size: int) -> tuple[int, int]:
    """The published rule: height and width."""
    small, large = float(min(w, h)), float(max(w, h))
    if large / small * size > max_size:
        size = int(round(max_size * small / large))  # noqa: RUF046  # as published
    if (w <= h and w == size) or (h <= w and h == size):
        return h, w
    return (int(size * h / w), size) if w < h else (size, int(size * w / h))


@counted(20_000, st.integers(1, 6000), st.integers(1, 6000), st.sampled_from([(800, 1333), (480, 1333), (64, 106)]))
def test_sizes_equal_the_published_formula(w: int, h: int, limits: tuple[int, int]) -> None:
    """Where that gives an image with pixels; ours always has pixels."""
    ours, theirs = input_size(h, w, *limits), published_size(w, h, *limits)
    assert min(ours) >= 1
    if min(theirs) >= 1:
        assert ours == theirs


@pytest.mark.parametrize(
    ("image", "expected"),
    [((480, 640), (800, 1066)), ((427, 640), (800, 1199)), ((1000, 3000), (444, 1332)), ((1, 9000), (1, 1333))],
)
def test_sizes_by_hand(image: tuple[int, int], expected: tuple[int, int]) -> None:
    assert input_size(*image, 800, 1333) == expected
    assert input_size(*image[::-1], 800, 1333) == expected[::-1]


@pytest.mark.parametrize("name", ["picture-odd", "picture-wide", "picture-tall"])
def test_network_input_equals_the_reference(name: str) -> None:
    with np.load(GOLDEN / "detr-r50-pictures.npz") as golden:
        pixels = prepare(open_image(GOLDEN / f"{name}.png").image, Preprocessing())
        assert pixels.dtype == torch.float32
        np.testing.assert_array_equal(pixels.shape, golden[f"{name}.input_shape"][-3:])
        np.testing.assert_allclose(pixels.mean((1, 2)), golden[f"{name}.input_mean"].reshape(-1), atol=1e-5)
        corner = golden[f"{name}.input_corner"].reshape(3, 4, 4)
        np.testing.assert_allclose(pixels[:, :4, :4], corner, atol=1e-5)


@pytest.mark.parametrize("size", [(640, 480), (300, 900), (1500, 1100), (800, 800)])
def test_pixels_equal_the_published_steps(size: tuple[int, int]) -> None:
    """Resized by Pillow, divided by 255, minus the mean, divided by the deviation; in channels-last memory."""
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    p = Preprocessing()
    pixels = prepare(image, p)
    placement = p.resize.place(size[1], size[0])
    resized = image.resize((placement.width, placement.height), Image.Resampling.BILINEAR)
    levels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).double() / 255
    expected = (levels - torch.tensor(p.mean)[:, None, None]) / torch.tensor(p.std)[:, None, None]
    torch.testing.assert_close(pixels.double(), expected, rtol=0, atol=2e-6)
    assert pixels[None].is_contiguous(memory_format=torch.channels_last)
    quick = prepare(image, p, exact=False)
    level = 1 / 255 / min(p.std)
    assert (quick - pixels).abs().max() <= level + 1e-5
    assert ((quick - pixels).abs() > 1e-5).float().mean() < 0.1


@pytest.mark.parametrize("sizes", [[(40, 60)], [(40, 60), (40, 60)], [(40, 60), (30, 64)]])
@pytest.mark.parametrize("last", [True, False])
def test_batches_are_padded_and_channels_last(sizes: list[tuple[int, int]], last: bool) -> None:
    """For images in either layout; the strides of a batch of one are also right for convolutions."""
    images = [torch.rand(h, w, 3).permute(2, 0, 1) if last else torch.rand(3, h, w) for h, w in sizes]
    batch = collate(images)
    for image, padded in zip(images, batch.images, strict=True):
        _, h, w = image.shape
        assert torch.equal(padded[:, :h, :w], image)
        assert not padded[:, h:].any()
        assert not padded[:, :, w:].any()
    assert (batch.padding is None) == (len(set(sizes)) == 1)
    out = torch.nn.Conv2d(3, 8, 3)(batch.images)
    assert out.stride()[1] == 1
