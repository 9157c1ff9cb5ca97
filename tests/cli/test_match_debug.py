"""`detr match-debug` of an image, a dataset and a run."""

import csv
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import opened
from here import Detr, all_detections
from PIL import Image
from small import CONFIG, TINY, published_names, shapes_with_small_classes, small_weights

from detrcli.architectures import preset
from detrcli.checkpoints.formats.native import save
from detrcli.data.make import make_shapes
from detrcli.structures import Classes

SMALL = ("--model", "detr-tiny", "--size", 32, "--device", "cpu", "--out", "run")
SMALL += ("--set", "queries=6", "--set", "workers=0")
EVIL = "cat</script>\x1b[31m"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    shapes_with_small_classes(folder / "data")
    save(small_weights(TINY), folder / "w.safetensors")
    return folder


@pytest.fixture
def match(detr: Detr, root: Path) -> Detr:
    return lambda *args: detr(
        "match-debug", root / "data", "--weights", root / "w.safetensors", "--device", "cpu", *args
    )


def truth_of(root: Path, image: int) -> list[dict[str, Any]]:
    document = json.loads((root / "data" / "annotations" / "instances_val.json").read_text())
    return [entry for entry in document["annotations"] if entry["image_id"] == image]


def test_dataset_given_as_files(detr: Detr, match: Detr, root: Path) -> None:
    named = [
        "--val-ann", root / "data" / "annotations" / "instances_val.json",
        "--val-images", root / "data" / "val",
    ]  # fmt: skip
    weights = ["--weights", root / "w.safetensors", "--device", "cpu", "--json", "--out", "named.png"]
    shown = detr("match-debug", *named, *weights).ok()
    whole = match("--json", "--out", "whole.png").json
    assert shown.json["image"] == whole["image"]
    assert shown.json["layers"] == whole["layers"]


def image_with_most(root: Path) -> int:
    return max(range(1, 7), key=lambda image: len(truth_of(root, image)))


def test_json_of_an_image(match: Detr, root: Path) -> None:
    """The remaining values are those of MatchReport, whose tests compute them by brute force."""
    document = match("--image", 1, "--layer", "all", "--json").ok().json
    assert document["schema"] == "detr.match-debug/1"
    path = root / "data" / "val" / "000000.png"
    assert document["image"] == {"id": 1, "file": str(path), "width": 64, "height": 64}
    assert document["cost_weights"] == {"class": 1, "l1": 5, "giou": 2}
    assert [target["annotation_id"] for target in document["targets"]] == [entry["id"] for entry in truth_of(root, 1)]
    for layer in document["layers"]:
        assert {frozenset(prediction) for prediction in layer["predictions"]} == {
            frozenset({"query", "category_id", "label", "score", "box"})
        }
    assert Path(document["files"]["picture"]).name == "match-debug.png"


def test_the_last_layer_equals_predict(match: Detr, detr: Detr, root: Path) -> None:
    document = match("--image", 1, "--json").json
    assert document["image"]["id"] == 1
    detections = all_detections(detr, document["image"]["file"], root / "w.safetensors", "--device", "cpu")
    (layer,) = document["layers"]
    assert layer["layer"] == 2
    for ours, theirs in zip(layer["predictions"], detections, strict=True):
        assert (ours["query"], ours["label"]) == (theirs["query"], theirs["label"])
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
        cx, cy, w, h = np.array(ours["box"]) * 64
        assert [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2] == pytest.approx(theirs["box"], abs=0.01)


def test_images_by_id_and_by_file(match: Detr, root: Path) -> None:
    path = root / "data" / "val" / "000002.png"
    for named in ("3", "000002.png", "val/000002.png", path):
        assert match("--image", named, "--json").json["image"]["id"] == 3
    for named in ("000002", "val/000002"):
        assert match("--image", named, "--json").json["image"]["id"] == 3
    assert match("--image", "0002", "--json").json["image"]["id"] == 2  # no file is called so
    for named in ("002.png", "0099", "000002.jpg"):
        assert match("--image", named).code == 2
    match("--image", 99).fails(2, "image 99")


def test_the_tables(match: Detr, root: Path) -> None:
    image = image_with_most(root)
    shown = match("--image", image, "--layer", "all", "--cost-class", 50, "--threshold", 0.3).ok()
    assert "match-debug.png" in shown.err
    titles = ("matched to", "runner-up", "deciding term", "the loss", "no object", "layer by layer")
    assert all(words in shown.out for words in (*titles, "with cost = 50 class"))
    document = match("--image", image, "--cost-class", 50, "--json").json
    assert document["other_weights"]["cost_weights"] == {"class": 50, "l1": 5, "giou": 2}


