"""`detr eval` of a model with masks on panoptic data gives the numbers of `predict` and `eval --results`."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from here import Detr
from PIL import Image
from small import masked_weights

from detrcli.checkpoints.formats import native
from detrcli.structures import Classes

CLASSES = Classes(
    ids=np.array([7, 1, 300]), names=np.array(["cat", "dog", "sky"]), things=np.array([True, True, False])
)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A model with high scores and different segments in different images."""
    small = masked_weights()
    tensors = dict(small.tensors)
    usual = torch.tensor([2.6, 1.25, 1.2, 3.0])  # the logits of any query, which differ little
    head = "detector.class_head."
    tensors[f"{head}weight"] = 25 * tensors[f"{head}weight"]
    tensors[f"{head}bias"] = 25 * (tensors[f"{head}bias"] - usual) + torch.tensor([3.0, 3, 3, -3])
    tensors["mask_head.last.bias"] = tensors["mask_head.last.bias"] + 1
    loss = small.architecture.loss
    native.save(replace(small, tensors=tensors, classes=CLASSES, loss=loss), tmp_path / "sure.safetensors")
    return tmp_path / "sure.safetensors"


def pictures(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True)
    paths = []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (6, 9, 3), dtype=np.uint8)
        paths.append(folder / f"{number}.png")
        Image.fromarray(pixels).resize((96 + 8 * number, 64)).save(paths[-1])
    return paths


def spoil(root: Path, maps: Path) -> None:
    """Change the ground truth: an unlabeled corner, another class, a crowd, a missing segment."""
    document = json.loads((maps / "panoptic.json").read_text())
    for number, annotation in enumerate(document["annotations"]):
        with Image.open(maps / "panoptic" / annotation["file_name"]) as image:
            pixels = np.array(image)
        pixels[:20, :30] = 0
        segments = annotation["segments_info"]
        if number == 0:
            pixels[30:50, 40:80] = 77, 0, 0
            segments.append({"id": 77, "category_id": 7, "iscrowd": 0, "score": 1.0})
        if number == 1 and len(segments) > 1:
            segments[0]["iscrowd"] = 1
        if number == 2 and segments:
            segments[-1]["category_id"] = 1
        if number == 3 and segments:
            gone = segments.pop()
            pixels[(pixels.astype(int) @ (1, 256, 65536)) == gone["id"]] = 0
        ids = pixels.astype(int) @ (1, 256, 65536)
        annotation["segments_info"] = [item for item in segments if (ids == item["id"]).any()]
        for item in annotation["segments_info"]:
            rows, columns = np.nonzero(ids == item["id"])
            item["area"] = len(rows)
            item["bbox"] = [
                int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1
            ]  # fmt: skip
            item.pop("score")
        target = root / "annotations" / "panoptic_val" / annotation["file_name"]
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(target)
    for image, annotation in zip(document["images"], document["annotations"], strict=True):
        image["id"] = annotation["image_id"] = 10**10 + image["id"]
        image["file_name"] = Path(image["file_name"]).name
    (root / "annotations" / "panoptic_val.json").write_text(json.dumps(document))


def spoiled_predictions(detr: Detr, folder: Path, weights: Path, count: int) -> list[Path]:
    """Write a dataset whose panoptic ground truth is a changed prediction of the model, and return its images."""
    paths = pictures(folder / "data" / "val", count)
    find = ("predict", *paths, "--weights", weights, "--format", "panoptic", "--no-images")
    found = detr(*find, "--threshold", 0.3, "--out", "found").ok()
    assert {item["category_id"] for a in found.json["annotations"] for item in a["segments_info"]} > {300}
    spoil(folder / "data", folder / "found")
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [None, 0.5])
def test_quality_equals_that_of_the_files(detr: Detr, tmp_path: Path, weights: Path, threshold: float | None) -> None:
    paths = spoiled_predictions(detr, tmp_path, weights, 5)
    sure = () if threshold is None else ("--threshold", threshold)
    find = ("predict", *paths, "--weights", weights, "--format", "panoptic", "--no-images")
    truth = "data/annotations/panoptic_val.json"
    assert detr(*find, *sure, "--out", "maps", "--ids-from", truth).code == 0
    long_way = detr("eval", "--panoptic", truth, "--predictions", "maps/panoptic.json", "--json").ok()

    asked = ("eval", "data", "--weights", weights, *sure)
    shown = detr(*asked, "--json").ok()
    assert shown.json["panoptic"] == long_way.json["panoptic"]
    assert 0 < shown.json["panoptic"]["PQ"] < 1
    assert 0 < shown.json["panoptic"]["stuff"]["PQ"] < 1
    assert shown.json["schema"] == "detr.eval/1"
    assert shown.json["masks"].keys() == shown.json["boundary"].keys() == shown.json["metrics"].keys()
    assert 0 <= shown.json["boundary"]["AP50"] <= shown.json["masks"]["AP50"]
    table = detr(*asked, "--limit", 2).out
    assert "2 images" in table
    assert "boundary" in table
    assert "stuff" in table
    if threshold is None:
        reported = detr("report", "data", "--weights", weights, "--out", "why", "--json").ok()
        plain = detr(*asked, "--engine", "plain", "--json")  # by which reports are made
        assert reported.json["panoptic"] == plain.json["panoptic"]
        assert "PQ" in Path("why/index.html").read_text(encoding="utf-8")
    else:
        some = detr(*asked, "--classes", "cat,sky", "--json").json
        assert "panoptic" not in some
        assert some["masks"]["AP"] >= 0


@pytest.mark.slow
def test_classes_absent_from_the_data(
    detr: Detr, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixels of unknown classes are unlabeled. Without hotcoco the other metrics are still computed."""
    spoiled_predictions(detr, tmp_path, weights, 3)
    truth = tmp_path / "data" / "annotations" / "panoptic_val.json"
    truth.write_text(truth.read_text().replace('"name": "cat"', '"name": "cow"'))
    evaluate = ("eval", "data", "--weights", weights, "--json", "--threshold", 0.3)
    named = {item["label"]: item["PQ"] for item in detr(*evaluate).ok().json["panoptic"]["per_class"]}
    assert named.get("cow", 0) == 0
    assert "cat" not in named
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    shown = detr(*evaluate).ok()
    assert "panoptic quality is left out" in shown.err
    assert "panoptic" not in shown.json
    assert "boundary" in shown.json
