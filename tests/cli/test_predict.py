"""`detr predict`: its inputs, outputs and errors."""

import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from golden_rules import GOLDEN, PIXEL, VALUE, Golden
from here import Detr, Notes
from PIL import Image
from small import TINY, small_weights, smooth_noise

import detrcli
from detrcli.api.predictions import MANY
from detrcli.checkpoints.formats import native
from detrcli.cli.app import app
from detrcli.data.images import MAX_PIXELS


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    native.save(small_weights(TINY), path)
    return path


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (96, 64)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(path)
    return path


@pytest.mark.slow
def test_golden_images(detr: Detr, tmp_path: Path) -> None:
    """Box, score and class of every query, alone and in batches, from a .pth of the golden weights."""
    torch.save({"model": Golden("detr-r50").state_dict()}, tmp_path / "w.pth")
    names = ["picture-odd", "picture-wide", "picture-tall"]
    other = picture(tmp_path / "other.png", size=(90, 20))
    odd, *others = (GOLDEN / f"{name}.png" for name in names)
    files = [odd, other, *others, odd]
    shown = detr(
        "predict", *files, "--weights", "w.pth", "--threshold", 0, "--no-images", "--json", "--batch-size", 2
    ).ok()
    images = [(Path(image["file"]).stem, image) for image in shown.json["images"] if image["file"] != str(other)]
    assert [name for name, _ in images] == [*names, "picture-odd"]
    with np.load(GOLDEN / "detr-r50-pictures.npz") as golden:
        for name, seen in images:
            rows = seen["detections"]
            assert [row["query"] for row in rows] == list(range(100))
            np.testing.assert_allclose([row["box"] for row in rows], golden[f"{name}.boxes"], rtol=0, atol=PIXEL)
            np.testing.assert_allclose([row["score"] for row in rows], golden[f"{name}.scores"], rtol=0, atol=VALUE)
            assert [row["category_id"] for row in rows] == golden[f"{name}.labels"].tolist()
            with Image.open(GOLDEN / f"{name}.png") as image:
                assert (seen["width"], seen["height"]) == image.size


def test_json_document(detr: Detr, weights: Path, tmp_path: Path) -> None:
    a, b = picture(tmp_path / "a.png"), tmp_path / "b.png"
    shown = detr("predict", a, b, "--weights", weights, "--threshold", 0.3, "--json", "--no-images")
    document = shown.json
    assert list(document) == ["schema", "weights", "threshold", "images", "skipped"]
    assert document["schema"] == "detr.predict/1"
    assert document["weights"] == str(weights)
    assert document["threshold"] == 0.3
    assert [list(image) for image in document["images"]] == [["file", "width", "height", "detections"]]
    assert [(list(skipped), skipped["file"]) for skipped in document["skipped"]] == [(["file", "reason"], str(b))]
    for row in document["images"][0]["detections"]:
        assert list(row) == ["query", "category_id", "label", "score", "box"]
        assert row["score"] >= 0.3
    assert shown.code == 0
    assert f"{b}: skipped" in shown.err
    assert detr("predict", a, "--weights", weights, "--format", "json", "--no-images").json["schema"]


def test_coco_and_csv_have_the_same_content(detr: Detr, weights: Path, tmp_path: Path) -> None:
    """Image ids count from 1 in input order and include skipped images."""
    files = [picture(tmp_path / "b.png"), tmp_path / "no.png", picture(tmp_path / "a, 1.png", 1)]
    call = ["predict", *files, "--weights", weights, "--threshold", 0, "--no-images", "--format"]
    rows = [
        {**row, "file": image["file"]} for image in detr(*call, "json").json["images"] for row in image["detections"]
    ]
    coco = detr(*call, "coco").json
    assert [row["image_id"] for row in coco] == [1] * 9 + [3] * 9
    for ours, theirs in zip(rows, coco, strict=True):
        x0, y0, x1, y1 = ours["box"]
        assert theirs["bbox"] == pytest.approx([x0, y0, x1 - x0, y1 - y0], abs=2e-3)
        assert (theirs["category_id"], theirs["score"]) == (ours["category_id"], ours["score"])
    table = list(csv.DictReader(io.StringIO(detr(*call, "csv").out)))
    assert [(r["file"], int(r["query"]), r["label"], float(r["x1"])) for r in table] == [
        (r["file"], r["query"], r["label"], r["box"][2]) for r in rows
    ]


