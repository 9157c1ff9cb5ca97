"""The page of `detr report` in a browser, by mouse and keyboard, for a model with masks."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import opened
from here import Detr

import detrcli
from detrcli.api.reporting import Report
from detrcli.checkpoints.fit import with_mask_head
from detrcli.checkpoints.formats.native import save
from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.make import make_shapes
from detrcli.run_lengths import decode

CANVAS = """canvas => {
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    return [canvas.width, canvas.height, [...pixels.keys()].filter((i) => i % 4 === 3 && pixels[i]).length];
}"""
ANNOTATIONS = "annotations/instances_val.json"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some labels are wrong, and some are missing."""
    folder = tmp_path_factory.mktemp("page") / "shapes"
    make_shapes(folder, images=60, seed=3)
    document = json.loads((folder / ANNOTATIONS).read_text())
    for entry in document["annotations"][:3]:
        entry["category_id"] = entry["category_id"] % 5 + 1
    del document["annotations"][10:13]
    (folder / ANNOTATIONS).write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped detector with an untrained mask head: objects are detected, but their masks are poor."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "m.safetensors"
    save(with_mask_head(load_checkpoint("shapes"), "dino-tiny-masks"), path)
    return path


@pytest.fixture(scope="module")
def report(data: Path, weights: Path) -> Report:
    return detrcli.report(data, weights)


