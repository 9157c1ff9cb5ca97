"""The rules that bring a picture to the network's size: where it comes to lie, its pixels, and its boxes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import counted, seeds
from hypothesis import strategies as st
from letterbox import Letterbox
from PIL import Image

from detrcli.boxes import cxcywh_to_xyxy, from_pixels, to_pixels
from detrcli.config import Preprocessing
from detrcli.data.augmentation import augment, make_sample
from detrcli.data.dataset import to_input
from detrcli.data.preprocessing import as_image, prepare
from detrcli.errors import UsageError
from detrcli.resize import ExactSize, PaddedSquare, Placement, Resize, ShortestEdge

RULES = [
    ShortestEdge(60, 90),
    ShortestEdge(60, 90, divisor=32),
    ExactSize(40, 70),
    Letterbox(64, 48),
    Letterbox(48, 64),
]
PLAIN = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))  # values in [0, 1] as they are


def picture(height: int = 50, width: int = 81) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def in_unit(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


@pytest.mark.parametrize(
    ("rule", "size", "expected"),
    [
        (ExactSize(480, 640), (100, 30), Placement(480, 640, 0, 0, 480, 640)),
        (Letterbox(640, 640), (480, 640), Placement(640, 640, 80, 0, 480, 640)),
        (Letterbox(64, 64), (100, 50), Placement(64, 64, 0, 16, 64, 32)),
        (Letterbox(64, 64), (10, 20), Placement(64, 64, 16, 0, 32, 64)),  # a small one grows
        (Letterbox(64, 64), (64, 64), Placement(64, 64, 0, 0, 64, 64)),
        (Letterbox(64, 64), (1, 6400), Placement(64, 64, 31, 0, 1, 64)),
        (PaddedSquare(64, 64), (100, 50), Placement(64, 64, 0, 0, 64, 32)),
        (PaddedSquare(960, 960), (427, 640), Placement(960, 960, 0, 0, 640.5, 960)),
        (PaddedSquare(64, 64), (7, 7), Placement(64, 64, 0, 0, 64, 64)),
        (ShortestEdge(800, 1333, divisor=32), (480, 640), Placement(800, 1056, 0, 0, 800, 1056)),
        (ShortestEdge(800, 1333, divisor=32), (640, 480), Placement(1056, 800, 0, 0, 1056, 800)),
        (ShortestEdge(800, 1333, divisor=32), (9000, 1), Placement(1344, 32, 0, 0, 1344, 32)),
    ],
)
def test_placements_by_hand(rule: Resize, size: tuple[int, int], expected: Placement) -> None:
    placement = rule.place(*size)
    assert placement == expected
    assert placement.fills is not (isinstance(rule, Letterbox | PaddedSquare) and size[0] != size[1])


def test_sizes_that_are_asked_for() -> None:
    """A rule of one size grows in proportion, and has no longer side to set."""
    assert ShortestEdge(800, 1333, 32).with_size(400, None) == ShortestEdge(400, 1333, 32)
    assert ShortestEdge(800, 1333).with_size(None, 999) == ShortestEdge(800, 999)
    assert ShortestEdge(800, 1333).grown(400) == ShortestEdge(400, 666)
    assert ExactSize(480, 640).with_size(240, None) == ExactSize(240, 320)
    assert Letterbox(640, 640).with_size(320, None) == Letterbox(320, 320)
    assert Preprocessing(ExactSize(480, 640)).with_size() == Preprocessing(ExactSize(480, 640))
    for rule in (ExactSize(), Letterbox(), PaddedSquare()):
        with pytest.raises(UsageError, match="no --max-size"):
            Preprocessing(rule).with_size(max_size=900)


@pytest.mark.parametrize("value", [-1, 40_000, 1.5, "64", True, None])
def test_sides_are_whole_numbers_within_reason(value: object) -> None:
    for rule in (ShortestEdge, ExactSize, Letterbox):
        name = "size" if rule is ShortestEdge else "height"
        with pytest.raises(UsageError, match=f"{name} = .*whole number"):
            rule(value)


@pytest.mark.parametrize("filter", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_pixels_are_those_of_pillow(rule: Resize, filter: str) -> None:
    """Resized by Pillow and put where the rule says; around it nothing but grey."""
    image, placement = picture(), rule.place(50, 81)
    pixels = prepare(image, replace(PLAIN, resize=rule, filter=filter))
    assert pixels.shape == (3, placement.height, placement.width)
    size = placement.image_width, placement.image_height
    expected = torch.full_like(pixels, rule.grey / 255)
    rows = slice(placement.top, placement.top + size[1])
    columns = slice(placement.left, placement.left + size[0])
    expected[:, rows, columns] = in_unit(image.resize(size, Image.Resampling[filter.upper()]))
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)


def test_grey_is_normalised_with_the_picture() -> None:
    p = Preprocessing(Letterbox(64, 64, fill=51), mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.2))
    corner = prepare(picture(), p)[:, 0, 0]
    torch.testing.assert_close(corner, torch.tensor([0.2, 0, -0.5]))
    assert np.asarray(as_image(prepare(picture(), p), p))[0, 0].tolist() == [51, 51, 51]


def test_rescaled_first() -> None:
    """Then no value is rounded on the way; torch's own interpolation is what says so."""
    p = replace(PLAIN, resize=ExactSize(30, 40), rescale_first=True)
    expected = F.interpolate(in_unit(picture())[None], (30, 40), mode="bilinear", antialias=True)[0]
    torch.testing.assert_close(prepare(picture(), p), expected, rtol=0, atol=1e-6)
    steps = prepare(picture(), p) * 255
    assert (steps - steps.round()).abs().max() > 0.3
    rounded = prepare(picture(), replace(p, rescale_first=False)) * 255
    torch.testing.assert_close(rounded, rounded.round(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("rescale_first", [False, True])
def test_without_antialias(rescale_first: bool) -> None:
    """A pixel is made of the four around its place, however much the picture shrinks."""
    p = replace(PLAIN, resize=ExactSize(12, 20), antialias=False, rescale_first=rescale_first)
    expected = F.interpolate(in_unit(picture())[None], (12, 20), mode="bilinear")[0]
    # Where values are whole numbers on the way, they are rounded.
    tolerance = 1e-6 if rescale_first else 1.01 / 255
    torch.testing.assert_close(prepare(picture(), p), expected, rtol=0, atol=tolerance)
    assert (expected - prepare(picture(), replace(p, antialias=True))).abs().max() > 0.1


@counted(200, seeds(), st.sampled_from([*RULES, PaddedSquare(48, 48)]), st.integers(1, 300), st.integers(1, 300))
def test_boxes_there_and_back(g: torch.Generator, rule: Resize, height: int, width: int) -> None:
    """To the network's input and back to the picture, and inside of where the picture lies."""
    placement = rule.place(height, width)
    boxes = torch.rand(6, 2, 2, generator=g, dtype=torch.float64).sort(1).values.flatten(1)
    boxes = boxes * torch.tensor([width, height, width, height])
    there = from_pixels(boxes, height, width, placement)
    torch.testing.assert_close(to_pixels(there, height, width, placement), boxes, rtol=0, atol=1e-9)
    x0, y0, x1, y1 = cxcywh_to_xyxy(there).unbind(-1)
    p, tiny = placement, 1e-9
    assert (x0 * p.width >= p.left - tiny).all()
    assert (y0 * p.height >= p.top - tiny).all()
    assert (x1 * p.width <= p.left + p.image_width + tiny).all()
    assert (y1 * p.height <= p.top + p.image_height + tiny).all()


def test_padded_first() -> None:
    """What is added is part of what is resized: black flows into the picture's edge, and into nothing else."""
    image = Image.new("RGB", (80, 40), "white")
    pixels = prepare(image, replace(PLAIN, resize=PaddedSquare(20, 20)))[0]
    assert (pixels[:9] == 1).all()
    assert ((pixels[9:11] > 0) & (pixels[9:11] < 1)).all()
    assert (pixels[11:] == 0).all()


def test_blur_takes_out_what_is_too_fine() -> None:
    """Stripes that sampling alone makes coarse ones of; a picture that grows stays as it is."""
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    image = Image.fromarray(stripes)
    sampled = replace(PLAIN, resize=ExactSize(21, 21), antialias=False, rescale_first=True)
    sharp, blurred = (prepare(image, replace(sampled, blur=blur))[0] for blur in (False, True))
    assert sharp.std() > 0.25
    assert blurred[2:-2, 2:-2].std() < 0.05
    assert blurred[2:-2, 2:-2].mean() == pytest.approx(0.5, abs=0.01)
    grown = replace(sampled, resize=ExactSize(90, 90))
    assert torch.equal(prepare(image, grown), prepare(image, replace(grown, blur=True)))


def test_a_box_in_a_letterbox_by_hand() -> None:
    """100 x 50 pixels become 32 x 64 at the left margin 16: half of the picture is a quarter of the input."""
    placement = Letterbox(64, 64).place(100, 50)
    left_half = torch.tensor([0.0, 0, 25, 100])
    there = from_pixels(left_half, 100, 50, placement)
    torch.testing.assert_close(there, torch.tensor([24 / 64, 0.5, 0.25, 1]))
    torch.testing.assert_close(to_pixels(there, 100, 50, placement), left_half)


def test_boxes_of_a_sample_are_where_its_pixels_are() -> None:
    """A white box on black, through a letterbox into the network's input."""
    image = Image.new("RGB", (100, 50))
    image.paste((255, 255, 255), (20, 10, 60, 40))
    seen = make_sample(image, {"boxes": torch.tensor([[20.0, 10, 60, 40]]), "labels": torch.tensor([1])})
    pixels, target = to_input(seen, replace(PLAIN, resize=Letterbox(128, 128)))
    y, x = np.nonzero(pixels[0].numpy() > 0.5)
    found = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
    np.testing.assert_allclose(cxcywh_to_xyxy(target.boxes)[0] * 128, found, rtol=0, atol=1)


@pytest.mark.parametrize("rule", [ExactSize(40, 70), Letterbox(64, 48)], ids=str)
def test_augmentation_leaves_inputs_of_one_size(rule: Resize) -> None:
    """A model that takes one size gets it whatever is drawn."""
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        seen = make_sample(picture(), {"boxes": torch.tensor([[5.0, 5, 50, 40]]), "labels": torch.tensor([0])})
        pixels, target = to_input(*augment(seen, Preprocessing(rule), g))
        assert pixels.shape == (3, rule.height, rule.width)
        assert ((cxcywh_to_xyxy(target.boxes) > -1e-6) & (cxcywh_to_xyxy(target.boxes) < 1 + 1e-6)).all()


@pytest.mark.parametrize("rescale_first", [False, True])
def test_torchvision_leaves_the_same_canvas(rescale_first: bool) -> None:
    """Around a letterbox too, grey levels or shares of one."""
    by_pillow = replace(PLAIN, resize=Letterbox(48, 60))
    by_torchvision = replace(by_pillow, backend="torchvision", rescale_first=rescale_first)
    a, b = (prepare(picture(), p) for p in (by_pillow, by_torchvision))
    assert a.shape == b.shape
    assert (a - b).abs().max() < 2.1 / 255
