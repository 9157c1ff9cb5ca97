"""Results as JSON lines: written as they come, resumed, and shared between processes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from here import Detr, torchrun
from PIL import Image
from small import TINY, small_weights

from detrcli.checkpoints.formats import native

COUNT = 7


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six images, a file that is not an image, and weights."""
    native.save(small_weights(TINY), tmp_path / "w.safetensors")
    (tmp_path / "photos").mkdir()
    random = np.random.default_rng(0)
    for i in range(COUNT - 1):
        noise = random.integers(0, 255, (40 + i, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "photos" / "6.png").write_bytes(b"no picture")
    return tmp_path / "photos"


OPTIONS = ("--weights", "w.safetensors", "--no-images", "--threshold", 0.1, "--device", "cpu")


def lines_of(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    head, *lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert len({line["file"] for line in lines}) == len(lines)  # each once
    return head, {line["file"]: line for line in lines}


def test_lines_equal_the_document(detr: Detr, photos: Path, tmp_path: Path) -> None:
    document = detr("predict", photos, *OPTIONS, "--json").json
    shown = detr("predict", photos, *OPTIONS, "--save", "found.jsonl").ok()
    objects = sum(len(image["detections"]) for image in document["images"])
    assert shown.out.splitlines()[:2] == [f"7 images, {objects} objects, written to found.jsonl", "1 skipped"]
    head, lines = lines_of(tmp_path / "found.jsonl")
    assert head["schema"] == "detr.predict-lines/1"
    assert head["threshold"] == 0.1
    assert list(lines.values())[:-1] == document["images"]
    assert [lines[skipped["file"]] for skipped in document["skipped"]] == document["skipped"]


def test_tiles_are_resumed(detr: Detr, photos: Path, tmp_path: Path) -> None:
    options = (*OPTIONS, "--tiles", "30x30", "--overlap", 0.3, "--nms", 0.6)
    document = detr("predict", photos, *options, "--json").json
    detr("predict", photos, *options, "--save", "found.jsonl").ok()
    head, lines = lines_of(tmp_path / "found.jsonl")
    assert (head["tiles"], head["overlap"], head["nms"]) == ("30x30", 0.3, 0.6)
    assert list(lines.values())[:-1] == document["images"]
    assert max(row["query"] for image in document["images"] for row in image["detections"]) >= TINY.queries
    whole = (tmp_path / "found.jsonl").read_bytes()
    (tmp_path / "found.jsonl").write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    detr("predict", photos, *options, "--save", "found.jsonl", "--resume", "--batch-size", 1).ok()
    assert (tmp_path / "found.jsonl").read_bytes() == whole


@pytest.mark.parametrize("kept", [0, 1, 3, COUNT])
@pytest.mark.parametrize("half", [b"", b'{"file": "half of a li'])
def test_an_interrupted_prediction_is_resumed(kept: int, half: bytes, detr: Detr, photos: Path, tmp_path: Path) -> None:
    """Without the images in the file, except for an incomplete last line."""
    detr("predict", photos, *OPTIONS, "--save", "found.jsonl")
    whole = (tmp_path / "found.jsonl").read_bytes()
    head, *lines = whole.splitlines(keepends=True)
    (tmp_path / "found.jsonl").write_bytes(b"".join([head, *lines[:kept]]) + half)
    shown = detr("predict", photos, *OPTIONS, "--save", "found.jsonl", "--resume")
    assert shown.out.startswith(f"{COUNT - kept} images")
    assert (tmp_path / "found.jsonl").read_bytes() == whole


def test_options_that_exclude_each_other(detr: Detr, photos: Path, tmp_path: Path) -> None:
    detr("predict", photos, *OPTIONS, "--save", "found.jsonl")
    before = (tmp_path / "found.jsonl").read_bytes()
    for options, named in (
        (("--save", "found.jsonl"), "found.jsonl"),
        (("--save", "found.jsonl", "--resume", "--classes", "cat"), "classes"),
        (("--save", "found.jsonl", "--resume", "--tiles", 2), "tiles"),
        (("--save", "found.jsonl", "--resume", "--nms", 0.5), "nms"),
        (("--save", "other.jsonl", "--json"), "--json"),
    ):
        detr("predict", photos, *OPTIONS, *options).fails(2, named)
    (tmp_path / "foreign.jsonl").write_text("[1]\n")
    assert detr("predict", photos, *OPTIONS, "--save", "foreign.jsonl", "--resume").code == 3
    assert (tmp_path / "found.jsonl").read_bytes() == before
    assert (tmp_path / "foreign.jsonl").read_text() == "[1]\n"


@pytest.mark.parametrize("line", [b"{", b"\xff", b"5", b'{"file": 3}', b"[" * 100_000])
def test_a_changed_line_is_an_error(line: bytes, detr: Detr, photos: Path, tmp_path: Path) -> None:
    detr("predict", photos, *OPTIONS, "--save", "found.jsonl")
    head, first, *rest = (tmp_path / "found.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "found.jsonl").write_bytes(b"".join([head, first, line + b"\n", *rest[1:]]))
    detr("predict", photos, *OPTIONS, "--save", "found.jsonl", "--resume").fails(3, "found.jsonl: line 3")


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")  # as in the two processes: scores are compared exactly
def test_two_processes_report_once(detr: Detr, photos: Path, tmp_path: Path) -> None:
    alone = detr("predict", photos, *OPTIONS, "--json").json
    together = torchrun("predict", photos, *OPTIONS, "--json")
    assert together.returncode == 0, together.stderr
    assert json.loads(together.stdout) == alone
    assert together.stderr.count("6.png: skipped") == 1

    detr("predict", photos, *OPTIONS, "--save", "one.jsonl")
    head, *lines = (tmp_path / "one.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "two.jsonl").write_bytes(head + lines[0])
    (tmp_path / "two.jsonl.part1").write_bytes(lines[3] + b'{"file": "half')  # of a run that was killed
    done = torchrun("predict", photos, *OPTIONS, "--save", "two.jsonl", "--resume")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("5 images")
    assert lines_of(tmp_path / "two.jsonl") == lines_of(tmp_path / "one.jsonl")
    assert not list(tmp_path.glob("*.part*"))