def test_arrays_equal_the_document(match: Detr, tmp_path: Path) -> None:
    document = match("--layer", "all", "--json", "--raw", "a.npz").json
    with np.load(tmp_path / "a.npz") as file:
        arrays = dict(file)
    assert arrays["layers"].tolist() == [0, 1, 2]
    for i, layer in enumerate(document["layers"]):
        for name, values in layer["cost"].items():
            np.testing.assert_allclose(arrays[f"cost_{name}"][i], values, atol=1e-6)
        np.testing.assert_allclose(arrays["boxes"][i], [item["box"] for item in layer["predictions"]], atol=1e-6)
    assert arrays["cost_total"].dtype == np.float32
    assert arrays["queries"].tolist() == document["queries"]
    assert arrays["probabilities"].shape == (3, 9, 3)  # of the classes
    assert arrays["target_category_ids"].tolist() == [item["category_id"] for item in document["targets"]]


def test_the_page_shows_other_layers(match: Detr, root: Path, tmp_path: Path) -> None:
    document = match("--image", image_with_most(root), "--layer", "all", "--json", "--html", "a.html").json
    first, last = document["layers"][0], document["layers"][-1]
    query, pair = last["pairs"][0]["query"], first["pairs"][0]
    with opened(tmp_path / "a.html") as page:
        page.wait_for_selector("body[data-ready]")
        assert page.evaluate("document.images[0].naturalWidth") == 64
        assert page.locator("rect.truth, rect.missed").count() == len(document["targets"])
        page.click(f".lists button[data-query='{query}']")
        places = []
        for layer in (last, first):
            places.append(float(page.locator("rect.chosen").get_attribute("x")))
            cx, _, w, _ = layer["predictions"][query]["box"]
            assert places[-1] == pytest.approx(64 * (cx - w / 2), abs=1e-2)
            for _ in range(2):
                page.keyboard.press("ArrowDown")
        assert places[0] != places[1]
        assert "0 of 0 to 2" in page.inner_text("output >> nth=0")
        page.click(f".lists button[data-object='{pair['target']}']")
        l1 = float(page.locator(".costs tr.matched td").all_inner_texts()[2])
        assert l1 == pytest.approx(5 * first["cost"]["l1"][pair["query"]][pair["target"]], abs=0.002)


def test_files_are_numbered_and_never_overwritten(match: Detr, root: Path, tmp_path: Path) -> None:
    match()
    assert "match-debug-2.png" in match("--image", 1).err
    with Image.open(tmp_path / "match-debug-2.png") as image:
        assert min(image.size) > 300
    assert match("--out", "match-debug.png").code == 2
    assert match("--out", "match-debug.png", "--overwrite").code == 0
    inside = root / "data" / "val" / "000000.png"
    before = inside.read_bytes()
    assert match("--out", inside, "--overwrite").code == 2
    assert inside.read_bytes() == before


@pytest.mark.parametrize(
    "args",
    [
        ["--layer", "3"],
        ["--layer", "first"],
        ["--all", "--image", "1"],
        ["--all", "--raw", "a.npz"],
        ["--all", "--run", "run"],
        ["--run", "run", "--layer", "0"],
        ["--worst", "3"],
        ["--out", "a.txt"],
        ["--raw", "a.txt"],
        ["--split", "test"],
        ["--cost-l1", "-1"],
    ],
)
def test_usage_errors(match: Detr, tmp_path: Path, args: list[str]) -> None:
    shown = match(*args)
    shown.fails(2)
    assert 1 <= len(shown.err.splitlines()) <= 3
    assert not list(tmp_path.iterdir())


def test_dataset(match: Detr, root: Path, tmp_path: Path) -> None:
    document = match("--all", "--json", "--worst", 5).ok().json
    assert document["schema"] == "detr.match-debug-all/1"
    assert (document["images"], document["targets"]) == (6, sum(len(truth_of(root, image)) for image in range(1, 7)))
    assert len(document["largest_losses"]) == len(document["smallest_margins"]) == 5
    assert "the largest losses" in match("--all").ok().out
    with Image.open(tmp_path / "match-debug-all-2.png") as image:
        assert min(image.size) > 300


def test_unreadable_image(detr: Detr, root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "data", tmp_path / "data")
    broken = tmp_path / "data" / "val" / "000001.png"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    args = ["match-debug", tmp_path / "data", "--weights", root / "w.safetensors", "--device", "cpu"]
    for more in (["--all"], ["--image", 2]):
        detr(*args, *more).fails(3, "000001.png")
    shown = detr(*args, "--all", "--skip-bad", "--json").ok()
    assert shown.json["images"] == 5
    assert "left out:" in shown.err


