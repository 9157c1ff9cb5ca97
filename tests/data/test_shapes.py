"""`shapes`: the same pixels on every machine, and the documented variety."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from here import Detr
from PIL import Image
from pycocotools import mask as rle

from detrcli.data.make import built_in, make_shapes
from detrcli.data.shapes import CATALOG, VISIBLE, scene
from detrcli.data.source import open_data
from detrcli.run_lengths import box_around


def digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


def test_pixels_are_the_same_on_every_machine() -> None:
    """After a change of the drawings, EDITION must be incremented."""
    various = {"size": 200, "classes": CATALOG, "most": 12}
    for number, options, expected in ((0, {}, "3dc085d14a231ea4"), (12345, various, "42e84da34ce50dc4")):
        made = scene(0, number, **options)
        assert digest(made.pixels, made.labels.astype("<i8"), made.masks) == expected
    landscape = scene(0, 1, landscape=True)
    assert digest(landscape.pixels, landscape.stuff.astype("<i8")) == "aaee9acf9d177d47"


def test_seeds_and_numbers_give_different_images() -> None:
    images = {scene(seed, number).pixels.tobytes() for seed in (0, 1, 2**40) for number in range(20)}
    assert len(images) == 60


def test_boxes_fit_their_masks() -> None:
    for number in range(150):
        made = scene(3, number, most=8)
        assert made.pixels.shape == (128, 128, 3)
        assert not (made.masks.sum(0) > 1).any()
        for mask in made.masks:
            x, y, w, h = box_around(mask)
            inside = mask[y : y + h, x : x + w]
            assert inside.sum() == mask.sum() > 0
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


@pytest.mark.slow
def test_frequencies_are_as_documented() -> None:
    """Of empty images, classes, and sizes."""
    made = [scene(4, number) for number in range(800)]
    assert 0.03 < np.mean([len(m.labels) == 0 for m in made]) < 0.1
    labels = np.concatenate([m.labels for m in made])
    assert np.bincount(labels).min() > 0.17 * len(labels)
    sides = np.array([math.sqrt(math.prod(box_around(mask)[2:])) for scene_ in made for mask in scene_.masks]) / 128
    assert 0.25 < np.mean(sides < 0.14) < 0.42
    assert 0.25 < np.mean(sides > 0.26) < 0.42
    assert max(len(m.labels) for m in made) == 5


@pytest.mark.parametrize("name", CATALOG)
def test_every_class_is_visible(name: str) -> None:
    """Enough of each shape is not covered."""
    areas = [mask.sum() for number in range(30) for mask in scene(5, number, classes=[name]).masks]
    assert len(areas) > 40
    assert min(areas) >= 3
    assert VISIBLE >= 30


def test_a_folder_of_shapes(detr: Detr, tmp_path: Path) -> None:
    call = ["data", "make", "shapes", "new", "--images", 25, "--size", 64, "--classes", "moon, arrow", "--seed", 9]
    detr(*call).ok()
    document = json.loads((tmp_path / "new" / "annotations" / "instances_train.json").read_text())
    assert [c["name"] for c in document["categories"]] == ["moon", "arrow"]
    first = scene(9, 0, 64, ["moon", "arrow"], 5)
    with Image.open(tmp_path / "new" / "train" / "000000.png") as image:
        np.testing.assert_array_equal(np.asarray(image), first.pixels)
    for entry in document["annotations"][: len(first.labels)]:
        packed = {**entry["segmentation"], "counts": entry["segmentation"]["counts"].encode()}
        assert rle.area(packed) == entry["area"]
        assert rle.toBbox(packed).tolist() == entry["bbox"]
    checked = detr("data", "check", "new", "--json").ok().json  # so there are no errors
    assert {split: summary["images"] for split, summary in checked["splits"].items()} == {"train": 25, "val": 5}
    detr(*call).fails(2, "new exists")


def test_a_landscape_has_the_same_shapes(detr: Detr, tmp_path: Path) -> None:
    """The panoptic files assign every pixel to a segment; the instances are the same as without a landscape."""
    make_shapes(tmp_path / "plain", images=20, size=48)
    shown = detr("data", "make", "shapes", "new", "--images", 20, "--size", 48, "--panoptic").ok()
    assert "new/annotations/panoptic_train.json" in shown.err
    used = set()
    for split in ("train", "val"):
        instances, plain, panoptic = (
            json.loads((tmp_path / folder / "annotations" / f"{kind}_{split}.json").read_text())
            for folder, kind in (("new", "instances"), ("plain", "instances"), ("new", "panoptic"))
        )
        assert instances == plain
        assert [(c["id"], c["name"], c["isthing"]) for c in panoptic["categories"]][4:] == [
            (5, "cross", 1), (6, "sky", 0), (7, "grass", 0), (8, "sand", 0)
        ]  # fmt: skip
        assert panoptic["images"] == instances["images"]
        for annotation in panoptic["annotations"]:
            with Image.open(tmp_path / "new" / "annotations" / f"panoptic_{split}" / annotation["file_name"]) as image:
                ids = np.asarray(image).astype(int) @ (1, 256, 65536)
            drawn, areas = np.unique(ids, return_counts=True)
            segments = annotation["segments_info"]
            by_id = dict(zip(drawn.tolist(), areas.tolist(), strict=True))
            assert {segment["id"]: segment["area"] for segment in segments} == by_id
            used |= {segment["category_id"] for segment in segments}
            shapes = [segment for segment in segments if segment["category_id"] < 6]
            masks = [mask for mask in instances["annotations"] if mask["image_id"] == annotation["image_id"]]
            for segment, mask in zip(shapes, masks, strict=True):
                assert (segment["bbox"], segment["area"]) == (mask["bbox"], mask["area"])
                rows, columns = np.nonzero(ids == segment["id"])
                around = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
                assert segment["bbox"] == around
    assert used == set(range(1, 9))
    checked = detr("data", "check", "new/annotations/panoptic_train.json", "--json")
    assert (checked.code, checked.json["masks"]) == (0, True)
    assert {problem["kind"] for problem in checked.json["problems"]} <= {"class-not-in-train", "near-duplicate"}
    file = "new/annotations/panoptic_val.json"
    quality = detr("eval", "--panoptic", file, "--predictions", file, "--json").json["panoptic"]
    assert (quality["PQ"], quality["stuff"]["PQ"]) == (1, 1)


@pytest.mark.parametrize("classes", ["moon,moon", "cow", ""])
def test_unknown_classes_are_refused(detr: Detr, tmp_path: Path, classes: str) -> None:
    detr("data", "make", "shapes", "new", "--classes", classes).fails(2, "circle, ring")
    assert not (tmp_path / "new").exists()


def test_built_in_is_made_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DETR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("detrcli.data.make.make_shapes", lambda folder: make_shapes(folder, images=5, size=32))
    source = open_data(Path("shapes"))
    assert source.splits == ["train", "val"]
    assert len(source.read("train").files) == 5
    before = built_in().stat().st_mtime_ns
    assert built_in().stat().st_mtime_ns == before
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["shapes-1"]


def test_sheets(detr: Detr, tmp_path: Path) -> None:
    make_shapes(tmp_path / "new", images=6, size=64)
    assert detr("data", "show", "new", "--out", "sheet.png", "--images", 5).code == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (4 * 330 + 10, 2 * 354 + 10)
        assert len(sheet.convert("RGB").getcolors(1 << 20)) > 1000
    assert detr("data", "show", "new", "--out", "more.png", "--augmented", "--size", 100).code == 0
    assert detr("data", "show", "new", "--out", "more.png").code == 2
    assert detr("data", "show", "new", "--out", "none.png", "--split", "test").code == 2
