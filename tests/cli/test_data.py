"""`detr data check`, `data show`, `data fix`: each kind of problem is planted and must be reported."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import snapshot
from here import Detr, all_detections
from PIL import Image
from small import TINY, small_weights, smooth_noise

from detrcli.checkpoints.fit import fit
from detrcli.checkpoints.formats import native
from detrcli.data.annotations import classes_in_report
from detrcli.data.examine import examine_headers
from detrcli.data.make import make_shapes
from detrcli.data.source import open_data

Document = dict[str, Any]


def write_noise(path: Path, seed: int, size: tuple[int, int] = (60, 40), **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    smooth_noise(seed, size).save(path, **options)


class Data:
    """A COCO folder of four and two images with nothing wrong, to plant something in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.splits: dict[str, Document] = {}
        for split, first, count in (("train", 1, 4), ("val", 11, 2)):
            images = [
                {"id": i, "file_name": f"{i}.png", "width": 60, "height": 40} for i in range(first, first + count)
            ]
            for image in images:
                write_noise(root / split / image["file_name"], image["id"])
            # The last image of train is empty.
            ids = [image["id"] for image in (images[:-1] if split == "train" else images)]
            annotations = [
                {"id": 10 * i + c, "image_id": i, "category_id": c, "bbox": [30 + c, 15, 20, 20], "area": 400}
                for i in ids
                for c in (1, 7)
            ]
            self.splits[split] = {
                "images": images,
                "annotations": annotations,
                "categories": [{"id": 7, "name": "bee"}, {"id": 1, "name": "ant"}],
            }

    def write(self) -> None:
        (self.root / "annotations").mkdir(exist_ok=True)
        for split, document in self.splits.items():
            (self.root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path / "data")


def test_nothing_wrong(detr: Detr, data: Data) -> None:
    data.write()
    before = snapshot(data.root)
    document = detr("data", "check", "data", "--json").ok().json
    assert document["schema"] == "detr.data-check/1"
    assert document["layout"] == "coco"
    assert document["problems"] == []
    assert document["splits"]["train"] == {
        "images": 4, "boxes": 6, "empty_images": 1, "most_boxes": 2,
        "classes": [
            {"category_id": 1, "label": "ant", "boxes": 3},
            {"category_id": 7, "label": "bee", "boxes": 3},
        ],
    }  # fmt: skip
    table = detr("data", "check", "data").ok()
    assert "train       4      6             1           2" in table.out
    assert snapshot(data.root) == before


Plant = Callable[[Data], None]


def entry(data: Data, number: int = 0, split: str = "train") -> Document:
    found: Document = data.splits[split]["annotations"][number]
    return found


def picture(data: Data, number: int = 0) -> Document:
    found: Document = data.splits["train"]["images"][number]
    return found


def as_corners(data: Data) -> None:
    for document in data.splits.values():
        for e in document["annotations"]:
            x, y, w, h = e["bbox"]
            e["bbox"] = [x, y, x + w, y + h]


def half(data: Data) -> None:
    path = data.root / "train" / "1.png"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def pipe(data: Data) -> None:
    (data.root / "train" / "1.png").unlink()
    os.mkfifo(data.root / "train" / "1.png")


def turned(data: Data, orientation: int, size: tuple[int, int] = (60, 40), name: str = "1.jpg") -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    write_noise(data.root / "train" / name, 1, size, exif=exif)
    picture(data)["file_name"] = name


def parent(data: Data) -> None:
    for document in data.splits.values():
        document["categories"].insert(0, {"id": 0, "name": "insects", "supercategory": "none"})
        for category in document["categories"][1:]:
            category["supercategory"] = "insects"


def only_in_val(data: Data) -> None:
    for e in data.splits["train"]["annotations"]:
        e["category_id"] = 1


def almost_the_same(data: Data) -> None:
    with Image.open(data.root / "train" / "2.png") as image:
        image.save(data.root / "val" / "11.jpg", quality=90)
    data.splits["val"]["images"][0]["file_name"] = "11.jpg"


