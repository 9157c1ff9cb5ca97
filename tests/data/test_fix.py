"""A corrected copy of a dataset: only the listed changes."""

import json
from pathlib import Path
from typing import Any

import folders
import pytest
from here import Detr

from detrcli.data.examine import examine_headers
from detrcli.data.source import open_data

CAT, DOG = 3, 8


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two splits in COCO layout, with fields that only COCO files have. Each image has a cat and a dog."""
    root = tmp_path / "data"
    for split, ids in (("train", (1, 2)), ("val", (1,))):
        images = [{"id": i, "file_name": f"deep/{i}.png", "width": 100, "height": 80, "license": 7} for i in ids]
        annotations = [
            {
                "id": 10 * image["id"] + n, "image_id": image["id"], "category_id": category,
                "bbox": [10 + 40 * n, 10, 20, 20], "area": 300, "iscrowd": 0, "note": "kept",
                "segmentation": [[10, 10, 30, 10, 30, 30]],
            }
            for image in images
            for n, category in enumerate((CAT, DOG))
        ]  # fmt: skip
        categories = [{"id": CAT, "name": "cat", "color": "red"}, {"id": DOG, "name": "dog"}]
        document = {"info": {"year": 2026}, "images": images, "annotations": annotations, "categories": categories}
        folders.written(root / "annotations" / f"instances_{split}.json", json.dumps(document))
        for image in images:
            folders.image(root / split / image["file_name"], (100, 80))
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
    document = {"schema": "detr.fix/1", "split": "train", "changes": changes, **more}
    return folders.written(tmp_path / "fixes.json", json.dumps(document))


def contents(folder: Path) -> dict[str, Any]:
    """Return the parsed annotation files and the bytes of the images."""
    files = folders.contents(folder).items()
    return {name: json.loads(data) if name.endswith(".json") else data for name, data in files}


def test_each_kind_of_change(data: Path, tmp_path: Path, detr: Detr) -> None:
    before = contents(data)
    shown = detr("data", "fix", data, "--list", listed(tmp_path, CHANGES), "--out", tmp_path / "new").ok()
    assert "4 changes in train, 2 marks" in shown.err
    assert contents(data) == before
    annotations = before["annotations/instances_train.json"]["annotations"]
    annotations[0]["category_id"] = DOG
    annotations[1] |= {"bbox": [40.0, 20.0, 50.0, 40.0], "area": 2000.0}
    del annotations[1]["segmentation"]
    added = {"id": 22, "image_id": 2, "category_id": CAT, "bbox": [5.0, 6.0, 10.0, 20.0], "area": 200.0, "iscrowd": 0}
    annotations[3] = added
    assert contents(tmp_path / "new") == before
    assert examine_headers(open_data(tmp_path / "new"), ["train", "val"]).ok
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ([entry("wrong_label", annotation_id=99)], "annotation 99 of image 1"),
        ([entry("wrong_label", image_id=99)], "image 99"),
        ([entry("wrong_label", category_id=99)], "category 99"),
        *(
            ([CHANGES[0], wrong], "changes[1]")
            for wrong in (
                entry("hue"), entry("wrong_label", "maybe"), entry("wrong_label", box=[1, 2, 3]),
                entry("loose_box", box=[3, 3, 3, 4]), entry("loose_box", box=[3, 3, 4, 3]), entry("missing_label"),
                entry("loose_box", annotation_id=None), entry("poor_mask"), 7,
            )
        ),
        ([entry("poor_mask", mask={"size": [9, 9], "counts": "ab"})], "mask for annotation 10"),
        ([entry("poor_mask", mask={"size": [80, 100], "counts": "@@"})], "mask for annotation 10"),
        ("all", "changes"),
    ],
)  # fmt: skip
def test_lists_that_do_not_fit_the_data(changes: Any, named: str, data: Path, tmp_path: Path, detr: Detr) -> None:
    detr("data", "fix", data, "--list", listed(tmp_path, changes), "--out", tmp_path / "new").fails(3, named)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "fixes.json"}


def test_unusable_arguments(data: Path, tmp_path: Path, detr: Detr) -> None:
    full = folders.written(tmp_path / "full" / "a", "").parent
    fixes = listed(tmp_path, [])
    for file, out in ((tmp_path / "none.json", tmp_path / "n"), (fixes, data / "new"), (fixes, full)):
        assert detr("data", "fix", data, "--list", file, "--out", out).code == 2
    other = listed(tmp_path, [], split="test")
    detr("data", "fix", data, "--list", other, "--out", tmp_path / "n").fails(3, "train, val")


def test_other_layouts_become_coco(tmp_path: Path, detr: Detr) -> None:
    """YOLO: boxes in pixels, and held-out images as val."""
    root = tmp_path / "yolo"
    for i in range(12):
        folders.image(root / "images/train" / f"{i}.png", (100, 50))
        folders.written(root / "labels/train" / f"{i}.txt", "0 0.5 0.5 0.2 0.4\n")
    folders.written(root / "data.yaml", "train: images/train\nnames: [cat]\n")
    raw = open_data(root).read("train")
    ids = {"image_id": raw.image_ids[0], "annotation_id": raw.annotation_ids[0], "category_id": raw.category_ids[0]}
    change = entry("loose_box", **{name: int(value) for name, value in ids.items()}, box=[10, 10, 60, 40])
    detr("data", "fix", root, "--list", listed(tmp_path, [change]), "--out", tmp_path / "new").ok()
    new = contents(tmp_path / "new")
    train, val = (new[f"annotations/instances_{split}.json"] for split in ("train", "val"))
    assert len(train["images"]) + len(val["images"]) == 12
    assert [annotation["bbox"] for annotation in train["annotations"][:2]] == [[10, 10, 50, 30], [40, 15, 20, 20]]
    assert examine_headers(open_data(tmp_path / "new"), ["train", "val"]).ok
