"""Maps lie over the picture where their cells are, in the colours of the scale."""

import numpy as np
import pytest
from letterbox import Letterbox
from PIL import Image

from detrcli.render.attention_figure import (
    BLUE,
    STRIP,
    WHITE,
    Matrix,
    Samples,
    Tile,
    draw_matrix,
    draw_tile,
    matrix_figure,
    overlay,
    smooth,
    stacked,
    tiles_figure,
)
from detrcli.render.colour import colour_of, heat
from detrcli.render.draw import Mark


def spot(row: int, column: int, shape: tuple[int, int] = (6, 8)) -> np.ndarray:
    map_ = np.zeros(shape, dtype=np.float32)
    map_[row, column] = 1
    return map_


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 5), (5, 7)])
def test_the_brightest_place_is_its_cell(row: int, column: int) -> None:
    values = smooth(spot(row, column), (160, 90))
    y, x = np.unravel_index(values.argmax(), values.shape)
    assert (int(y / 15), int(x / 20)) == (row, column)
    assert values.shape == (90, 160)
    assert 0 <= values.min() <= values.max() <= 1
    shown = np.asarray(overlay(Image.new("RGB", (160, 90), "grey"), spot(row, column))).sum(-1)
    y, x = np.unravel_index(shown.argmax(), shown.shape)
    assert (int(y / 15), int(x / 20)) == (row, column)


def test_an_even_map_and_none_at_all() -> None:
    for map_ in (np.full((3, 4), 1 / 12), np.zeros((3, 4))):
        assert np.isfinite(smooth(map_, (40, 30))).all()
        assert len(np.unique(np.asarray(overlay(Image.new("RGB", (40, 30)), map_)).reshape(-1, 3), axis=0)) == 1


def test_in_a_letterbox_the_cells_of_the_picture_alone_are_over_it() -> None:
    """The picture lies in the middle half of the input: the third cell of eight is its first."""
    placement = Letterbox(64, 128).place(48, 48)
    grey = Image.new("RGB", (160, 160), "grey")
    shown = np.asarray(overlay(grey, spot(0, 2), placement)).sum(-1)
    y, x = np.unravel_index(shown.argmax(), shown.shape)
    assert (int(y / (160 / 6)), int(x / 40)) == (0, 0)
    outside = np.asarray(overlay(grey, spot(0, 0), placement)).sum(-1)
    assert np.ptp(outside) < np.ptp(shown) / 4


def places_of(picture: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    """Rows and columns of the pixels of a colour, (n, 2)."""
    return np.argwhere((np.asarray(picture) == colour).all(-1))


@pytest.mark.parametrize("size", [(128, 128), (640, 427), (40, 700), (900, 30), (1500, 1000)])
@pytest.mark.parametrize("tiles", [1, 8, 100])
def test_a_tile_shows_its_box_whatever_the_size_and_number(size: tuple[int, int], tiles: int) -> None:
    """A frame stands where the box is, in a tile that fills its cell; and each of many has its tile."""
    mark = Mark((size[0] * 0.2, size[1] * 0.2, size[0] * 0.8, size[1] * 0.9), "17 dog", 18, 0.5)
    picture, tile = Image.new("RGB", size), Tile("c", spot(1, 1), marks=[mark])
    with_box, without = (np.asarray(draw_tile(picture, one, 240)).astype(int) for one in (tile, Tile("c", spot(1, 1))))
    assert max(with_box.shape) == 240
    changed = (abs(with_box - without) > 10).any(-1)
    scale = min(240 / size[0], (240 - STRIP) / size[1])
    left = (with_box.shape[1] - round(scale * size[0])) // 2
    for x, y in ((0.2, 0.55), (0.8, 0.55), (0.5, 0.2), (0.5, 0.9)):  # the middles of its edges
        column, row = round(left + x * scale * size[0]), round(y * scale * size[1])
        assert changed[max(0, row - 4) : row + 4, max(0, column - 4) : column + 4].any(), (x, y)
    frames = places_of(tiles_figure(picture, "", [tile] * tiles), colour_of(18))
    if min(size) * scale >= 160:  # where it is not drawn larger, the frame has the colour of its class
        rows = set((frames[:, 0] // 60).tolist())
        assert len(rows) >= {1: 1, 8: 3, 100: 10}[tiles]


def test_samples_lie_over_the_map_by_their_weight() -> None:
    """A heavy point at the top left, a light one at the bottom right; the reference's cross in the middle."""
    samples = Samples(
        points=np.array([[[[20.0, 20.0], [80.0, 80.0]]]]),
        weights=np.array([[[0.9, 0.1]]]),
        reference=np.array([50.0, 50.0, 30.0, 40.0]),
    )
    tile = draw_tile(Image.new("RGB", (100, 100)), Tile("c", spot(3, 3), samples), 240)
    scale = (240 - STRIP) / 100
    left = (tile.width - 240 + STRIP) // 2
    dots = places_of(tile, WHITE)
    dots = dots[dots[:, 0] < 240 - STRIP] - (0, left)  # row, column in the picture
    heavy, light = ((np.hypot(*(dots - scale * at).T) <= 8).sum() for at in (20, 80))
    assert heavy > 3 * light > 0
    cross = places_of(tile, BLUE) - (0, left)
    middle = cross[np.hypot(*(cross - scale * 50).T) <= 9]
    assert abs(middle.mean(0) - scale * 50).max() <= 1
    assert abs(cross[:, 0].min() - scale * 30) <= 2  # the reference's box
    assert abs(cross[:, 1].max() - scale * 65) <= 2


def text_rows(picture: Image.Image) -> np.ndarray:
    """Which rows of a figure have ink, (height,) bool."""
    rows: np.ndarray = (np.asarray(picture.convert("L")) < 128).any(1)
    return rows


def test_a_long_title_is_broken_and_not_cut() -> None:
    """Every word stands in it: as much ink as the words have one by one, above the same picture."""
    white = Image.new("RGB", (64, 64), "white")

    def ink(title: str) -> tuple[int, int]:
        figure = tiles_figure(white, title, [Tile("c")])
        return int((np.asarray(figure.convert("L")) < 128).sum()), figure.height

    (none, height), (one, _), (many, taller) = ink(""), ink("word"), ink("word " * 60)
    assert taller > height
    assert many - none == pytest.approx(60 * (one - none), rel=0.1)


@pytest.mark.parametrize("queries", [1, 8, 100])
def test_a_matrix_has_those_who_look_down_its_side(queries: int) -> None:
    values = np.zeros((queries, queries))
    values[queries - 1, 0] = 1
    names = [f"{i} thing" for i in range(queries)]
    page = draw_matrix(Matrix("layer 0", values, names, list(map(str, range(queries)))))
    shown = np.asarray(page)[:-22].astype(int)  # without the scale
    bright = (shown == heat(np.array(1.0))).all(-1)
    y, x = (axis.mean() for axis in np.nonzero(bright))
    side = (page.height - 42) / queries
    assert int((y - 20) / side) == queries - 1
    left = page.width - side * queries
    assert queries == 1 or int((x - left) / side) == 0
    several = matrix_figure("t", [Matrix("a", values, names, names)] * 6)
    brightest = (np.asarray(several) == heat(np.array(1.0))).all(-1)
    assert brightest.sum() >= 6  # each of the six has its own


def test_pages_are_stacked_as_wide_as_the_first() -> None:
    pages = [Image.new("RGB", (100, 30), "red"), Image.new("RGB", (200, 100), "blue")]
    whole = stacked(pages)
    assert whole.size == (100, 80)
    assert whole.getpixel((50, 60)) == (0, 0, 255)
