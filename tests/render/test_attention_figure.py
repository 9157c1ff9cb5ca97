"""Attention as figures, tables, JSON, arrays and a page."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from letterbox import Letterbox
from PIL import Image
from small import TINY, noise, small_weights

from detrcli.errors import UsageError
from detrcli.inference.detector import Detector
from detrcli.inspection.attention import SampledPoints
from detrcli.inspection.look import Kind
from detrcli.inspection.look import inspect_attention as findings_of
from detrcli.render import attention_figure as figures
from detrcli.render.attention_report import AttentionReport
from detrcli.render.color import color_of, heat
from detrcli.render.draw import Mark


def spot(row: int, column: int, shape: tuple[int, int] = (6, 8)) -> np.ndarray:
    map_ = np.zeros(shape, dtype=np.float32)
    map_[row, column] = 1
    return map_


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 5), (5, 7)])
def test_the_brightest_place_is_in_its_cell(row: int, column: int) -> None:
    values = figures.smooth(spot(row, column), (160, 90))
    assert values.shape == (90, 160)
    assert 0 <= values.min() <= values.max() <= 1
    drawn = np.asarray(figures.overlay(Image.new("RGB", (160, 90), "gray"), spot(row, column))).sum(-1)
    for brightness in (values, drawn):
        y, x = np.unravel_index(brightness.argmax(), brightness.shape)
        assert (int(y / 15), int(x / 20)) == (row, column)


def test_uniform_maps() -> None:
    for map_ in (np.full((3, 4), 1 / 12), np.zeros((3, 4))):
        assert np.isfinite(figures.smooth(map_, (40, 30))).all()
        assert len(np.unique(np.asarray(figures.overlay(Image.new("RGB", (40, 30)), map_)).reshape(-1, 3), axis=0)) == 1


def test_a_letterbox() -> None:
    """The image is in the middle half of the input, so the third cell of eight is its first."""
    placement = Letterbox(64, 128).place(48, 48)
    gray = Image.new("RGB", (160, 160), "gray")
    drawn = np.asarray(figures.overlay(gray, spot(0, 2), placement)).sum(-1)
    y, x = np.unravel_index(drawn.argmax(), drawn.shape)
    assert (int(y / (160 / 6)), int(x / 40)) == (0, 0)
    outside = np.asarray(figures.overlay(gray, spot(0, 0), placement)).sum(-1)
    assert np.ptp(outside) < np.ptp(drawn) / 4


def places_of(image: Image.Image, color: tuple[int, int, int]) -> np.ndarray:
    """Return rows and columns of the pixels of a color, (n, 2)."""
    return np.argwhere((np.asarray(image) == color).all(-1))


@pytest.mark.parametrize("size", [(128, 128), (640, 427), (40, 700), (900, 30), (1500, 1000)])
@pytest.mark.parametrize("tiles", [1, 8, 100])
def test_tiles_of_any_size_and_number(size: tuple[int, int], tiles: int) -> None:
    """A tile fills its cell, frames are where boxes are, and the figure has all tiles."""
    mark = Mark((size[0] * 0.2, size[1] * 0.2, size[0] * 0.8, size[1] * 0.9), "17 dog", 18, 0.5)
    image, tile = Image.new("RGB", size), figures.Tile("c", spot(1, 1), marks=[mark])
    with_box, without = (
        np.asarray(figures.draw_tile(image, item, 240)).astype(int) for item in (tile, figures.Tile("c", spot(1, 1)))
    )
    assert max(with_box.shape) == 240
    changed = (abs(with_box - without) > 10).any(-1)
    scale = min(240 / size[0], (240 - figures.STRIP) / size[1])
    left = (with_box.shape[1] - round(scale * size[0])) // 2
    for x, y in ((0.2, 0.55), (0.8, 0.55), (0.5, 0.2), (0.5, 0.9)):  # the centers of the edges
        column, row = round(left + x * scale * size[0]), round(y * scale * size[1])
        assert changed[max(0, row - 4) : row + 4, max(0, column - 4) : column + 4].any(), (x, y)
    frames = places_of(figures.tiles_figure(image, "", [tile] * tiles), color_of(18))
    if min(size) * scale >= 160:  # else the image is enlarged and reduced, which changes colors
        rows = set((frames[:, 0] // 60).tolist())
        assert len(rows) >= {1: 1, 8: 3, 100: 10}[tiles]


def test_sampled_points_are_sized_by_their_weight() -> None:
    """A large point at the top left, a small one at the bottom right, the reference in the center."""
    sampled = SampledPoints(
        points=np.array([[[[20.0, 20.0], [80.0, 80.0]]]]),
        weights=np.array([[[0.9, 0.1]]]),
        references=np.array([50.0, 50.0, 30.0, 40.0]),
    )
    tile = figures.draw_tile(Image.new("RGB", (100, 100)), figures.Tile("c", spot(3, 3), sampled), 240)
    scale = (240 - figures.STRIP) / 100
    left = (tile.width - 240 + figures.STRIP) // 2
    dots = places_of(tile, figures.WHITE)
    dots = dots[dots[:, 0] < 240 - figures.STRIP] - (0, left)  # row and column in the image
    large, small = ((np.hypot(*(dots - scale * at).T) <= 8).sum() for at in (20, 80))
    assert large > 3 * small > 0
    cross = places_of(tile, figures.MARKER) - (0, left)
    center = cross[np.hypot(*(cross - scale * 50).T) <= 9]
    assert abs(center.mean(0) - scale * 50).max() <= 1
    assert abs(cross[:, 0].min() - scale * 30) <= 2  # the reference's box
    assert abs(cross[:, 1].max() - scale * 65) <= 2


def test_a_long_title_is_wrapped() -> None:
    """All words are drawn: there is as much ink as in the words alone."""
    white = Image.new("RGB", (64, 64), "white")

    def ink(title: str) -> tuple[int, int]:
        figure = figures.tiles_figure(white, title, [figures.Tile("c")])
        return int((np.asarray(figure.convert("L")) < 128).sum()), figure.height

    (none, height), (word, _), (many, taller) = ink(""), ink("word"), ink("word " * 60)
    assert taller > height
    assert many - none == pytest.approx(60 * (word - none), rel=0.1)


@pytest.mark.parametrize("queries", [1, 8, 100])
def test_rows_of_a_matrix_are_the_queries_that_attend(queries: int) -> None:
    values = np.zeros((queries, queries))
    values[queries - 1, 0] = 1
    names = [f"{i} thing" for i in range(queries)]
    page = figures.draw_matrix(values, names, list(map(str, range(queries))))
    cells = np.asarray(page)[: -figures.STRIP].astype(int)
    y, x = (axis.mean() for axis in np.nonzero((cells == heat(np.array(1.0))).all(-1)))
    side = (page.height - 20 - figures.STRIP) / queries
    assert int((y - 20) / side) == queries - 1
    left = page.width - side * queries
    assert queries == 1 or int((x - left) / side) == 0
    several = figures.matrices_figure("t", [(page, "a")] * 6)
    assert (np.asarray(several) == heat(np.array(1.0))).all(-1).sum() >= 6  # at least a pixel in each


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(small_weights(TINY), "cpu")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    noise().save(tmp_path / "a.png")
    return tmp_path / "a.png"


def look(detector: Detector, image: Any, **options: Any) -> AttentionReport:
    return AttentionReport(findings_of(detector, image, **options))


@pytest.mark.parametrize("kind", ["cross", "encoder", "self", "relevance", "faithfulness"])
def test_every_kind_has_every_form(detector: Detector, image: Path, kind: Kind) -> None:
    report = look(detector, image, kind=kind, **({"points": [(3, 5)]} if kind == "encoder" else {"queries": [5, 0]}))
    document = json.loads(json.dumps(report.document, allow_nan=False))
    assert (document["file"], document["width"], document["height"]) == ("a.png", 90, 60)
    assert document["cells"] == list(report.findings.record.forward.cells)
    assert document["layers"] == [1 if kind == "encoder" else 2] == report.arrays["layers"].tolist()
    assert report.arrays["image_size"].tolist() == [60, 90]
    assert {len(row) for row in report.findings.table.rows} == {len(report.findings.table.columns)}
    sums = report.maps.sum(-1) if kind == "self" else report.maps.sum((-2, -1))
    np.testing.assert_allclose(sums, 1, rtol=1e-5)
    assert report.figure.mode == "RGB"
    assert report.figure is report.figure  # drawn once
    assert report._repr_png_().startswith(b"\x89PNG")


def test_a_figure_has_the_boxes_of_its_queries(detector: Detector, image: Path) -> None:
    """In the colors of their classes."""
    report = look(detector, image, threshold=0)
    figure = np.asarray(report.figure)
    assert len(report.findings.queries) == 9
    for category in {report.findings.record.prediction(-1, query).category_id for query in range(9)}:
        assert (figure == color_of(category)).all(-1).any()


def test_files_images_and_arrays(detector: Detector, image: Path) -> None:
    with Image.open(image) as opened_image:
        loaded = opened_image.convert("RGB")
    maps = look(detector, image, queries=[1]).maps
    for source in (str(image), loaded, np.asarray(loaded)):
        np.testing.assert_array_equal(look(detector, source, queries=[1]).maps, maps)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"queries": [9]}, "`queries=9`"),
        ({"layers": "3"}, "`layers=3`"),
        ({"heads": 4}, "`heads=4`"),
        ({"kind": "encoder", "points": [(90, 0)]}, "`points=90,0`"),
        ({"kind": "encoder"}, "`points`"),
        ({"points": [(1, 1)]}, "`points`"),
        ({"kind": "mask", "layers": "all"}, "`layers=all`"),
        ({"masks": []}, "`masks`"),
    ],
)
def test_usage_errors(detector: Detector, image: Path, options: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        look(detector, image, **options)
