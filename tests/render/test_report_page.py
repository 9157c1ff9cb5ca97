"""The page of `detr report` in a browser, by mouse and keyboard."""

import json
from pathlib import Path

import pytest
from browser import opened
from here import Detr

import detrcli
from detrcli.api.reporting import Report
from detrcli.data.make import make_shapes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some labels are wrong, and some are missing."""
    folder = tmp_path_factory.mktemp("page") / "shapes"
    make_shapes(folder, images=60, seed=3)
    path = folder / "annotations" / "instances_val.json"
    document = json.loads(path.read_text())
    for one in document["annotations"][:3]:
        one["category_id"] = one["category_id"] % 5 + 1
    del document["annotations"][10:13]
    path.write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def report(data: Path) -> Report:
    return detrcli.report(data, "shapes")


@pytest.fixture(scope="module")
def page(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.page(tmp_path_factory.mktemp("out") / "report")


def test_by_mouse_and_keyboard(page: Path, report: Report) -> None:
    wrong = report.document["suspects"]["wrong_label"]
    with opened(page, folder=True) as shown:
        shown.wait_for_selector("body[data-ready]")
        assert f"{report.failures.metrics['AP']:.3f}" in shown.inner_text(".cards")
        tiles = shown.locator(".gallery[data-kind=wrong_label] .tile")
        assert tiles.count() == len(wrong)
        assert wrong[0]["file"] in tiles.first.inner_text()
        tiles.first.locator("button").first.click()
        shown.wait_for_selector("#dialog[data-shown]")
        assert f"annotation {wrong[0]['annotation_id']}" in shown.inner_text(".said")
        assert f"1 of {len(wrong)}" in shown.inner_text("#which")
        shown.wait_for_selector(".costs table")
        assert shown.is_visible("#dialog canvas")
        shown.keyboard.press("ArrowDown")
        assert "0 of 0 to 1" in shown.inner_text("#dialog output >> nth=0")
        shown.keyboard.press("ArrowRight")
        shown.wait_for_function("document.getElementById('which').textContent.startsWith('2 of')")
        shown.keyboard.press("Escape")
        assert not shown.is_visible("#dialog")


def test_galleries_are_filtered(page: Path, report: Report) -> None:
    missed = report.failures.outcomes
    with opened(page, folder=True) as shown:
        gallery = shown.locator(".gallery[data-kind=missed]")
        assert gallery.locator(".tile").count() == missed.objects - missed.found
        for kind, count in missed.missed_by_kind.items():
            if count:
                gallery.locator("select").nth(1).select_option(kind)
                assert gallery.locator(".tile").count() == count


def test_marks_become_a_list_of_fixes(page: Path, data: Path, report: Report, tmp_path: Path, detr: Detr) -> None:
    suspects = report.document["suspects"]
    with opened(page, folder=True) as shown:
        shown.click(".gallery[data-kind=wrong_label] .tile >> nth=0 >> text=wrong")
        shown.click(".gallery[data-kind=wrong_label] .tile >> nth=1 >> text=right")
        shown.click(".gallery[data-kind=missing_label] .tile >> nth=0 >> text=wrong")
        shown.click(".gallery[data-kind=missing_label] .tile >> nth=1 >> text=unsure")
        shown.click(".gallery[data-kind=missing_label] .tile >> nth=1 >> text=unsure")  # removed
        with shown.expect_download() as saved:
            shown.click(".gallery[data-kind=wrong_label] .export")
        saved.value.save_as(tmp_path / "fixes.json")
        shown.reload()
        assert shown.locator(".marks button[aria-pressed=true]").count() == 3
    listed = json.loads((tmp_path / "fixes.json").read_text())
    assert [(one["kind"], one["verdict"]) for one in listed["changes"]] == [
        ("wrong_label", "wrong"), ("wrong_label", "right"), ("missing_label", "wrong"),
    ]  # fmt: skip
    out = tmp_path / "new"
    shown = detr("data", "fix", data, "--list", tmp_path / "fixes.json", "--out", out)
    assert shown.code == 0, shown.err
    new = json.loads((out / "annotations" / "instances_val.json").read_text())["annotations"]
    first = suspects["wrong_label"][0]
    fixed = next(one for one in new if one["id"] == first["annotation_id"])
    assert fixed["category_id"] == first["suggested_category_id"]
    x, y, w, h = new[-1]["bbox"]
    assert [x, y, x + w, y + h] == pytest.approx(suspects["missing_label"][0]["box"], abs=0.01)


@pytest.mark.parametrize("width", [1280, 420])
def test_it_fits(page: Path, width: int) -> None:
    with opened(page, folder=True, width=width) as shown:
        shown.wait_for_selector("body[data-ready]")
        assert shown.evaluate("document.documentElement.scrollWidth") == width
        shown.locator(".gallery[data-kind=missed] .tile button").first.click()
        shown.wait_for_selector("#dialog[data-shown]")
        assert shown.evaluate("document.getElementById('dialog').scrollWidth") <= width


def test_a_link_opens_an_image(page: Path, report: Report) -> None:
    image = report.document["suspects"]["wrong_label"][0]["image_id"]
    with opened(page, folder=True) as shown:
        shown.goto(f"{page.resolve().as_uri()}#image={image}")
        shown.reload()
        shown.wait_for_selector("#dialog[data-shown]")
        assert f"(image {image})" in shown.inner_text("#which")


def test_no_text_exceeds_its_chart(page: Path) -> None:
    with opened(page, folder=True) as shown:
        outside = shown.evaluate(
            "[...document.querySelectorAll('svg.chart')].flatMap((svg) => [...svg.querySelectorAll('text')].filter("
            "(text) => { const a = text.getBoundingClientRect(), b = svg.getBoundingClientRect();"
            " return a.left < b.left - 1 || a.right > b.right + 1 || a.bottom > b.bottom + 1; }))"
            ".map((text) => text.textContent)"
        )
        assert outside == []
        assert shown.locator("svg.chart").count() >= 4
