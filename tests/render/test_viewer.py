"""The viewer: its keys, lists and clicks show what was computed, and names stay text."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import opened

import detrcli
from detrcli.api.inspecting import Matching
from detrcli.data.make import make_shapes
from detrcli.inspection.report import MatchReport
from detrcli.render.viewer import MOST_CELLS, ImageView, ObjectView, _summed, write_viewer_page

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


def test_what_is_said_is_what_was_matched(page: Any, matching: Matching) -> None:
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
    assert page.locator("rect").count() <= 1  # the chosen query alone
    assert not page.is_visible("canvas")
    page.keyboard.press("p")
    assert page.is_visible("canvas")
    page.keyboard.press("o")
    assert page.evaluate("viewer.opacity") == 0.3
    page.keyboard.press("m")
    assert page.locator("line.pair").count() == 0


def test_the_map_is_the_attention(page: Any, matching: Matching) -> None:
    """The values behind the pixels are the shares, to the step of 1/255 of the largest."""
    query = matching.report.layers[-1].pairs[0].query
    page.click(f".lists button[data-query='{query}']")
    shown = page.evaluate(
        "(() => { const { values, most } = viewer.map(); return [...values].map((v) => v / 255 * most); })()"
    )
    record = matching.record()
    seen = detrcli.look(record.image, record.detector, queries=[query])
    np.testing.assert_allclose(shown, seen.maps[0, 0, 0].ravel(), atol=float(seen.maps.max()) / 254 + 1e-5)


def test_a_click_chooses_the_smallest_box_there(page: Any, matching: Matching) -> None:
    target = matching.report.target
    smallest = int((target.boxes[:, 2] * target.boxes[:, 3]).argmin())
    cx, cy, *_ = target.boxes[smallest].tolist()
    stage = page.locator(".stage").bounding_box()
    for _ in range(3):  # boxes of queries may be smaller; the next click goes on
        page.mouse.click(stage["x"] + cx * stage["width"], stage["y"] + cy * stage["height"])
        if f"Object {smallest}:" in page.inner_text(".said"):
            break
    else:
        pytest.fail("the object was not chosen")


def test_hovering_says_the_share(page: Any) -> None:
    stage = page.locator(".stage").bounding_box()
    page.mouse.move(stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2)
    assert "of the attention" in page.inner_text(".hover")


def view(names: list[str], **given: Any) -> ImageView:
    rng = np.random.default_rng(0)
    L, Q = 6, 300
    return ImageView(
        file=EVIL, width=640, height=480, names=names,
        boxes=rng.uniform(0.1, 0.5, (L, Q, 4)), scores=rng.uniform(size=(L, Q)),
        labels=rng.integers(0, len(names), (L, Q)), nothing=np.zeros((L, Q), dtype=bool), threshold=0.5,
        **given,
    )  # fmt: skip


def test_names_stay_text_and_many_fit(tmp_path: Path) -> None:
    """300 queries, 140 objects, names that would be markup, on a narrow screen."""
    from PIL import Image

    objects = [ObjectView(EVIL, [0.5, 0.5, 0.2, 0.2], n) for n in range(140)]
    path = tmp_path / "a.html"
    write_viewer_page(path, EVIL, EVIL, view([EVIL, "b"], objects=objects), Image.new("RGB", (640, 480)), {})
    text = path.read_text(encoding="utf-8")
    assert text.count("</script>") == 2
    assert "\x1b" not in text
    with opened(path, width=420) as shown:
        shown.wait_for_selector("body[data-ready]")
        assert shown.evaluate("document.documentElement.scrollWidth") == 420
        assert shown.locator(".lists button").count() == 440
        assert shown.locator("img").count() == 1


def test_fine_maps_are_summed_to_fewer_cells() -> None:
    maps = np.random.default_rng(0).random((2, 100, 134))
    small = _summed(maps)
    assert max(small.shape[-2:]) <= MOST_CELLS
    np.testing.assert_allclose(small.sum((-2, -1)), maps.sum((-2, -1)))
    assert small[0, 0, 0] == pytest.approx(maps[0, :3, :3].sum())
    few = maps[:, :10, :10]
    assert _summed(few) is few


def test_a_picture_alone(tmp_path: Path) -> None:
    """Without ground truth: queries, layers and attention."""
    found = detrcli.look(np.full((60, 90, 3), 90, dtype=np.uint8), "shapes", queries=[3, 1])
    found.page(tmp_path / "a.html")
    with opened(tmp_path / "a.html") as shown:
        shown.wait_for_selector("body[data-ready]")
        assert "Query 3 predicts" in shown.inner_text(".said")
        assert "none" in shown.inner_text(".lists")
        assert shown.is_visible("canvas")
