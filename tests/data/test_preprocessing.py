"""The network's input: the placement of an image by resizing rules, its pixels and boxes, and batches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import counted, seeds
from golden_rules import GOLDEN
from hypothesis import strategies as st
from letterbox import Letterbox
from PIL import Image
from torchvision.transforms.v2.functional import normalize

from detrcli.boxes import cxcywh_to_xyxy, from_pixels, to_pixels
from detrcli.config import Preprocessing
from detrcli.data.augmentation import augment, make_sample
from detrcli.data.dataset import to_input
from detrcli.data.images import open_image
from detrcli.data.preprocessing import collate, prepare
from detrcli.errors import UsageError
from detrcli.resize import (
    BoundedEdges,
    ExactSize,
    FitInside,
    PaddedEdges,
    PaddedSquare,
    Placement,
    RaisedEdges,
    Resize,
    ScaledEdges,
    ShortestEdge,
)

EDGES = [ShortestEdge(60, 90), ShortestEdge(60, 90, divisor=32)]
RULES = [*EDGES, ExactSize(40, 70), Letterbox(64, 48), Letterbox(48, 64)]
PLAIN = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))  # values in [0, 1], not normalized
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 81, 3), dtype=np.uint8))


def values(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


@pytest.mark.parametrize(
    ("rule", "size", "expected"),
    [
        (ShortestEdge(), (480, 640), Placement.filling(800, 1066)),
        (ShortestEdge(), (640, 427), Placement.filling(1199, 800)),
        (ShortestEdge(), (1000, 3000), Placement.filling(444, 1332)),
        (ShortestEdge(), (9000, 1), Placement.filling(1333, 1)),
        (ExactSize(480, 640), (100, 30), Placement.filling(480, 640)),
        (FitInside(640, 800), (480, 640), Placement.filling(600, 800)),
        (FitInside(640, 800), (1, 2000), Placement.filling(1, 800)),
        (ScaledEdges(800, 1333), (480, 640), Placement.filling(800, 1066)),
        (ScaledEdges(800, 1333), (3000, 1000), Placement.filling(1333, 444)),
        (PaddedSquare(64, 64), (100, 50), Placement(64, 64, 0, 0, 64, 32)),
        (PaddedSquare(960, 960), (427, 640), Placement(960, 960, 0, 0, 640.5, 960)),
        (PaddedSquare(64, 64), (7, 7), Placement.filling(64, 64)),
        (ShortestEdge(800, 1333, divisor=32), (480, 640), Placement.filling(800, 1056)),
        (ShortestEdge(800, 1333, divisor=32), (640, 480), Placement.filling(1056, 800)),
        (ShortestEdge(800, 1333, divisor=32), (9000, 1), Placement.filling(1344, 32)),
        (BoundedEdges(800, 1333), (1000, 3000), Placement.filling(444, 1333)),
        (BoundedEdges(800, 1333, 16), (480, 640), Placement.filling(800, 1056)),
        (RaisedEdges(800, 1333, 32), (640, 480), Placement.filling(1088, 800)),
    ],
)
def test_placements_by_hand(rule: Resize, size: tuple[int, int], expected: Placement) -> None:
    assert rule.place(*size) == expected
    assert expected.fills is not (isinstance(rule, PaddedSquare) and size[0] != size[1])


def test_other_sizes() -> None:
    """A rule with a fixed size scales in proportion, and has no maximum to set."""
    assert ShortestEdge(800, 1333, 32).with_size(400, None) == ShortestEdge(400, 1333, 32)
    assert ShortestEdge(800, 1333).with_size(None, 999) == ShortestEdge(800, 999)
    assert ShortestEdge(800, 1333).grown(400) == ShortestEdge(400, 666)
    assert ExactSize(480, 640).with_size(240, None) == ExactSize(240, 320)
    assert ExactSize(480, 640).with_size(None, None) == ExactSize(480, 640)
    for rule in (ExactSize(), FitInside(), PaddedSquare()):
        with pytest.raises(UsageError, match="`max_size`"):
            rule.with_size(None, 900)


@pytest.mark.parametrize(
    ("rule", "fitting"),
    [
        (ExactSize(96, 120), (1, 2, 4, 8, 24)),
        (PaddedSquare(96, 96), (1, 2, 4, 8, 16, 24, 32)),
        (FitInside(96, 96), (1,)),
        (ShortestEdge(96, 96), (1,)),
        (BoundedEdges(96, 200, 16), (1, 2, 4, 8, 16)),
        (RaisedEdges(96, 200, 32), (1, 2, 4, 8, 16, 32)),
        (PaddedEdges(96, 96), (1, 2, 4, 8, 16, 24, 32)),
        (ScaledEdges(96, 200), (1,)),
    ],
)
def test_multiples(rule: Resize, fitting: tuple[int, ...]) -> None:
    """As the placements of images of many sizes show."""
    sizes = [(height, width) for height in range(40, 130, 7) for width in range(40, 130, 11)]
    sides = {side for size in sizes for p in (rule.place(*size),) for side in (p.height, p.width)}
    for multiple in (1, 2, 4, 8, 16, 24, 32):
        assert rule.fits(multiple) == (multiple in fitting) == all(side % multiple == 0 for side in sides)


@pytest.mark.parametrize("value", [-1, 0, 32_769, 1.5, "64", True, None])
def test_sides_are_bounded_integers(value: object) -> None:
    for rule, name in ((ShortestEdge, "size"), (ExactSize, "height"), (PaddedSquare, "height")):
        with pytest.raises(UsageError, match=f"{name} = .*integer from 1 to 32,768"):
            rule(value)
        assert getattr(rule(32_768), name) == 32_768


@pytest.mark.parametrize("filter", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_pixels_are_those_of_pillow(rule: Resize, filter: str) -> None:
    """In their placement, on black."""
    placement = rule.place(50, 81)
    pixels = prepare(IMAGE, replace(PLAIN, resize=rule, filter=filter))
    expected = Image.new("RGB", (placement.width, placement.height))
    resized = IMAGE.resize(placement.image_size[::-1], Image.Resampling[filter.upper()])
    expected.paste(resized, (placement.left, placement.top))
    torch.testing.assert_close(pixels, values(expected), rtol=0, atol=1e-6)


def test_the_canvas_is_normalized_with_the_image() -> None:
    p = Preprocessing(Letterbox(64, 64), mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.2))
    torch.testing.assert_close(prepare(IMAGE, p)[:, 0, 0], torch.tensor([-0.2, -0.8, -1.5]))


@pytest.mark.parametrize("rescale_first", [False, True])
@pytest.mark.parametrize("antialias", [False, True])
def test_interpolation_is_that_of_torch(antialias: bool, rescale_first: bool) -> None:
    """Without antialias from the four pixels around a position. Levels are rounded unless they are rescaled first."""
    p = replace(PLAIN, resize=ExactSize(12, 20), antialias=antialias, rescale_first=rescale_first)
    pixels = prepare(IMAGE, p)
    expected = F.interpolate(values(IMAGE)[None], (12, 20), mode="bilinear", antialias=antialias)[0]
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6 if rescale_first else 1.01 / 255)
    rounding = (255 * pixels - (255 * pixels).round()).abs().max()
    assert rounding > 0.3 if rescale_first else rounding < 1e-3
    assert (pixels - prepare(IMAGE, replace(p, antialias=not antialias))).abs().max() > 0.1


@counted(200, seeds(), st.sampled_from([*RULES, PaddedSquare(48, 48)]), st.integers(1, 300), st.integers(1, 300))
def test_boxes_to_the_input_and_back(g: torch.Generator, rule: Resize, height: int, width: int) -> None:
    """From pixels to the network's input, where they lie inside the image, and back."""
    placement = rule.place(height, width)
    boxes = torch.rand(6, 2, 2, generator=g, dtype=torch.float64).sort(1).values.flatten(1)
    boxes = boxes * torch.tensor([width, height, width, height])
    relative = from_pixels(boxes, height, width, placement)
    torch.testing.assert_close(to_pixels(relative, height, width, placement), boxes, rtol=0, atol=1e-9)
    x0, y0, x1, y1 = cxcywh_to_xyxy(relative).unbind(-1)
    p, tiny = placement, 1e-9
    assert ((x0 * p.width >= p.left - tiny) & (x1 * p.width <= p.left + p.image_width + tiny)).all()
    assert ((y0 * p.height >= p.top - tiny) & (y1 * p.height <= p.top + p.image_height + tiny)).all()


