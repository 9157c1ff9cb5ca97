"""Maps lie over the picture where their cells are, in the colours of the scale."""

import numpy as np
import pytest
from PIL import Image

from detrcli.render.attention_figure import (
    Matrix,
    Tile,
    attention_sheet,
    draw_matrix,
    draw_tile,
    matrix_sheet,
    overlay,
    smooth,
    stacked,
)
from detrcli.render.colour import heat
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
        assert (
            len(np.unique(np.asarray(overlay(Image.new("RGB", (40, 30)), map_)).reshape(-1, 3), axis=0)) == 1
        )


@pytest.mark.parametrize("size", [(128, 128), (640, 427), (40, 700), (900, 30), (1, 1), (3000, 2000)])
@pytest.mark.parametrize("tiles", [1, 8, 100])
def test_every_size_and_number_gives_a_sheet(size: tuple[int, int], tiles: int) -> None:
    if tiles == 100 and size[0] == 3000:
        size = (1500, 1000)
    mark = Mark((size[0] * 0.2, size[1] * 0.2, size[0] * 0.8, size[1] * 0.9), "17 dog", 18, 0.5)
    page = attention_sheet(Image.new("RGB", size), "t" * 30, [Tile("c", spot(1, 1), [mark])] * tiles)
    assert 240 <= page.width <= 2600
    cell = draw_tile(Image.new("RGB", size), Tile("c", spot(1, 1), [mark]), 240)
    assert max(cell.size) == 240


def test_a_long_title_is_broken_and_not_cut() -> None:
    short, long = (
        attention_sheet(Image.new("RGB", (64, 64)), text, [Tile("c", spot(1, 1))]).height
        for text in ("word", "word " * 60)
    )
    assert long >= short + 44


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
    assert matrix_sheet("t", [Matrix("a", values, names, names)] * 6).width <= 1900


def test_pages_are_stacked_as_wide_as_the_first() -> None:
    pages = [Image.new("RGB", (100, 30), "red"), Image.new("RGB", (200, 100), "blue")]
    whole = stacked(pages)
    assert whole.size == (100, 80)
    assert whole.getpixel((50, 60)) == (0, 0, 255)
