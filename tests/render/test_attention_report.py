"""Attention of each kind as a table, JSON, arrays, a figure and a page."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import opened
from PIL import Image
from small import CONFIG, TINY, noise, small_weights

from detrcli.errors import DataError, UsageError
from detrcli.inference.detector import Detector
from detrcli.inspection.look import Kind
from detrcli.inspection.look import look as findings_of
from detrcli.render.attention_report import AttentionReport
from detrcli.render.color import color_of


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


def test_every_layer_and_head_has_a_map(detector: Detector, image: Path) -> None:
    report = look(detector, image, queries=[4], layers="all", heads="all")
    assert report.maps.shape[:3] == (3, 1, 4)
    assert len(report.findings.table.rows) == 12
    single = look(detector, image, queries=[4], layers=0, heads=2)
    np.testing.assert_array_equal(single.maps[0, :, 0], report.maps[0, :, 2])
    assert report.figure.height > single.figure.height


def test_files_images_and_arrays(detector: Detector, image: Path) -> None:
    with Image.open(image) as opened_image:
        loaded = opened_image.convert("RGB")
    maps = look(detector, image, queries=[1]).maps
    for source in (str(image), loaded, np.asarray(loaded)):
        np.testing.assert_array_equal(look(detector, source, queries=[1]).maps, maps)


def test_queries_without_an_object(image: Path) -> None:
    detector = Detector(small_weights(CONFIG), "cpu")
    head = detector.model.get_submodule("class_head")
    head.bias.data.copy_(head.bias.data.new_tensor([0, 0, 0, 50]))  # type: ignore[union-attr, operator]  # a module's attribute
    report = look(detector, image, queries=[2])
    assert report.document["queries"][0]["nothing"] is True
    assert "no object" in str(report.findings.table.rows[0][1])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"queries": [9]}, "`queries=9`"),
        ({"layers": "3"}, "`layers=3`"),
        ({"layers": -1}, "`layers=-1`"),
        ({"heads": "four"}, "`heads=four`"),
        ({"heads": 4}, "`heads=4`"),
        ({"kind": "encoder", "points": [(90, 0)]}, "`points=90,0`"),
        ({"kind": "encoder", "points": [(float("nan"), 0)]}, "`points=nan,0`"),
        ({"kind": "encoder"}, "`points`"),
        ({"points": [(1, 1)]}, "`points`"),
        ({"kind": "encoder", "points": [(1, 1)], "queries": [1]}, "`queries`"),
        ({"kind": "relevance", "layers": "all"}, "all"),
        ({"kind": "mask", "layers": "all"}, "`layers=all`"),
        ({"masks": []}, "`masks`"),
        ({"threshold": 1}, "`threshold`"),
    ],
)
def test_usage_errors(detector: Detector, image: Path, options: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        look(detector, image, **options)


def test_a_missing_file(detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none.png"):
        look(detector, tmp_path / "none.png")


@pytest.mark.parametrize(
    "options", [{"kind": "self"}, {"kind": "encoder", "points": [(1, 1)]}, {"kind": "relevance", "queries": [0]}]
)
def test_kinds_that_a_model_does_not_have(
    detector: Detector, image: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(type(detector.inspect()), "abilities", frozenset({"cross-attention"}))
    with pytest.raises(UsageError, match="cross-attention"):
        look(detector, image, **options)


def test_the_page_has_all_layers_and_heads(detector: Detector, image: Path, tmp_path: Path) -> None:
    report = look(detector, image, queries=[5, 0, 8])
    report.page(tmp_path / "a.html")
    with pytest.raises(UsageError, match="points"):
        look(detector, image, kind="encoder", points=[(1, 1)]).page(tmp_path / "b.html")
    with opened(tmp_path / "a.html") as page:
        page.wait_for_selector("body[data-ready=yes]")
        assert page.evaluate("viewer.attention.queries.length") == 3
        assert page.locator("select option").count() == 5
        assert "2 of 0 to 2" in page.inner_text("output >> nth=0")
        last = page.inner_text(".said")
        page.keyboard.press("ArrowDown")
        assert page.inner_text(".said") != last
        assert report.findings.record.prediction(-1, 5).label in last