def test_padded_first() -> None:
    """The padding is resized with the image: black blends with the image's edge only."""
    image = Image.new("RGB", (80, 40), "white")
    pixels = prepare(image, replace(PLAIN, resize=PaddedSquare(20, 20)))[0]
    assert (pixels[:9] == 1).all()
    assert ((pixels[9:11] > 0) & (pixels[9:11] < 1)).all()
    assert (pixels[11:] == 0).all()


def test_blur_removes_aliasing() -> None:
    """Of stripes that are narrower than a pixel of the input; enlarged images are not blurred."""
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    image = Image.fromarray(stripes)
    p = replace(PLAIN, resize=ExactSize(21, 21), antialias=False, rescale_first=True)
    sharp, blurred = (prepare(image, replace(p, blur=blur))[0] for blur in (False, True))
    assert sharp.std() > 0.25
    assert blurred[2:-2, 2:-2].std() < 0.05
    assert blurred[2:-2, 2:-2].mean() == pytest.approx(0.5, abs=0.01)
    enlarged = replace(p, resize=ExactSize(90, 90))
    assert torch.equal(prepare(image, enlarged), prepare(image, replace(enlarged, blur=True)))


def test_a_box_in_a_letterbox_by_hand() -> None:
    """100 x 50 pixels become 32 x 64 with a left margin of 16: half of the image is a quarter of the input."""
    placement = Placement(64, 64, 0, 16, 64, 32)
    left_half = torch.tensor([0.0, 0, 25, 100])
    relative = from_pixels(left_half, 100, 50, placement)
    torch.testing.assert_close(relative, torch.tensor([24 / 64, 0.5, 0.25, 1]))
    torch.testing.assert_close(to_pixels(relative, 100, 50, placement), left_half)