@pytest.mark.slow
def test_run(detr: Detr, root: Path, tmp_path: Path) -> None:
    """The matching stored by `detr train` equals the matching of its weights."""
    detr("train", root / "data", *SMALL, "--batch-size", 4, "--lr", 1e-3, "--epochs", 3).ok()
    document = detr("match-debug", "--run", "run", "--json").ok().json
    assert document["schema"] == "detr.match-debug-run/1"
    assert document["targets"] > 0
    assert [item["epoch"] for item in document["evaluations"]] == [2, 3]
    with (tmp_path / "run" / "metrics.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert [item["loss"] for item in document["evaluations"]] == losses[1:]
    with np.load(tmp_path / "run" / "matching.npz") as file:
        kept = dict(file)
    start = 0
    for image_id, count in zip(kept["image_ids"].tolist(), kept["counts"].tolist(), strict=True):
        now = detr(
            "match-debug", root / "data", "--weights", "run/last.safetensors", "--image", image_id,
            "--device", "cpu", "--json",
        ).json  # fmt: skip
        assert now["queries"] == kept["queries"][-1][:, start : start + count].tolist()
        start += count
    assert start == document["targets"]
    table = detr("match-debug", "--run", "run").ok()
    assert [line.split()[0] for line in table.out.splitlines()[2:]] == ["epoch", "2", "3"]


@pytest.mark.slow
def test_weights_of_a_run_use_its_costs(
    detr: Detr, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published weights are matched with the published costs, also inside a run folder."""
    detr("train", root / "data", *SMALL, "--batch-size", 8, "--set", "cost.class=3", "--epochs", 1).ok()
    torch.save({"model": published_names()}, tmp_path / "published.pth")
    monkeypatch.setattr("detrcli.checkpoints.download.fetch", lambda *_, **__: tmp_path / "published.pth")
    monkeypatch.setattr("detrcli.checkpoints.sources.check_reachable", lambda _: None)
    smaller = preset("detr-r50")._replace(config=CONFIG)
    monkeypatch.setattr("detrcli.checkpoints.load.preset", lambda _: smaller)
    monkeypatch.chdir(tmp_path / "run")
    args = ["match-debug", root / "data", "--device", "cpu", "--size", 64, "--match-classes-by-id", "--json", "--out"]
    for weights, of_class in (("detr-r50", 1), (".", 3), ("best.safetensors", 3)):
        shown = detr(*args, tmp_path / f"{weights}.png", "--weights", weights).ok()
        assert shown.json["cost_weights"] == {"class": of_class, "l1": 5, "giou": 2}
    for broken in (b"", Path("matching.npz").read_bytes()[:99]):
        Path("matching.npz").write_bytes(broken)
        assert detr("match-debug", "--run", ".").code == 3
    Path("matching.npz").unlink()
    detr("match-debug", "--run", ".").fails(3, "no matching history")


def test_objects_of_unknown_classes_are_reported(detr: Detr, root: Path, tmp_path: Path) -> None:
    """Otherwise their image would look empty, and its detections like false positives."""
    data = json.loads((root / "data" / "annotations" / "instances_val.json").read_text())
    for category in data["categories"]:
        if category["name"] != "cat":
            category["name"] = f"new {category['name']}"
    new = {category["id"]: category["name"] for category in data["categories"] if category["name"] != "cat"}
    (tmp_path / "some.json").write_text(json.dumps(data))
    (tmp_path / "images").symlink_to(root / "data" / "val")
    args = ("match-debug", "some.json", "--weights", root / "w.safetensors", "--device", "cpu")
    image = max(range(1, 7), key=lambda item: sum(entry["category_id"] in new for entry in truth_of(root, item)))
    wanted = Counter(new[entry["category_id"]] for entry in truth_of(root, image) if entry["category_id"] in new)
    shown = detr(*args, "--image", image, "--json")
    assert shown.json["left_out"] == wanted
    assert len(shown.json["targets"]) == len(truth_of(root, image)) - wanted.total()
    name, count = wanted.most_common()[0]
    table = detr(*args, "--image", image)
    assert f"left out: {wanted.total()} object" in table.out
    assert f"{count} {name}" in table.out
    everywhere = Counter(new[entry["category_id"]] for entry in data["annotations"] if entry["category_id"] in new)
    assert detr(*args, "--all", "--json").json["left_out"] == everywhere
    assert "left out" not in detr("match-debug", root / "data", *args[2:], "--all").out


@pytest.mark.slow
def test_names_from_files_are_escaped(detr: Detr, root: Path, tmp_path: Path) -> None:
    checkpoint = small_weights(TINY)
    renamed = Classes(checkpoint.classes.ids, np.array([EVIL, "dog", "x"]))
    save(replace(checkpoint, classes=renamed), tmp_path / "evil.safetensors")
    make_shapes(tmp_path / "data", images=5, size=64, classes=("circle",), objects=3)
    path = tmp_path / "data" / "annotations" / "instances_val.json"
    document = json.loads(path.read_text())
    document["categories"] = [{"id": 1, "name": EVIL}]
    path.write_text(json.dumps(document))
    shown = detr("match-debug", tmp_path / "data", "--weights", "evil.safetensors", "--threshold", 0).ok()
    assert "\x1b" not in shown.out
    assert "cat</script>\\x1b[31m" in shown.out