def second_id(data: Data) -> None:
    data.splits["train"]["images"].append({**picture(data), "file_name": "4.png"})


# Severity of a problem without and with --skip-bad.
ERROR, LEFT_OUT, WARNING = ("error", "error"), ("error", "warning"), ("warning", "warning")
PLANTED: dict[str, tuple[tuple[str, str], str, str, Plant]] = {
    # severity, kind, where
    "file": (ERROR, "leaves-folder", "image 1", lambda d: picture(d).update(file_name="../val/11.png")),
    "absolute": (ERROR, "leaves-folder", "image 1", lambda d: picture(d).update(file_name="/etc/passwd")),
    "image id": (ERROR, "duplicate-id", "image 1", second_id),
    "category id": (
        ERROR, "duplicate-id", "category 1", lambda d: d.splits["train"]["categories"].append({"id": 1, "name": "ant"}),
    ),
    "missing": (LEFT_OUT, "missing-picture", "image 1", lambda d: (d.root / "train" / "1.png").unlink()),
    "half": (LEFT_OUT, "bad-picture", "image 1", half),
    "text": (LEFT_OUT, "bad-picture", "image 1", lambda d: (d.root / "train" / "1.png").write_text("x")),
    "pipe": (LEFT_OUT, "bad-picture", "image 1", pipe),
    "size": (LEFT_OUT, "size-mismatch", "image 1", lambda d: picture(d).update(width=61)),
    "unknown image": (LEFT_OUT, "unknown-image", "annotation 11", lambda d: entry(d).update(image_id=99)),
    "unknown category": (LEFT_OUT, "unknown-category", "annotation 11", lambda d: entry(d).update(category_id=2)),
    "no image id": (LEFT_OUT, "unknown-image", "annotation 11", lambda d: entry(d).update(image_id=None)),
    "huge": (LEFT_OUT, "bad-box", "annotation 11", lambda d: entry(d).update(bbox=[1, 2, 3, 10**400])),
    "two ids": (
        WARNING, "name-twice", "class ant", lambda d: d.splits["train"]["categories"].append({"id": 9, "name": "ant"}),
    ),
    "nan": (LEFT_OUT, "bad-box", "annotation 11", lambda d: entry(d).update(bbox=[1, 2, 3, float("nan")])),
    "three": (LEFT_OUT, "bad-box", "annotation 11", lambda d: entry(d).update(bbox=[1, 2, 3])),
    "annotation id": (WARNING, "duplicate-annotation-id", "annotation 11", lambda d: entry(d, 1).update(id=11)),
    "flat": (WARNING, "empty-box", "annotation 11", lambda d: entry(d).update(bbox=[5, 5, 20, 0])),
    "far": (WARNING, "empty-box", "annotation 11", lambda d: entry(d).update(bbox=[70, 5, 20, 9])),
    "beyond": (WARNING, "box-outside", "annotation 11", lambda d: entry(d).update(bbox=[50, 5, 20, 9])),
    "corners": (ERROR, "corners", "annotation 11", as_corners),
    "same": (
        WARNING, "same-picture", "11.png",
        lambda d: (d.root / "val" / "11.png").write_bytes((d.root / "train" / "2.png").read_bytes()),
    ),
    "almost": (WARNING, "near-duplicate", "val", almost_the_same),
    "class": (WARNING, "class-not-in-train", "class bee", only_in_val),
    "parent": (WARNING, "parent-class", "class insects", parent),
    "parent of its name": (
        WARNING, "parent-class", "class ant",
        lambda d: [
            document["categories"].insert(0, {"id": 0, "name": "ant", "supercategory": "none"})
            or document["categories"][2].update(supercategory="ant")
            for document in d.splits.values()
        ],
    ),
    "unturned": (WARNING, "unturned-size", "image 1", lambda d: turned(d, 6)),
    "mirrored": (WARNING, "turned", "1.jpg", lambda d: turned(d, 2)),
    "conflict": (
        ERROR, "category-conflict", "category 1", lambda d: d.splits["val"]["categories"][1].update(name="cow"),
    ),
    "no boxes": (ERROR, "no-boxes", "train", lambda d: d.splits["train"].update(annotations=[])),
}  # fmt: skip


