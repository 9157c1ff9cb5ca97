"""Looking into a picture from Python: each kind with its figure, table, document and arrays."""

import json
from pathlib import Path

import numpy as np
import pytest
from browser import opened
from PIL import Image
from small import CONFIG, TINY, small_weights

from detrcli.errors import DataError, UsageError
from detrcli.inference.detector import Detector
from detrcli.render.attention_report import Kind, look
from detrcli.render.colour import colour_of


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(small_weights(TINY), "cpu")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.parametrize("kind", ["cross", "encoder", "self", "relevance", "faithfulness"])
def test_every_kind_is_told_in_all_ways(detector: Detector, picture: Path, kind: Kind) -> None:
    asked = {"points": [(3, 5)]} if kind == "encoder" else {"queries": [5, 0]}
    report = look(detector, picture, kind=kind, **asked)  # type: ignore[arg-type]  # by name
    document = json.loads(json.dumps(report.document, allow_nan=False))
    assert (document["file"], document["width"], document["height"]) == ("a.png", 90, 60)
    assert document["cells"] == list(report.record.forward.cells)
    assert document["layers"] == [1 if kind == "encoder" else 2] == report.arrays["layers"].tolist()
    assert report.arrays["image_size"].tolist() == [60, 90]
    assert {len(row) for row in report.rows} == {len(report.columns)}
    sums = report.maps.sum(-1) if kind == "self" else report.maps.sum((-2, -1))
    np.testing.assert_allclose(sums, 1, rtol=1e-5)
    assert report.figure.mode == "RGB"
    assert report.figure is report.figure  # drawn once


def test_a_figure_shows_the_boxes_of_its_queries(detector: Detector, picture: Path) -> None:
    """Each in the colour of its class."""
    report = look(detector, picture, threshold=0)
    figure = np.asarray(report.figure)
    for category in {said.category_id for said in map(report.record.prediction, [-1] * 9, report.queries)}:
        assert (figure == colour_of(category)).all(-1).any()


def test_every_layer_and_head_has_a_tile(detector: Detector, picture: Path) -> None:
    report = look(detector, picture, queries=[4], layers="all", heads="all")
    assert report.maps.shape[:3] == (3, 1, 4)
    assert len(report.rows) == 12
    one = look(detector, picture, queries=[4], layers=0, heads=2)
    np.testing.assert_array_equal(one.maps[0, :, 0], report.maps[0, :, 2])
    assert report.figure.height > one.figure.height


def test_an_image_and_an_array_are_looked_at_as_their_file(detector: Detector, picture: Path) -> None:
    with Image.open(picture) as image:
        loaded = image.convert("RGB")
    maps = look(detector, picture, queries=[1]).maps
    for source in (str(picture), loaded, np.asarray(loaded)):
        report = look(detector, source, queries=[1])
        np.testing.assert_array_equal(report.maps, maps)
    assert report.document["file"] == "the picture"


def test_queries_without_an_object_say_so(picture: Path) -> None:
    """With "no object" likeliest everywhere."""
    detector = Detector(small_weights(CONFIG), "cpu")
    head = detector.model.get_submodule("class_head")
    head.bias.data.copy_(head.bias.data.new_tensor([0, 0, 0, 50]))  # type: ignore[union-attr, operator]  # a module's attribute
    report = look(detector, picture, queries=[2])
    assert report.document["queries"][0]["nothing"] is True
    assert "no object, at best" in str(report.rows[0][1])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"queries": [9]}, "queries 0 to 8"),
        ({"layers": "3"}, "last, all or a number from 0 to 2"),
        ({"layers": -1}, "last, all"),
        ({"heads": "four"}, "mean, all or a number from 0 to 3"),
        ({"kind": "encoder", "points": [(90, 0)]}, "ends at 89,59"),
        ({"kind": "encoder", "points": [(float("nan"), 0)]}, "ends at 89,59"),
        ({"kind": "encoder"}, "Points are for"),
        ({"points": [(1, 1)]}, "Points are for"),
        ({"kind": "encoder", "points": [(1, 1)], "queries": [1]}, "one at a time"),
        ({"kind": "relevance", "layers": "all"}, "not with all"),
        ({"masks": []}, "Masks are compared"),
        ({"threshold": 1}, "the best is query"),
    ],
)
def test_what_cannot_be_asked(detector: Detector, picture: Path, asked: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        look(detector, picture, **asked)  # type: ignore[arg-type]  # by name


def test_no_picture(detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none.png"):
        look(detector, tmp_path / "none.png")


def test_what_a_family_cannot_show(detector: Detector, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(detector.inspect()), "abilities", frozenset({"cross-attention"}))
    for asked in ({"kind": "self"}, {"kind": "encoder", "points": [(1, 1)]}, {"kind": "relevance"}):
        with pytest.raises(UsageError, match="It can show: cross-attention"):
            look(detector, picture, **({} if "points" in asked else {"queries": [0]}), **asked)  # type: ignore[arg-type]


def test_the_page_holds_all_layers_and_heads(detector: Detector, picture: Path, tmp_path: Path) -> None:
    report = look(detector, picture, queries=[5, 0, 8])
    report.page(tmp_path / "a.html")
    with pytest.raises(UsageError, match="one at a time"):
        look(detector, picture, kind="encoder", points=[(1, 1)]).page(tmp_path / "b.html")
    with opened(tmp_path / "a.html") as page:
        page.wait_for_selector("body[data-ready=yes]")
        assert page.evaluate("viewer.inside.queries.length") == 3
        assert page.locator("select option").count() == 5
        assert "2 of 0 to 2" in page.inner_text("output >> nth=0")
        last = page.inner_text(".said")
        page.keyboard.press("ArrowDown")
        assert page.inner_text(".said") != last
        assert report.record.prediction(-1, 5).label in last