@pytest.fixture(scope="module")
def file(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.page(tmp_path_factory.mktemp("out") / "report")


@pytest.fixture
def page(file: Path) -> Iterator[Any]:
    with opened(file, folder=True) as page:
        page.wait_for_selector("body[data-ready]")
        yield page


def saved_list(page: Any, kind: str, path: Path) -> list[dict[str, Any]]:
    with page.expect_download() as saved:
        page.click(f".gallery[data-kind={kind}] .export")
    saved.value.save_as(path)
    return json.loads(path.read_text())["changes"]


def fixed_annotations(detr: Detr, data: Path, path: Path) -> list[dict[str, Any]]:
    """Return the annotations that `detr data fix` writes."""
    detr("data", "fix", data, "--list", path, "--out", path.with_suffix("")).ok()
    return json.loads((path.with_suffix("") / ANNOTATIONS).read_text())["annotations"]


def test_the_document_has_masks(report: Report, data: Path, weights: Path) -> None:
    """AP is that of `evaluate`, the IoU of detected objects that of their pixels."""
    document, failures = report.document, report.failures
    evaluated = detrcli.evaluate(data, weights)
    for name, value in evaluated.masks.items():
        assert document["masks"][name] == pytest.approx(value, abs=1e-9)
    assert document["masks"]["boundary_AP"] == pytest.approx(evaluated.boundaries["AP"], abs=1e-9)
    masks, found_by = failures.masks, failures.outcomes.found_by
    assert (found_by >= 0).sum() > 5
    for n in range(len(found_by)):
        if found_by[n] < 0:
            assert np.isnan(masks.ious[n])
            continue
        a, b = (decode(entry["counts"], *entry["size"]) for entry in (masks.objects[n], masks.detections[found_by[n]]))
        assert masks.ious[n] == pytest.approx((a & b).sum() / (a | b).sum(), abs=1e-6)
    listed = document["suspects"]["poor_mask"]
    assert listed
    suspicions = [entry["score"] * (1 - entry["iou"]) for entry in listed]
    assert suspicions == sorted(suspicions, reverse=True)
    assert all(entry["iou"] < 0.75 for entry in listed)
    assert json.loads(json.dumps(document)) == document
    document = detrcli.report(data, "shapes", limit=2).document
    assert document["masks"] is None
    assert document["suspects"]["poor_mask"] == []


def test_galleries_and_dialog(page: Any, report: Report) -> None:
    wrong, outcomes = report.document["suspects"]["wrong_label"], report.failures.outcomes
    assert f"{report.failures.metrics['AP']:.3f}" in page.inner_text(".cards")
    assert "mask AP" in page.inner_text(".cards")
    gallery = page.locator(".gallery[data-kind=missed]")
    assert gallery.locator(".tile").count() == outcomes.objects - outcomes.found
    for kind, count in outcomes.missed_by_kind.items():
        if count:
            gallery.locator("select").nth(1).select_option(kind)
            assert gallery.locator(".tile").count() == count
    tiles = page.locator(".gallery[data-kind=wrong_label] .tile")
    assert tiles.count() == len(wrong)
    assert wrong[0]["file"] in tiles.first.inner_text()
    tiles.first.locator("button").first.click()
    page.wait_for_selector("#dialog[data-shown]")
    assert f"annotation {wrong[0]['annotation_id']}" in page.inner_text(".said")
    assert f"1 of {len(wrong)}" in page.inner_text("#which")
    page.wait_for_selector(".costs table")
    assert page.is_visible("#dialog canvas")
    page.keyboard.press("ArrowDown")
    assert "0 of 0 to 1" in page.inner_text("#dialog output >> nth=0")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.getElementById('which').textContent.startsWith('2 of')")
    page.keyboard.press("Escape")
    assert not page.is_visible("#dialog")


def test_marks_become_a_list_of_fixes(page: Any, data: Path, report: Report, tmp_path: Path, detr: Detr) -> None:
    suspects = report.document["suspects"]
    for kind, n, verdict in (
        ("wrong_label", 0, "wrong"), ("wrong_label", 1, "right"), ("missing_label", 0, "wrong"),
        ("missing_label", 1, "unsure"), ("missing_label", 1, "unsure"),  # the second click removes the mark
    ):  # fmt: skip
        page.click(f".gallery[data-kind={kind}] .tile >> nth={n} >> text={verdict}")
    listed = saved_list(page, "wrong_label", tmp_path / "fixes.json")
    page.reload()
    assert page.locator(".marks button[aria-pressed=true]").count() == 3
    assert [(entry["kind"], entry["verdict"]) for entry in listed] == [
        ("wrong_label", "wrong"), ("wrong_label", "right"), ("missing_label", "wrong"),
    ]  # fmt: skip
    new = fixed_annotations(detr, data, tmp_path / "fixes.json")
    first = suspects["wrong_label"][0]
    fixed = next(entry for entry in new if entry["id"] == first["annotation_id"])
    assert fixed["category_id"] == first["suggested_category_id"]
    x, y, w, h = new[-1]["bbox"]
    assert [x, y, x + w, y + h] == pytest.approx(suspects["missing_label"][0]["box"], abs=0.01)


def test_masks_are_drawn_and_fixed(page: Any, report: Report, data: Path, tmp_path: Path, detr: Detr) -> None:
    first = report.document["suspects"]["poor_mask"][0]
    truth = {entry["id"]: entry for entry in json.loads((data / ANNOTATIONS).read_text())["annotations"]}
    expected = [truth[first["annotation_id"]]["segmentation"], first["suggested_mask"]]
    pixels = [int(decode(entry["counts"].encode(), *entry["size"]).sum()) for entry in expected]
    tile = page.locator(".gallery[data-kind=poor_mask] .tile").first
    drawn = [entry.evaluate(CANVAS) for entry in tile.locator("canvas").all()]
    assert drawn == [[128, 128, count] for count in pixels]
    tile.locator("button").first.click()
    page.wait_for_selector("#dialog[data-shown]")
    assert [entry.evaluate(CANVAS) for entry in page.locator("#dialog .masks canvas").all()] == drawn
    page.uncheck("#dialog label:has-text('masks') input")
    assert page.locator("#dialog .masks canvas").count() == 0
    page.keyboard.press("Escape")
    tile.get_by_text("wrong", exact=True).click()
    saved_list(page, "poor_mask", tmp_path / "fixes.json")
    new = fixed_annotations(detr, data, tmp_path / "fixes.json")
    changed = next(entry for entry in new if entry["id"] == first["annotation_id"])
    assert changed["segmentation"] == first["suggested_mask"]
    assert changed["area"] == pixels[1]
    mask = decode(first["suggested_mask"]["counts"].encode(), 128, 128)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    assert changed["bbox"] == [x, y, columns[-1] - x + 1, rows[-1] - y + 1]


@pytest.mark.parametrize("width", [1280, 420])
def test_it_fits(file: Path, width: int) -> None:
    with opened(file, folder=True, width=width) as page:
        page.wait_for_selector("body[data-ready]")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        outside = page.evaluate(
            "[...document.querySelectorAll('svg.chart')].flatMap((svg) => [...svg.querySelectorAll('text')].filter("
            "(text) => { const a = text.getBoundingClientRect(), b = svg.getBoundingClientRect();"
            " return a.left < b.left - 1 || a.right > b.right + 1 || a.bottom > b.bottom + 1; }))"
            ".map((text) => text.textContent)"
        )
        assert outside == []
        assert page.locator("svg.chart").count() >= 4
        page.locator(".gallery[data-kind=missed] .tile button").first.click()
        page.wait_for_selector("#dialog[data-shown]")
        assert page.evaluate("document.getElementById('dialog').scrollWidth") <= width


def test_a_link_opens_an_image(page: Any, file: Path, report: Report) -> None:
    image = report.document["suspects"]["wrong_label"][0]["image_id"]
    page.goto(f"{file.resolve().as_uri()}#image={image}")
    page.reload()
    page.wait_for_selector("#dialog[data-shown]")
    assert f"(image {image})" in page.inner_text("#which")