def test_tables(detr: Detr, weights: Path, tmp_path: Path) -> None:
    a, b = picture(tmp_path / "a.png"), picture(tmp_path / "b.png", 1)
    item = detr("predict", a, "--weights", weights, "--threshold", 0, "--no-images")
    assert item.out.split()[:7] == ["query", "label", "score", "x0", "y0", "x1", "y1"]
    assert len(item.out.splitlines()) == 10
    two = detr("predict", a, b, "--weights", weights, "--threshold", 0, "--no-images")
    assert two.out.split()[:3] == ["file", "objects", "classes"]
    assert re.search(r"a\.png +9 ", two.out)
    assert "\x1b" not in item.out + item.err + two.out + two.err
    none = detr("predict", a, "--weights", weights, "--threshold", 1, "--no-images")
    assert "score of 1.0" in none.out


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_folders_globs_and_stdin(detr: Detr, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("in/b.png", "in/a.PNG", "in/deep/er/c.jpg", "in/odd [1].png"):
        picture(tmp_path / name)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    (tmp_path / "in" / "._a.png").write_bytes(b"metadata")

    def seen(*args: object) -> list[str]:
        shown = detr("predict", *args, "--weights", weights, "--json", "--no-images").ok()
        return [Path(image["file"]).relative_to("in").as_posix() for image in shown.json["images"]]

    everything = ["a.PNG", "b.png", "deep/er/c.jpg", "odd [1].png"]
    assert seen("in") == everything
    assert seen("in/*.png") == ["b.png", "odd [1].png"]
    assert seen("in/**/*.jpg") == ["deep/er/c.jpg"]
    assert seen("in/odd [1].png") == ["odd [1].png"]
    assert seen("in/b.png", "in/a.PNG") == ["b.png", "a.PNG"]

    class Stdin:
        buffer = io.BytesIO(b"in/b.png\r\n\nin/odd [1].png\n")

    monkeypatch.setattr(sys, "stdin", Stdin)
    assert seen("-", "in/deep") == ["b.png", "odd [1].png", "deep/er/c.jpg"]


def test_annotated_images(detr: Detr, weights: Path, tmp_path: Path) -> None:
    """Written to the next free folder, with subfolders and distinct names. Inputs do not change."""
    for name in ("in/a.png", "in/deep/b.jpg", "in/a.bmp", "other/a.png"):
        picture(tmp_path / name, size=(300, 200))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    call = ["predict", "in", "other/a.png", "--weights", weights, "--threshold", 0]
    assert "detr: writing to predictions\n" in detr(*call).err
    assert files_below(tmp_path / "predictions") == ["a-2.png", "a-3.png", "a.png", "deep/b.jpg"]
    assert "writing to predictions-2\n" in detr(*call).err
    assert files_below(tmp_path / "predictions-2") == files_below(tmp_path / "predictions")
    assert all(path.read_bytes() == data for path, data in before.items())
    with Image.open(tmp_path / "predictions" / "a.png") as drawn, Image.open(tmp_path / "in" / "a.png") as given:
        assert (np.asarray(drawn.convert("RGB")) != np.asarray(given)).any()
    with Image.open(tmp_path / "predictions" / "deep" / "b.jpg") as drawn:
        assert drawn.format == "JPEG"


def test_explicit_output_that_exists(detr: Detr, weights: Path, tmp_path: Path) -> None:
    picture(tmp_path / "a.png", size=(300, 200))
    call = ["predict", "a.png", "--weights", weights, "--out"]
    (tmp_path / "empty").mkdir()
    assert detr(*call, "empty").code == 0
    assert detr(*call, "new/deep").code == 0
    detr(*call, "new").fails(2, "--overwrite")
    assert detr(*call, "new", "--overwrite").code == 0


def test_subset_of_classes(detr: Detr, weights: Path, tmp_path: Path) -> None:
    """Detections of the other classes do not change. An unknown class is an error that lists the classes."""
    a = picture(tmp_path / "a.png")
    call = ["predict", a, "nowhere.png", "--weights", weights, "--threshold", 0, "--json", "--no-images"]
    every = detr(*call).json["images"][0]["detections"]
    labels = {row["label"] for row in every}
    assert labels <= {"cat", "dog", "Żubr"}
    for asked in ("cat", "dog, CAT", " żubr,,dog", "cat,dog,Żubr"):
        names = {name.strip().casefold() for name in asked.split(",")}
        shown = detr(*call, "--classes", asked)
        assert shown.json["images"][0]["detections"] == [row for row in every if row["label"].casefold() in names]
        assert len(shown.json["skipped"]) == 1
    shown = detr(*call, "--classes", "dog,Lynx")
    shown.fails(2)
    assert all(word in shown.err for word in ("--classes", "Lynx", "cat, dog, Żubr"))
    assert detr(*call, "--classes", ",").code == 2


def test_exit_codes_for_bad_images(detr: Detr, weights: Path, tmp_path: Path) -> None:
    good, bad = picture(tmp_path / "a.png"), tmp_path / "half.jpg"
    picture(tmp_path / "whole.jpg", size=(300, 300))
    bad.write_bytes((tmp_path / "whole.jpg").read_bytes()[:5000])
    (tmp_path / "nothing").mkdir()
    call = ["predict", "--weights", weights, "--no-images", "--json"]
    some = detr(*call, good, bad).ok()
    assert some.json["skipped"][0]["file"] == str(bad)
    assert detr(*call, good, bad, "--strict").code == 3
    assert detr(*call, good, "--strict").code == 0
    none = detr(*call, bad, "nothing", "no*.png")
    assert none.code == 3
    assert none.json["images"] == []
    assert [Path(skipped["file"]).name for skipped in none.json["skipped"]] == ["half.jpg", "nothing", "no*.png"]


def test_large_images_are_refused(detr: Detr, weights: Path, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    call = ["predict", "a.png", "--weights", weights, "--no-images", "--max-pixels"]
    assert detr(*call, 96 * 64).code == 0
    detr(*call, 96 * 64 - 1).fails(3, "6,143")


def test_the_pixel_limit_of_pillow_does_not_apply(detr: Detr, weights: Path, tmp_path: Path) -> None:
    """190 million pixels: Pillow alone would refuse them, our limit does not."""
    Image.new("1", (19_000, 10_000)).save(tmp_path / "large.png")
    shown = detr("predict", "large.png", "--weights", weights, "--no-images", "--json")
    assert shown.json["images"][0]["width"] == 19_000


def test_size_options_reach_the_network(detr: Detr, weights: Path, tmp_path: Path) -> None:
    picture(tmp_path / "a.png", size=(200, 100))
    call = ["predict", "a.png", "--weights", weights, "--no-images", "--json", "--threshold", 0]
    plain = detr(*call).json["images"]
    assert detr(*call, "--size", 64, "--max-size", 106).json["images"] == plain
    assert detr(*call, "--size", 32).json["images"] != plain
    assert detr(*call, "--max-size", 64).json["images"] != plain


def test_only_the_first_frame_is_a_note(detr: Detr, weights: Path, tmp_path: Path) -> None:
    image = Image.open(picture(tmp_path / "a.png"))
    image.save(tmp_path / "a.gif", save_all=True, append_images=[image.rotate(180)])
    assert "a.gif: " in detr("predict", "a.gif", "--weights", weights, "--no-images").err


def test_no_cell_of_csv_is_a_formula(detr: Detr, weights: Path, tmp_path: Path) -> None:
    """Names that a spreadsheet would evaluate are quoted; negative numbers stay numbers."""
    names = ["=1+1.png", "+a.png", "@a.png", "-a.png", "a=.png"]
    for name in names:
        picture(tmp_path / name)
    arguments = ["--weights", weights, "--no-images", "--format", "csv", "--threshold", 0]
    shown = detr("predict", *arguments, "--", *names)
    rows = list(csv.DictReader(shown.out.splitlines()))
    assert [*dict.fromkeys(row["file"] for row in rows)] == ["'=1+1.png", "'+a.png", "'@a.png", "'-a.png", "a=.png"]
    assert all(float(row["x0"]) <= float(row["x1"]) for row in rows)


def test_names_from_files_are_made_visible(detr: Detr, weights: Path, tmp_path: Path) -> None:
    name = "a\x1b[31m\u202e.png"
    picture(tmp_path / name)
    table = detr("predict", name, picture(tmp_path / "b.png"), "no\x1b", "--weights", weights)
    assert "\x1b" not in table.out + table.err
    assert "\u202e" not in table.out + table.err
    assert "a\\x1b[31m\\u202e.png" in table.out
    document = detr("predict", name, "--weights", weights, "--json", "--no-images")
    assert "\x1b" not in document.out
    assert document.json["images"][0]["file"] == name


@pytest.mark.skipif(os.name == "nt", reason="no /dev/full")
@pytest.mark.slow
def test_a_full_disk_is_the_machines_error(weights: Path, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with Path("/dev/full").open("w") as full:
        shown = subprocess.run(
            [sys.executable, "-m", "detrcli", "predict", "a.png", "--weights", weights, "--json", "--no-images"],
            cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert shown.returncode == 6
    assert "No space left on device" in shown.stderr


def test_paths_of_any_language(detr: Detr, weights: Path, tmp_path: Path) -> None:
    picture(tmp_path / "mes photos é" / "狗 1.png")
    shutil.copy(weights, tmp_path / "poids é.safetensors")
    shown = detr("predict", "mes photos é", "--weights", "poids é.safetensors", "--json", "--out", "sortie é")
    assert shown.json["images"][0]["file"] == str(Path("mes photos é", "狗 1.png"))
    assert files_below(tmp_path / "sortie é") == ["狗 1.png"]


@pytest.mark.slow
def test_csv_has_no_escape_bytes(detr: Detr, weights: Path, tmp_path: Path) -> None:
    """Escape bytes are escaped, and a file name that is not UTF-8 is no error."""
    picture(tmp_path / "a\x1b[31m\u202e.png")
    if sys.platform == "linux":
        picture(tmp_path / "b.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    call = ["predict", ".", "--weights", weights, "--threshold", "0", "--no-images", "--format", "csv"]
    shown = subprocess.run(
        [sys.executable, "-m", "detrcli", *call],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
    )  # fmt: skip
    assert shown.returncode == 0
    assert "\x1b" not in shown.stdout
    assert "a\\x1b[31m\\u202e.png,0," in shown.stdout


def test_odd_outputs(detr: Detr, weights: Path, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    call = ["predict", "a.png", "--weights", weights, "--overwrite", "--out"]
    for out in ("file", "link"):
        detr(*call, out).fails(2, out)
    assert detr(*call, "file/deep").code == 6
    assert (tmp_path / "file").read_text() == "mine"


def test_overwriting_does_not_write_through_links(detr: Detr, weights: Path, tmp_path: Path) -> None:
    data = picture(tmp_path / "in" / "a.png").read_bytes()
    (tmp_path / "out").mkdir()
    (tmp_path / "precious.png").write_bytes(b"precious")
    (tmp_path / "out" / "a.png").symlink_to(tmp_path / "precious.png")
    assert detr("predict", "in", "--weights", weights, "--out", "out", "--overwrite").code == 0
    assert (tmp_path / "precious.png").read_bytes() == b"precious"
    (tmp_path / "out" / "a.png").unlink()
    os.link(tmp_path / "in" / "a.png", tmp_path / "out" / "a.png")
    assert detr("predict", "in", "--weights", weights, "--out", "out", "--overwrite").code == 0
    assert (tmp_path / "in" / "a.png").read_bytes() == data
    detr("predict", "in", "--weights", weights, "--out", "in", "--overwrite", "--json").fails(2)
    assert files_below(tmp_path / "in") == ["a.png"]


def test_odd_names_are_skipped(detr: Detr, weights: Path, tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png")
    picture(tmp_path / "in" / ".hidden" / "b.png")
    (tmp_path / "in" / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "in" / "loop.jpg").symlink_to("loop.jpg")
    shown = detr("predict", "in", "x" * 300, "--weights", weights, "--json", "--strict", "--out", "out")
    assert shown.code == 3
    assert [Path(image["file"]).name for image in shown.json["images"]] == ["a.png"]
    assert [Path(skipped["file"]).name for skipped in shown.json["skipped"]] == ["gone.jpg", "loop.jpg", "x" * 300]
    assert detr("predict", "", "--weights", weights).code == 2


@pytest.mark.slow
def test_a_right_hash_and_model_are_accepted(detr: Detr, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    weights = tmp_path / "r50.safetensors"
    native.save(small_weights(), weights)
    call = ["predict", "a.png", "--weights", weights, "--no-images"]
    right = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert detr(*call, "--sha256", right).code == 0
    assert detr(*call, "--model", "detr-r50").code == 0
    detr(*call, "--model", "detr-r101-dc5").fails(2, "detr-r101-dc5")


def test_python_and_the_command_agree(detr: Detr, weights: Path, tmp_path: Path) -> None:
    """With thresholds by class, a filter, drawings, and a reporter."""
    files = [picture(tmp_path / "in" / "a.png"), picture(tmp_path / "in" / "b.jpg", 1)]
    (tmp_path / "in" / "c.png").touch()
    every = detr("predict", "in", "--weights", weights, "--threshold", 0, "--json", "--no-images").json["images"]
    rows = [row for image in every for row in image["detections"]]
    limits = {row["label"]: sorted(r["score"] for r in rows if r["label"] == row["label"])[1] for row in rows}
    limits.pop(next(iter(limits))) if len(limits) > 1 else None  # a class without a threshold of its own
    classes = {name: {"threshold": value, "f1": 0.5} for name, value in limits.items()}
    thresholds = {"schema": "detr.thresholds/1", "all": {"threshold": 1.0}, "classes": classes}
    (tmp_path / "t.json").write_text(json.dumps(thresholds))
    reporter = Notes()
    options = detrcli.LoadOptions(str(weights), "cpu")
    found = detrcli.predict("in", options, threshold="t.json", draw=True, out="out", reporter=reporter)
    command = ("predict", "in", "--weights", weights, "--threshold", "t.json", "--json", "--out", "too")
    assert found.document == detr(*command).json
    kept = [sum(row["score"] >= limits.get(row["label"], 1.0) for row in image["detections"]) for image in every]
    assert [len(image["detections"]) for image in found.document["images"]] == kept
    assert 0 < found.objects == sum(kept) < len(rows)
    assert files_below(tmp_path / "out") == files_below(tmp_path / "too") == ["a.png", "b.jpg"]
    assert any("c.png" in note for note in reporter.notes)
    assert "<table>" in found._repr_html_()
    label = next(iter(limits))
    some = detrcli.predict(files, detrcli.load(weights, "cpu"), threshold=0, classes=[label.upper()])
    assert [row["label"] for image in some.document["images"] for row in image["detections"]] == [
        row["label"] for row in rows if row["label"] == label
    ]


def test_the_pixel_limit_of_python_applies() -> None:
    options = typer.main.get_command(app).commands["predict"].params
    (limit,) = (option for option in options if option.name == "max_pixels")
    assert limit.default == MAX_PIXELS


def test_one_label_best_and_clipped(detr: Detr, tmp_path: Path) -> None:
    """In JSON, COCO and CSV: the best class of each query, the best detections, and boxes within the image."""
    smooth_noise(1, (120, 80)).save(tmp_path / "a.png")
    call = ["predict", "a.png", "--weights", "shapes", "--threshold", 0, "--no-images"]
    every = detr(*call, "--json").json["images"][0]["detections"]
    best: dict[int, dict[str, Any]] = {}
    for row in every:
        best[row["query"]] = max(row, best.get(row["query"], row), key=lambda row: row["score"])
    assert len(best) < len(every)
    single = detr(*call, "--json", "--one-label").json["images"][0]["detections"]
    assert single == [row for row in every if row is best[row["query"]]]
    top = sorted((row["score"] for row in single), reverse=True)[:3]
    options = ("--one-label", "--max-det", 3)
    kept = detr(*call, *options, "--json").json["images"][0]["detections"]
    assert kept == [row for row in single if row["score"] in top]
    assert [row["score"] for row in detr(*call, *options, "--format", "coco").json] == [row["score"] for row in kept]
    assert len(detr(*call, *options, "--format", "csv").out.splitlines()) == 4
    outside = [row for row in every if min(row["box"]) < 0 or row["box"][2] > 120 or row["box"][3] > 80]
    assert outside
    clipped = {
        (row["query"], row["label"]): row for row in detr(*call, "--clip", "--json").json["images"][0]["detections"]
    }
    for row in every:
        box = np.clip(row["box"], 0, [120, 80, 120, 80]).tolist()
        if min(box[2] - box[0], box[3] - box[1]) > 0.02:
            assert clipped[row["query"], row["label"]] == {**row, "box": box}


def test_many_images_are_summarized(detr: Detr, weights: Path, tmp_path: Path) -> None:
    """With objects by class; all images with -v. JSON is not affected."""
    for i in range(MANY):
        picture(tmp_path / "in" / f"{i:02}.png", i, (64, 48))
    call = ["predict", "in", "--weights", weights, "--threshold", 0.3, "--no-images"]
    assert detr(*call).out.startswith("file ")
    (tmp_path / "in" / "broken.png").write_bytes(b"text")
    shown = detr(*call).ok()
    document = detr(*call, "--json").json
    labels = [row["label"] for image in document["images"] for row in image["detections"]]
    first, *rest = shown.out.splitlines()
    assert first == f"{MANY + 1} images, {len(labels)} objects"
    assert "1 skipped" in rest
    assert "in/00.png" not in shown.out
    for label in set(labels):
        images = sum(any(row["label"] == label for row in image["detections"]) for image in document["images"])
        assert f"{label} {labels.count(label)} {images}" in [" ".join(line.split()) for line in rest]
    assert detr(*call, "-v").out.count(".png") == MANY
    none = detr(*call[:-2], 1, "--out", "out")
    assert none.out.splitlines() == [
        f"{MANY + 1} images, 0 objects, written to out",
        f"{MANY} without objects",
        "1 skipped",
    ]
