"""Pages and the viewer: keys, lists and clicks show computed values, and names stay text."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import opened
from PIL import Image

import detrcli
from detrcli.api.inspecting import Matching
from detrcli.data.make import make_shapes
from detrcli.inspection.match_report import MatchReport
from detrcli.render.page import Section, write_page
from detrcli.render.viewer import MAX_CELLS, _coarsened, view_document, write_viewer_page

EVIL = "</script><img src=x onerror=alert(1)>\x1b"


@pytest.fixture(scope="module")
def matching(tmp_path_factory: pytest.TempPathFactory) -> Matching:
    folder = tmp_path_factory.mktemp("viewer") / "shapes"
    make_shapes(folder, images=30, seed=3)
    found = detrcli.explain_matching(folder, "shapes", image=3, threshold=0.5)
    assert isinstance(found.report, MatchReport)
    assert len(found.report.target) >= 2
    return found


@pytest.fixture
def page(matching: Matching, tmp_path: Path) -> Iterator[Any]:
    matching.page(tmp_path / "a.html")
    with opened(tmp_path / "a.html") as shown:
        shown.wait_for_selector("body[data-ready]")
        yield shown


def test_the_description_is_that_of_the_matching(page: Any, matching: Matching) -> None:
    last = matching.report.layers[-1]
    for pair in last.pairs:
        page.click(f".lists button[data-object='{pair.target}']")
        said = page.inner_text(".said")
        assert f"Object {pair.target}: {matching.report.target_name(pair.target)}, annotation" in said
        assert f"Query {pair.query} predicts" in said
        assert f"margin {pair.margin:.3f}" in said
        rows = page.locator(".costs tr.matched td").all_inner_texts()
        assert float(rows[-1]) == pytest.approx(float(last.total[pair.query, pair.target]), abs=0.002)
        assert float(rows[1]) == pytest.approx(2 * float(last.terms["class"][pair.query, pair.target]), abs=0.002)
    first = last.pairs[0]
    x, y, w, h = (float(page.locator("rect.chosen").get_attribute(name)) for name in ("x", "y", "width", "height"))
    page.click(f".lists button[data-query='{first.query}']")
    assert f"Matched to object {first.target}" in page.inner_text(".said")
    boxes = matching.report.pixels(last.boxes)[last.pairs[-1].query]
    np.testing.assert_allclose([x, y, x + w, y + h], boxes, atol=0.05)


def test_keys(page: Any) -> None:
    assert "1 of 0 to 1" in page.inner_text("output >> nth=0")
    page.keyboard.press("ArrowDown")
    assert "0 of 0 to 1" in page.inner_text("output >> nth=0")
    before = page.evaluate("viewer.heat.toDataURL()")
    page.keyboard.press("]")
    assert page.evaluate("viewer.heat.toDataURL()") != before
    assert page.locator("select").first.input_value() == "0"
    page.keyboard.press("[")
    assert page.evaluate("viewer.heat.toDataURL()") == before
    assert page.locator("rect").count() > 1
    page.keyboard.press("p")
    assert page.locator("rect").count() <= 1  # of the selected query
    assert not page.is_visible("canvas")
    page.keyboard.press("p")
    assert page.is_visible("canvas")
    page.keyboard.press("o")
    assert page.evaluate("viewer.opacity") == 0.3
    page.keyboard.press("m")
    assert page.locator("line.pair").count() == 0


def test_the_map_is_the_attention(page: Any, matching: Matching) -> None:
    """The values of the pixels are the shares, in steps of 1/255 of the largest."""
    query = matching.report.layers[-1].pairs[0].query
    page.click(f".lists button[data-query='{query}']")
    shown = page.evaluate(
        "(() => { const { values, most } = viewer.map(); return [...values].map((v) => v / 255 * most); })()"
    )
    record = matching.record()
    expected = detrcli.look(record.image, record.detector, queries=[query])
    np.testing.assert_allclose(shown, expected.maps[0, 0, 0].ravel(), atol=float(expected.maps.max()) / 254 + 1e-5)
    stage = page.locator(".stage").bounding_box()
    page.mouse.move(stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2)
    assert "of the attention" in page.inner_text(".hover")


def test_a_click_selects_the_smallest_box(page: Any, matching: Matching) -> None:
    target = matching.report.target
    smallest = int((target.boxes[:, 2] * target.boxes[:, 3]).argmin())
    cx, cy, *_ = target.boxes[smallest].tolist()
    stage = page.locator(".stage").bounding_box()
    for _ in range(3):  # boxes of queries may be smaller; the next click selects a larger box
        page.mouse.click(stage["x"] + cx * stage["width"], stage["y"] + cy * stage["height"])
        if f"Object {smallest}:" in page.inner_text(".said"):
            break
    else:
        pytest.fail("the object was not selected")


def test_names_stay_text_and_many_queries_fit(tmp_path: Path) -> None:
    """300 queries, 140 objects and names with markup, on a narrow screen."""
    rng = np.random.default_rng(0)
    L, Q = 6, 300
    view = view_document(
        file=EVIL, size=(480, 640),
        boxes=rng.uniform(0.1, 0.5, (L, Q, 4)), scores=rng.uniform(size=(L, Q)),
        labels=rng.integers(0, 2, (L, Q)), no_object=np.zeros((L, Q), dtype=bool), threshold=0.5,
        targets=[{"label": EVIL, "box": [0.5, 0.5, 0.2, 0.2], "id": n} for n in range(140)],
    )  # fmt: skip
    path = tmp_path / "a.html"
    write_viewer_page(path, EVIL, EVIL, [EVIL, "b"], view, Image.new("RGB", (640, 480)), {})
    text = path.read_text(encoding="utf-8")
    assert text.count("</script>") == 2
    assert "\x1b" not in text
    with opened(path, width=420) as shown:
        shown.wait_for_selector("body[data-ready]")
        assert shown.evaluate("document.documentElement.scrollWidth") == 420
        assert shown.locator(".lists button").count() == 440
        assert shown.locator("img").count() == 1


def test_names_stay_text_in_sections(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "page.html"
    section = Section(
        "Section", EVIL, EVIL, (EVIL, "n"), [(EVIL, 0.25), ("b", 2)], [(Image.new("RGB", (8, 8)), EVIL)],
        "<button id=b>press</button>",
    )  # fmt: skip
    write_page(
        path, "A page", f"{EVIL} `code`", [section], data={"name": EVIL},
        script="const d = JSON.parse(document.getElementById('data').textContent);"
        "b.onclick = () => { b.textContent = d.name; };",
    )  # fmt: skip
    text = path.read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert text.count("</script>") == 2
    assert "\x1b" not in text
    assert "<code>code</code>" in text
    assert "<td class=number>0.250</td>" in text
    with opened(path) as page:
        page.click("#b")
        assert page.inner_text("#b") == EVIL
        assert page.evaluate("document.images[0].naturalWidth") == 8


def test_fine_maps_are_summed_to_fewer_cells() -> None:
    maps = np.random.default_rng(0).random((2, 100, 134))
    small = _coarsened(maps)
    assert max(small.shape[-2:]) <= MAX_CELLS
    np.testing.assert_allclose(small.sum((-2, -1)), maps.sum((-2, -1)))
    assert small[0, 0, 0] == pytest.approx(maps[0, :3, :3].sum())
    few = maps[:, :10, :10]
    assert _coarsened(few) is few


def test_an_image_without_ground_truth(tmp_path: Path) -> None:
    found = detrcli.look(np.full((60, 90, 3), 90, dtype=np.uint8), "shapes", queries=[3, 1])
    found.page(tmp_path / "a.html")
    with opened(tmp_path / "a.html") as shown:
        shown.wait_for_selector("body[data-ready]")
        assert "Query 3 predicts" in shown.inner_text(".said")
        assert "none" in shown.inner_text(".lists")
        assert shown.is_visible("canvas")
