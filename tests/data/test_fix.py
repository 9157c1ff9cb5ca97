"""A corrected copy of a dataset: only the listed changes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from here import Detr
from PIL import Image

from detrcli.data.examine import examine_headers
from detrcli.data.source import open_data

CAT, DOG = 3, 8


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two splits in COCO layout, with fields that only COCO files have."""
    root = tmp_path / "data"
    for split, images in (("train", 2), ("val", 1)):
        (root / split / "deep").mkdir(parents=True)
        annotations: list[dict[str, Any]] = []
        for image in range(1, images + 1):
            Image.new("RGB", (100, 80), (image, 0, 0)).save(root / split / "deep" / f"{image}.png")
            for n, category in enumerate((CAT, DOG)):
                annotations.append(
                    {
                        "id": 10 * image + n, "image_id": image, "category_id": category,
                        "bbox": [10 + 40 * n, 10, 20, 20], "area": 300, "iscrowd": 0, "note": "kept",
                        "segmentation": [[10, 10, 30, 10, 30, 30]],
                    }
                )  # fmt: skip
        document = {
            "info": {"year": 2026},
            "images": [
                {"id": i, "file_name": f"deep/{i}.png", "width": 100, "height": 80, "license": 7}
                for i in range(1, images + 1)
            ],
            "annotations": annotations,
            "categories": [{"id": CAT, "name": "cat", "color": "red"}, {"id": DOG, "name": "dog"}],
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return root


def entry(kind: str, verdict: str = "wrong", **values: Any) -> dict[str, Any]:
    defaults = {"image_id": 1, "annotation_id": 10, "category_id": CAT, "box": [10, 10, 30, 30], "of": None}
    return {"kind": kind, "verdict": verdict, "file": "deep/1.png", **defaults, **values}


CHANGES = [
    entry("wrong_label", category_id=DOG),
    entry("loose_box", annotation_id=11, category_id=DOG, box=[40, 20, 90, 60]),
    entry("missing_label", image_id=2, annotation_id=None, box=[5, 6, 15, 26]),
    entry("duplicate", image_id=2, annotation_id=21, category_id=DOG, of=20),
    entry("wrong_label", "right", image_id=2, annotation_id=20, category_id=DOG),
    entry("wrong_label", "unsure", image_id=2, annotation_id=20, category_id=DOG),
]


def listed(tmp_path: Path, changes: Any, **more: Any) -> Path:
    path = tmp_path / "fixes.json"
    path.write_text(json.dumps({"schema": "detr.fix/1", "split": "train", "changes": changes, **more}))
    return path


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_kind_of_change(data: Path, tmp_path: Path, detr: Detr) -> None:
    before = everything(data)
    out = tmp_path / "new"
    shown = detr("data", "fix", data, "--list", listed(tmp_path, CHANGES), "--out", out)
    assert shown.code == 0, shown.err
    assert "4 changes in train, 2 marks" in shown.err
    assert everything(data) == before
    old = json.loads(before["annotations/instances_train.json"])
    new = json.loads((out / "annotations/instances_train.json").read_text())
    wanted = old["annotations"]
    wanted[0]["category_id"] = DOG
    wanted[1] |= {"bbox": [40.0, 20.0, 50.0, 40.0], "area": 2000.0}
    del wanted[1]["segmentation"]
    del wanted[3]
    wanted.append(
        {"id": 22, "image_id": 2, "category_id": CAT, "bbox": [5.0, 6.0, 10.0, 20.0], "area": 200.0, "iscrowd": 0}
    )
    assert new["annotations"] == wanted
    assert {key: new[key] for key in ("info", "images", "categories")} == {
        key: old[key] for key in ("info", "images", "categories")
    }
    assert json.loads((out / "annotations/instances_val.json").read_text()) == json.loads(
        before["annotations/instances_val.json"]
    )
    images, copies = (
        {name: data for name, data in files.items() if name.endswith(".png")} for files in (before, everything(out))
    )
    assert images == copies
    assert examine_headers(open_data(out), ["train", "val"]).ok
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ([entry("wrong_label", annotation_id=99)], "annotation 99 of image 1"),
        ([entry("wrong_label", image_id=99)], "image 99"),
        ([entry("wrong_label", category_id=99)], "category 99"),
        ([entry("hue")], "changes[0]"),
        ([entry("wrong_label", "maybe")], "changes[0]"),
        ([entry("wrong_label", box=[1, 2, 3])], "changes[0]"),
        ([entry("loose_box", box=[3, 3, 3, 3])], "changes[0]"),
        ([entry("missing_label")], "changes[0]"),
        ([7], "changes[0]"),
        ("all", "changes"),
    ],
)
def test_lists_that_do_not_fit_the_data(changes: Any, named: str, data: Path, tmp_path: Path, detr: Detr) -> None:
    shown = detr("data", "fix", data, "--list", listed(tmp_path, changes), "--out", tmp_path / "new")
    assert shown.code == 3, shown.err
    assert named in shown.err
    assert {path.name for path in tmp_path.iterdir()} == {"data", "fixes.json"}


def test_unusable_arguments(data: Path, tmp_path: Path, detr: Detr) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    fixes = listed(tmp_path, [])
    for file, out in (
        (tmp_path / "none.json", tmp_path / "n"), (fixes, data / "new"), (fixes, tmp_path / "full")
    ):  # fmt: skip
        assert detr("data", "fix", data, "--list", file, "--out", out).code == 2
    other = listed(tmp_path, [], split="test")
    shown = detr("data", "fix", data, "--list", other, "--out", tmp_path / "n")
    assert shown.code == 3
    assert "train, val" in shown.err


def test_other_layouts_become_coco(tmp_path: Path, detr: Detr) -> None:
    """YOLO: boxes in pixels, and held-out images as val."""
    root = tmp_path / "yolo"
    for folder in ("images/train", "labels/train"):
        (root / folder).mkdir(parents=True)
    for i in range(12):
        Image.fromarray(np.zeros((50, 100, 3), dtype=np.uint8)).save(root / "images/train" / f"{i}.png")
        (root / "labels/train" / f"{i}.txt").write_text("0 0.5 0.5 0.2 0.4\n")
    (root / "data.yaml").write_text("train: images/train\nnames: [cat]\n")
    raw = open_data(root).read("train")
    change = entry(
        "loose_box", image_id=int(raw.image_ids[0]), annotation_id=int(raw.annotation_ids[0]),
        category_id=int(raw.category_ids[0]), box=[10, 10, 60, 40],
    )  # fmt: skip
    out = tmp_path / "new"
    shown = detr("data", "fix", root, "--list", listed(tmp_path, [change]), "--out", out)
    assert shown.code == 0, shown.err
    found = {split: json.loads((out / f"annotations/instances_{split}.json").read_text()) for split in ("train", "val")}
    assert sum(len(one["images"]) for one in found.values()) == 12
    first = next(one for one in found["train"]["annotations"] if one["id"] == raw.annotation_ids[0])
    assert first["bbox"] == [10, 10, 50, 30]
    others = [one for one in found["train"]["annotations"] if one is not first]
    assert others[0]["bbox"] == [40, 15, 20, 20]
    assert examine_headers(open_data(out), ["train", "val"]).ok