@pytest.mark.parametrize("planted", PLANTED)
def test_each_problem_is_reported(detr: Detr, data: Data, planted: str) -> None:
    """No other problem is reported, with or without --skip-bad, and the exit code is that of its severity."""
    (alone, skipping), kind, where, plant = PLANTED[planted]
    plant(data)
    data.write()
    before = snapshot(data.root)
    for options, severity in (((), alone), (("--skip-bad",), skipping)):
        shown = detr("data", "check", "data", "--json", *options)
        found = [(p["severity"], p["kind"], p["where"]) for p in shown.json["problems"]]
        assert (severity, kind, where) in found
        if planted not in ("no boxes", "corners", "conflict"):
            assert len(found) == 1
        assert shown.code == (3 if severity == "error" else 0)
        table = detr("data", "check", "data", *options)
        assert kind in table.out
        assert table.code == shown.code
    assert snapshot(data.root) == before


@pytest.mark.parametrize("text", ["{", "[]", '{"images": []}'])
def test_annotations_that_cannot_be_read(detr: Detr, data: Data, text: str) -> None:
    """The problem belongs to its split; the other splits are still checked."""
    data.write()
    (data.root / "annotations" / "instances_val.json").write_text(text)
    for options in ((), ("--skip-bad",)):
        shown = detr("data", "check", "data", "--json", *options)
        assert shown.code == 3
        assert [(p["severity"], p["kind"], p["split"]) for p in shown.json["problems"]] == [
            ("error", "unreadable", "val")
        ]
        assert "instances_val.json" in shown.json["problems"][0]["what"]
        assert list(shown.json["splits"]) == ["train"]


def test_excluded_annotations_are_not_counted(detr: Detr, data: Data) -> None:
    """A missing image, a flat box, a crowd: 4 images and 6 boxes become 3 and 2."""
    (data.root / "train" / "1.png").unlink()
    entry(data, 2)["bbox"] = [5, 5, 20, 0]
    entry(data, 3)["iscrowd"] = 1
    data.write()
    train = detr("data", "check", "data", "--json", "--skip-bad").json["splits"]["train"]
    assert (train["images"], train["boxes"], train["empty_images"], train["most_boxes"]) == (3, 2, 2, 2)


@pytest.mark.parametrize("name", ["1.jpg", "1.tif"])
def test_exif_orientation_is_configurable(detr: Detr, data: Data, name: str) -> None:
    """An image with EXIF rotation, annotated as displayed, is an error only if EXIF is ignored."""
    turned(data, 6, (40, 60), name)
    data.write()
    assert detr("data", "check", "data", "--json").json["problems"] == []
    detr("data", "show", "data", "--out", "sheet.png").ok()
    if name == "1.jpg":
        ignored = detr("data", "check", "data", "--json", "--exif", "ignore")
        assert (ignored.code, [p["kind"] for p in ignored.json["problems"]]) == (3, ["size-mismatch"])


def test_no_command_changes_the_data(detr: Detr, data: Data, tmp_path: Path) -> None:
    data.write()
    before = snapshot(data.root)
    native.save(small_weights(TINY), tmp_path / "w.safetensors")
    for call, code in (
        (["data", "check", "data", "--full"], 0),
        (["data", "show", "data", "--out", "sheet.png"], 0),
        (["data", "show", "data", "--out", "augmented.png", "--augmented", "--size", "64"], 0),
        (["data", "show", "data", "--out", "data/train/1.png", "--overwrite"], 2),
        (["data", "show", "data", "--out", "sheet"], 2),
        (["predict", "data", "--weights", "w.safetensors"], 0),
    ):
        assert detr(*call).code == code
        assert snapshot(data.root) == before


