"""A report of a model with masks: their agreement with the annotated masks, in the document and on the page."""

import json
from pathlib import Path

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


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped detector with an untrained mask head: objects are detected, but their masks are poor."""
    folder = tmp_path_factory.mktemp("masks")
    make_shapes(folder / "shapes", images=30, seed=3)
    torch.manual_seed(0)
    save(with_mask_head(load_checkpoint("shapes"), "dino-tiny-masks"), folder / "m.safetensors")
    return folder


@pytest.fixture(scope="module")
def report(root: Path) -> Report:
    return detrcli.report(root / "shapes", root / "m.safetensors")


def test_the_document(report: Report, root: Path) -> None:
    """AP is that of `evaluate`, the IoU of detected objects that of their pixels."""
    document, failures = report.document, report.failures
    evaluated = detrcli.evaluate(root / "shapes", root / "m.safetensors")
    assert evaluated.masks is not None
    for name, value in evaluated.masks.items():
        assert document["masks"][name] == pytest.approx(value, abs=1e-9)
    assert evaluated.boundaries is not None
    assert document["masks"]["boundary_AP"] == pytest.approx(evaluated.boundaries["AP"], abs=1e-9)
    masks, found_by = failures.masks, failures.outcomes.found_by
    assert masks is not None
    assert (found_by >= 0).sum() > 5
    for n in range(len(found_by)):
        if found_by[n] < 0:
            assert np.isnan(masks.ious[n])
            continue
        own, found = (decode(one["counts"], *one["size"]) for one in (masks.objects[n], masks.detections[found_by[n]]))
        assert masks.ious[n] == pytest.approx((own & found).sum() / (own | found).sum(), abs=1e-6)
    listed = document["suspects"]["poor_mask"]
    assert listed
    suspicions = [one["score"] * (1 - one["iou"]) for one in listed]
    assert suspicions == sorted(suspicions, reverse=True)
    assert all(one["iou"] < 0.75 for one in listed)
    assert json.loads(json.dumps(document)) == document
    document = detrcli.report(root / "shapes", "shapes", limit=2).document
    assert document["masks"] is None
    assert document["suspects"]["poor_mask"] == []


def test_the_page_draws_masks_and_fixes_them(report: Report, root: Path, tmp_path: Path, detr: Detr) -> None:
    page = report.page(tmp_path / "report")
    first = report.document["suspects"]["poor_mask"][0]
    path = root / "shapes" / "annotations" / "instances_val.json"
    truth = {one["id"]: one for one in json.loads(path.read_text())["annotations"]}
    wanted = [truth[first["annotation_id"]]["segmentation"], first["suggested_mask"]]
    pixels = [int(decode(one["counts"].encode(), *one["size"]).sum()) for one in wanted]
    with opened(page, folder=True) as shown:
        shown.wait_for_selector("body[data-ready]")
        assert "mask AP" in shown.inner_text(".cards")
        tile = shown.locator(".gallery[data-kind=poor_mask] .tile").first
        drawn = [one.evaluate(CANVAS) for one in tile.locator("canvas").all()]
        assert drawn == [[128, 128, count] for count in pixels]
        tile.locator("button").first.click()
        shown.wait_for_selector("#dialog[data-shown]")
        assert [one.evaluate(CANVAS) for one in shown.locator("#dialog .masks canvas").all()] == drawn
        shown.uncheck("#dialog label:has-text('masks') input")
        assert shown.locator("#dialog .masks canvas").count() == 0
        shown.keyboard.press("Escape")
        tile.get_by_text("wrong", exact=True).click()
        with shown.expect_download() as saved:
            shown.click(".gallery[data-kind=poor_mask] .export")
        saved.value.save_as(tmp_path / "fixes.json")
    fixed = detr("data", "fix", root / "shapes", "--list", tmp_path / "fixes.json", "--out", "new")
    assert fixed.code == 0, fixed.err
    new = json.loads(Path("new/annotations/instances_val.json").read_text())["annotations"]
    changed = next(one for one in new if one["id"] == first["annotation_id"])
    assert changed["segmentation"] == first["suggested_mask"]
    assert changed["area"] == pixels[1]
    mask = decode(first["suggested_mask"]["counts"].encode(), 128, 128)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert changed["bbox"] == [
        columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
    ]  # fmt: skip


@pytest.mark.parametrize("mask", [{"size": [9, 9], "counts": "ab"}, {"size": [128, 128], "counts": "@@"}, None])
def test_a_list_with_invalid_masks(root: Path, detr: Detr, mask: object) -> None:
    entry = {
        "kind": "poor_mask", "verdict": "wrong", "image_id": 1, "annotation_id": 1, "category_id": 1,
        "box": [0, 0, 9, 9], "mask": mask,
    }  # fmt: skip
    Path("fixes.json").write_text(json.dumps({"schema": "detr.fix/1", "split": "val", "changes": [entry]}))
    shown = detr("data", "fix", root / "shapes", "--list", "fixes.json", "--out", "new")
    assert shown.code == 3
    assert "mask" in shown.err
    assert not Path("new").exists()