def test_boxes_of_a_sample_follow_its_pixels() -> None:
    """A white box on black, through a letterbox."""
    image = Image.new("RGB", (100, 50))
    image.paste((255, 255, 255), (20, 10, 60, 40))
    sample = make_sample(image, {"boxes": torch.tensor([[20.0, 10, 60, 40]]), "labels": torch.tensor([1])})
    pixels, target = to_input(sample, replace(PLAIN, resize=Letterbox(128, 128)))
    y, x = np.nonzero(pixels[0].numpy() > 0.5)
    box = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
    np.testing.assert_allclose(cxcywh_to_xyxy(target.boxes)[0] * 128, box, rtol=0, atol=1)


@pytest.mark.parametrize("rule", [ExactSize(40, 70), Letterbox(64, 48)], ids=str)
def test_augmentation_keeps_a_fixed_input_size(rule: Resize) -> None:
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        sample = make_sample(IMAGE, {"boxes": torch.tensor([[5.0, 5, 50, 40]]), "labels": torch.tensor([0])})
        pixels, target = to_input(*augment(sample, Preprocessing(rule), g))
        assert pixels.shape == (3, rule.height, rule.width)
        assert ((cxcywh_to_xyxy(target.boxes) > -1e-6) & (cxcywh_to_xyxy(target.boxes) < 1 + 1e-6)).all()


@pytest.mark.parametrize("rescale_first", [False, True])
def test_torchvision_uses_the_same_canvas(rescale_first: bool) -> None:
    by_pillow = replace(PLAIN, resize=Letterbox(48, 60))
    by_torchvision = replace(by_pillow, backend="torchvision", rescale_first=rescale_first)
    a, b = (prepare(IMAGE, p) for p in (by_pillow, by_torchvision))
    assert a.shape == b.shape
    assert (a - b).abs().max() < 2.1 / 255


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
    placement, expected = ShortestEdge(*limits).place(h, w), published_size(w, h, *limits)
    assert min(placement.image_size) >= 1
    if min(expected) >= 1:
        assert placement == Placement.filling(*expected)


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
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    p = Preprocessing()
    pixels = prepare(image, p)
    placement = p.resize.place(size[1], size[0])
    levels = values(image.resize((placement.width, placement.height), Image.Resampling.BILINEAR))
    torch.testing.assert_close(pixels, normalize(levels, [*p.mean], [*p.std]), rtol=0, atol=2e-6)
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