def test_predict_returns_the_ids_of_the_dataset(detr: Detr, data: Data, tmp_path: Path) -> None:
    """Training, saving and predicting keep the id of category 4000000007."""
    for document in data.splits.values():
        document["categories"][0]["id"] = 4_000_000_007
        for annotation in document["annotations"]:
            annotation["category_id"] = {7: 4_000_000_007, 1: 1}[annotation["category_id"]]
    data.write()
    classes = classes_in_report(examine_headers(open_data(tmp_path / "data"), ["train"]))
    native.save(fit(small_weights(TINY), classes).checkpoint, tmp_path / "w.safetensors")
    labels = {(row["category_id"], row["label"]) for row in all_detections(detr, "data/train/1.png", "w.safetensors")}
    assert labels <= {(1, "ant"), (4_000_000_007, "bee")}
    only_bee = replace(classes, ids=classes.ids[1:], names=classes.names[1:])
    native.save(fit(small_weights(TINY), only_bee).checkpoint, tmp_path / "w.safetensors")
    rows = all_detections(detr, "data/train/1.png", "w.safetensors")
    assert {row["category_id"] for row in rows} == {4_000_000_007}


def test_headers_are_cached_until_a_file_changes(detr: Detr, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    data.write()
    detr("data", "check", "data").ok()
    with monkeypatch.context() as patch:
        patch.setattr("detrcli.data.image_files.read_header", lambda path: pytest.fail(f"{path} was read again"))
        detr("data", "check", "data").ok()
    write_noise(data.root / "train" / "1.png", 1, size=(50, 40))
    again = detr("data", "check", "data", "--json")
    assert [p["kind"] for p in again.json["problems"]] == ["size-mismatch"]


def test_problems_of_held_out_splits(detr: Detr, data: Data) -> None:
    """Without a validation split: an annotation of no image, and an image id on both sides of the split."""
    del data.splits["val"]
    for i in range(30, 60):
        data.splits["train"]["images"].append({"id": i, "file_name": f"{i}.png", "width": 60, "height": 40})
        write_noise(data.root / "train" / f"{i}.png", i)
    entry(data)["image_id"] = 777
    for image in data.splits["train"]["images"]:
        image["id"] = 5 if image["id"] >= 30 else image["id"]
    data.write()
    shown = detr("data", "check", "data", "--json")
    assert shown.code == 3
    assert shown.json["held_out"]
    found = {(p["kind"], p["where"]) for p in shown.json["problems"]}
    assert {("unknown-image", "annotation 11"), ("duplicate-id", "image 5")} <= found


def test_crowd_flags(detr: Detr, data: Data) -> None:
    for number, value in enumerate(["0", 0, False, "1", 1, True]):
        entry(data, number)["iscrowd"] = value
    data.write()
    assert detr("data", "check", "data", "--json").json["splits"]["train"]["boxes"] == 3


def test_many_problems_of_a_kind_are_counted(detr: Detr, data: Data) -> None:
    for number in range(6):
        entry(data, number)["bbox"] = [1, 2, 3]
    data.write()
    shown = detr("data", "check", "data")
    assert "and 3 more" in shown.out
    assert "detr: 7 errors" in shown.err


@pytest.mark.parametrize("augmented", [[], ["--augmented", "--size", 96]], ids=["as it is", "augmented"])
def test_masks_are_shown(detr: Detr, tmp_path: Path, augmented: list[object]) -> None:
    """`--masks` colors the area of the shapes in place of the frames of the boxes."""
    make_shapes(tmp_path / "shapes", images=4, size=96, objects=3)
    args = ("data", "show", tmp_path / "shapes", "--images", 4, *augmented)
    for options in ((), ("--masks",)):
        detr(*args, *options, "--out", f"{len(options)}.png").ok()
    boxes, masks = (np.asarray(Image.open(f"{i}.png").convert("RGB")).astype(int) for i in range(2))
    assert boxes.shape == masks.shape
    assert (abs(boxes - masks).sum(-1) > 30).mean() > 0.01
    path = tmp_path / "shapes" / "annotations" / "instances_train.json"
    document = json.loads(path.read_text())
    document["annotations"][0].pop("segmentation")
    path.write_text(json.dumps(document))
    detr(*args, "--masks", "--out", "none.png").fails(3)
