"""Boxes, masks, labels and curves are drawn where they are, and colors differ."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detrcli.errors import UsageError
from detrcli.render import draw
from detrcli.render.color import PALETTE, color_of, contrast
from detrcli.render.plot import BOTTOM, HEIGHT, LEFT, RIGHT, SCALE, TOP, WIDTH, Panel, plot, ticks
from detrcli.run_lengths import MaskRows, encode
from detrcli.structures import Detections

RED = (200, 0, 0)


def detections(boxes: list[tuple[float, ...]], names: list[str] | None = None) -> Detections:
    n = len(boxes)
    return Detections(
        boxes=np.array(boxes, dtype=np.float32).reshape(n, 4),
        scores=np.linspace(0.9, 0.5, n, dtype=np.float32),
        category_ids=np.arange(n),
        queries=np.arange(n),
        labels=np.array(names or ["thing"] * n),
    )


def crowd(n: int, width: int, height: int) -> Detections:
    rng = np.random.default_rng(n)
    center, size = rng.uniform(0, 1, (n, 2)), rng.uniform(0.05, 0.5, (n, 2))
    corners = np.concatenate([center - size / 2, center + size / 2], 1).clip(0, 1)
    return detections((corners * (width, height, width, height)).tolist())


@pytest.fixture
def plates(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, ...]]:
    """The places of labels."""
    places: list[tuple[float, ...]] = []
    write = draw.write

    def recorded(canvas: object, place: tuple[float, ...], *rest: object) -> None:
        places.append(place)
        write(canvas, place, *rest)

    monkeypatch.setattr(draw, "write", recorded)
    return places


def test_the_best_class_of_a_query_is_drawn(plates: list[tuple[float, ...]]) -> None:
    """A query with three classes has a single label, in the color of the best."""
    box = (100.0, 80.0, 301.0, 221.0)
    found = replace(detections([box, box, box]), queries=np.zeros(3, dtype=np.int64))
    found = found.part(np.array([2, 0, 1]))
    drawn = draw.draw_detections(Image.new("RGB", (400, 300), "gray"), found)
    assert len(plates) == 1
    assert drawn.getpixel((100, 150)) == color_of(0)


@pytest.mark.parametrize("width", [1, 4, 11])
def test_the_width_of_lines(width: int, plates: list[tuple[float, ...]]) -> None:
    style = draw.DrawingStyle(line_width=width, labels=False)
    row = np.asarray(draw.draw_detections(Image.new("RGB", (400, 300)), detections([(100, 80, 301, 221)]), style))[150]
    half = (width - 1) // 2
    left, right = range(100 - half, 100 - half + width), range(301 + half - width, 301 + half)
    assert (row == color_of(0)).all(1).nonzero()[0].tolist() == [*left, *right]
    assert not plates
    masks = [(np.ones((60, 60), dtype=bool), (0, 0, 0))]
    shades = np.asarray(draw.overlay_masks(np.full((60, 60, 3), 255, np.uint8), masks, width))[30, :, 0]
    assert (shades < 60).nonzero()[0].tolist() == [*range(width), *range(60 - width, 60)]


def test_hidden_labels_need_no_enlarged_image(plates: list[tuple[float, ...]]) -> None:
    small = Image.new("RGB", (40, 30))
    assert draw.draw_detections(small, detections([(4, 4, 20, 20)]), draw.DrawingStyle(labels=False)).size == (40, 30)
    assert draw.draw_detections(small, detections([(4, 4, 20, 20)])).size != (40, 30)
    assert len(plates) == 1
    with pytest.raises(UsageError, match="line_width"):
        draw.DrawingStyle(line_width=0)


def test_a_box_is_drawn_where_it_is() -> None:
    image = Image.new("RGB", (400, 300), "gray")
    drawn = draw.draw_detections(image, detections([(100, 80, 301, 221)]))
    assert drawn.size == image.size
    for at in ((100, 150), (300, 150), (200, 80), (200, 220)):
        assert drawn.getpixel(at) == color_of(0)
    for at in ((90, 150), (110, 150), (200, 150), (390, 290)):
        assert drawn.getpixel(at) == (128, 128, 128)
    assert image.getcolors() == [(400 * 300, (128, 128, 128))]
    np.testing.assert_array_equal(np.asarray(draw.draw_detections(image, detections([]))), np.asarray(image))


@pytest.mark.parametrize(("n", "size"), [(1, (640, 480)), (100, (640, 480)), (100, (6000, 800)), (12, (60, 45))])
def test_labels_do_not_overlap_nor_hide_the_image(
    plates: list[tuple[float, ...]], n: int, size: tuple[int, int]
) -> None:
    drawn = draw.draw_detections(Image.new("RGB", size), crowd(n, *size))
    assert plates
    assert not any(draw.overlap(a, b) for a, b in itertools.combinations(plates, 2))
    for x0, y0, x1, y1 in plates:
        assert 0 <= x0 < x1 <= drawn.width
        assert 0 <= y0 < y1 <= drawn.height
    area = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in plates)
    assert area <= draw.LABEL_SHARE * drawn.width * drawn.height


@pytest.mark.parametrize(
    "box", [(-50, -50, 900, 900), (5, 5, 5, 5), (300, 200, 320, 240), (0, 0, 320, 240), (9, 9, 8, 8)]
)
def test_boxes_at_and_beyond_the_edge(box: tuple[float, ...], plates: list[tuple[float, ...]]) -> None:
    draw.draw_detections(Image.new("RGB", (320, 240)), detections([box]))
    assert len(plates) == 1


@pytest.mark.parametrize(
    ("size", "expected"),
    [((60, 45), (360, 270)), ((1, 1), (240, 240)), ((5000, 2), (5000, 2)), ((320, 160), (320, 160))],
)
def test_small_images_are_enlarged(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert draw.draw_detections(Image.new("RGB", size), detections([(0, 0, 9, 1)])).size == expected


@pytest.mark.parametrize("name", ["", " ", "x" * 500, "狗", "کلب", "a\nb", "\x1b[31m", "[/x]", "👩‍🚀"])
def test_any_name_can_be_written(name: str) -> None:
    draw.draw_detections(Image.new("RGB", (320, 240)), detections([(20, 30, 90, 120)], [name]))


def test_colors_differ() -> None:
    """Those of COCO's classes, and the first twenty by far; and a label's text differs from its plate."""
    for count, minimum in ((20, 45), (91, 20)):
        colors = np.array([color_of(i) for i in range(count)], dtype=float)
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(colors, 2)) > minimum
    assert color_of(4_000_000_007) == color_of(np.int64(4_000_000_007))
    assert contrast((255, 255, 0)) == (0, 0, 0)
    assert contrast((0, 0, 120)) == (255, 255, 255)


def test_eroded() -> None:
    mask, expected = np.zeros((9, 9), dtype=bool), np.zeros((9, 9), dtype=bool)
    mask[1:8, 2:8] = True
    expected[3:6, 4:6] = True
    assert np.array_equal(draw.eroded(mask, 2), expected)
    assert not draw.eroded(np.ones((4, 4), dtype=bool), 2).any()


def disc(height: int, width: int, x: int, y: int, radius: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def test_masks_have_a_translucent_fill_and_a_thin_outline() -> None:
    image = np.full((100, 140, 3), 100, np.uint8)
    mask = disc(100, 140, 60, 50, 30)
    drawn = np.asarray(draw.overlay_masks(image, [(mask, RED), (np.zeros_like(mask), RED)]))
    assert np.array_equal(drawn[~mask], image[~mask])
    for at, opacity in (((50, 60), draw.MASK_OPACITY), ((50, 30), draw.OUTLINE_OPACITY)):
        red, other = round(100 + opacity * 100), round(100 - opacity * 100)
        assert drawn[at].tolist() == [red, other, other]
    outline = (drawn[..., 0] == round(100 + draw.OUTLINE_OPACITY * 100)).sum()
    assert 0.5 < outline / (2 * np.pi * 30) < 2  # about a pixel wide


def test_detections_with_masks_have_no_frames() -> None:
    found = detections([(60, 60, 141, 141)])
    found = Detections(**{**vars(found), "masks": MaskRows((200, 300), [encode(disc(200, 300, 100, 100, 40))])})
    drawn = np.asarray(draw.draw_detections(Image.new("RGB", (300, 200), (90, 90, 90)), found))
    assert (drawn[139, 60:70] == 90).all()  # a corner of the box
    assert (drawn[100, 100] != 90).any()
    assert (drawn[:60] != 90).any()  # the label


numbers = st.floats(-1e6, 1e6).map(lambda value: round(value, 6))


@given(numbers, numbers)
def test_ticks_enclose_a_range(a: float, b: float) -> None:
    low, high = sorted((a, b))
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    assert found == sorted(set(found))
    tolerance = 1e-6 * max(1, abs(low), abs(high))
    assert found[0] <= low + tolerance
    assert found[-1] >= high - tolerance


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 100, [0, 20, 40, 60, 80, 100]), (0, 13.4, [0, 5, 10, 15])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected
    assert ticks(1, 3, whole=True) == [1, 2, 3]
    assert ticks(1, 1, whole=True) == [0, 1, 2]


def places_of(image: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return np.argwhere((image == color).all(-1))


def test_a_line_goes_from_corner_to_corner() -> None:
    image = np.asarray(plot([Panel("t", "x", {"": [(0, 0.0), (4, 1.0)]}, y_min=0, y_max=1)]))
    ink = places_of(image, PALETTE[0])
    ink = ink[ink[:, 0] > SCALE * (TOP - 8)]  # below the legend
    left, right = ink[ink[:, 1].argmin()], ink[ink[:, 1].argmax()]
    assert abs(left - (SCALE * (HEIGHT - BOTTOM), SCALE * LEFT)).max() <= 3 * SCALE
    assert abs(right - (SCALE * TOP, SCALE * (WIDTH - RIGHT))).max() <= 3 * SCALE


def test_values_that_are_not_finite_are_omitted() -> None:
    for points in ([], [(1, float("nan"))]):
        image = np.asarray(plot([Panel("t", "x", {"a": points})]))
        assert not len(places_of(image[SCALE * TOP :], PALETTE[0]))
    assert plot([Panel("t", "x", {"a": [(1, float("nan")), (2, 5.0)]})]).size == (SCALE * WIDTH, SCALE * HEIGHT)


def test_more_curves_than_colors() -> None:
    """The color of the first curve is used again, dashed, in the plot and in the legend."""
    curves = {f"curve {i}": [(0.0, 0.1 * i), (10.0, 0.1 * i)] for i in range(len(PALETTE) + 1)}
    image = np.asarray(plot([Panel("AP", "epochs", curves, 0)]))
    blue = (image == PALETTE[0]).all(-1).sum(1)  # by row
    whole, dashed = sorted(blue[blue > blue.max() / 4])[-2:][::-1], blue[blue > blue.max() / 4].min()
    assert 0.4 < dashed / whole[0] < 0.6
