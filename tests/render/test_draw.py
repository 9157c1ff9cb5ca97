"""What is drawn: boxes where they are, labels that do not collide, colours that differ."""

import itertools

import numpy as np
import pytest
from detrcli.render.colour import colour_of, contrast
from PIL import Image

from detrcli.render import draw
from detrcli.render.draw import LABELS_SHARE, draw_detections, overlap
from detrcli.structures import Detections
from detrcli.system.text import escape_controls


def found(boxes: list[tuple[float, ...]], names: list[str] | None = None) -> Detections:
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
    centre, size = rng.uniform(0, 1, (n, 2)), rng.uniform(0.05, 0.5, (n, 2))
    corners = np.concatenate([centre - size / 2, centre + size / 2], 1).clip(0, 1)
    return found((corners * (width, height, width, height)).tolist())


@pytest.fixture
def plates(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, ...]]:
    """Where labels were written."""
    places: list[tuple[float, ...]] = []
    write = draw.write

    def watched(canvas: object, place: tuple[float, ...], *rest: object) -> None:
        places.append(place)
        write(canvas, place, *rest)

    monkeypatch.setattr(draw, "write", watched)
    return places


def test_box_is_drawn_where_it_is() -> None:
    image = Image.new("RGB", (400, 300), "grey")
    drawn = draw_detections(image, found([(100, 80, 301, 221)]))
    assert drawn.size == image.size
    for at in ((100, 150), (300, 150), (200, 80), (200, 220)):
        assert drawn.getpixel(at) == colour_of(0)
    for at in ((90, 150), (110, 150), (200, 150), (390, 290)):
        assert drawn.getpixel(at) == (128, 128, 128)
    assert image.getcolors() == [(400 * 300, (128, 128, 128))]


def test_nothing_found_changes_nothing() -> None:
    image = Image.effect_noise((320, 240), 60).convert("RGB")
    np.testing.assert_array_equal(np.asarray(draw_detections(image, found([]))), np.asarray(image))


@pytest.mark.parametrize(("n", "size"), [(1, (640, 480)), (100, (640, 480)), (100, (6000, 800)), (12, (60, 45))])
def test_labels_do_not_collide_nor_hide_the_picture(
    plates: list[tuple[float, ...]], n: int, size: tuple[int, int]
) -> None:
    drawn = draw_detections(Image.new("RGB", size), crowd(n, *size))
    assert plates
    assert not any(overlap(a, b) for a, b in itertools.combinations(plates, 2))
    for x0, y0, x1, y1 in plates:
        assert 0 <= x0 < x1 <= drawn.width
        assert 0 <= y0 < y1 <= drawn.height
    area = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in plates)
    assert area <= LABELS_SHARE * drawn.width * drawn.height


@pytest.mark.parametrize(
    "box", [(-50, -50, 900, 900), (5, 5, 5, 5), (300, 200, 320, 240), (0, 0, 320, 240), (9, 9, 8, 8)]
)
def test_boxes_at_and_beyond_the_edge(box: tuple[float, ...], plates: list[tuple[float, ...]]) -> None:
    draw_detections(Image.new("RGB", (320, 240)), found([box]))
    assert len(plates) == 1


def test_small_pictures_are_enlarged_whole() -> None:
    assert draw_detections(Image.new("RGB", (60, 45)), found([(5, 5, 30, 30)])).size == (360, 270)
    assert draw_detections(Image.new("RGB", (1, 1)), found([(0, 0, 1, 1)])).size == (240, 240)
    assert draw_detections(Image.new("RGB", (5000, 2)), found([(0, 0, 9, 1)])).size == (5000, 2)


@pytest.mark.parametrize("name", ["", " ", "x" * 500, "狗", "کلب", "a\nb", "\x1b[31m", "[/x]", "👩‍🚀"])
def test_any_name_can_be_written(name: str) -> None:
    draw_detections(Image.new("RGB", (320, 240)), found([(20, 30, 90, 120)], [name]))


def test_colours_can_be_told_apart() -> None:
    """Any two of COCO's classes, and the first twenty by far; each on its own label's text too."""
    for count, least in ((20, 45), (91, 20)):
        colours = np.array([colour_of(i) for i in range(count)], dtype=float)
        distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(colours, 2)]
        assert min(distances) > least
    assert colour_of(4_000_000_007) == colour_of(np.int64(4_000_000_007))
    assert contrast((255, 255, 0)) == (0, 0, 0)
    assert contrast((0, 0, 120)) == (255, 255, 255)


def test_control_and_bidi_characters_are_made_visible() -> None:
    assert escape_controls("a\x1b[31m\u202e\n\x7f\x9b\ud800b") == "a\\x1b[31m\\u202e\\n\\x7f\\x9b\\ud800b"
    assert escape_controls("Żubr 狗 👩‍🚀 é") == "Żubr 狗 👩‍🚀 é"
