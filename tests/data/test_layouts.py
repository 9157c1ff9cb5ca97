"""One data set written in each layout: the same pictures, classes and boxes."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pytest
from PIL import Image

from detrcli.data.layouts.detect import explicit
from detrcli.data.raw_annotations import RawAnnotations
from detrcli.data.source import open_data
from detrcli.data.splits import held_out
from detrcli.errors import DataError, UsageError

NAMES = ["ant", "bee & co", "cât"]


@dataclass(frozen=True)
class Thing:
    name: str
    box: tuple[float, float, float, float]  # x, y, w, h
    crowd: bool = False


def truth() -> dict[str, dict[str, tuple[tuple[int, int], list[Thing]]]]:
    """Split -> file -> ((width, height), things). One picture is empty, one file name is odd."""
    rng = np.random.default_rng(3)
    splits: dict[str, dict[str, tuple[tuple[int, int], list[Thing]]]] = {}
    for split, count in (("train", 5), ("val", 3)):
        splits[split] = {}
        for i in range(count):
            w, h = int(rng.integers(40, 90)), int(rng.integers(40, 90))
            things = []
            for _ in range(0 if i == 1 else 3):
                x, y = rng.integers(0, w - 20), rng.integers(0, h - 20)
                box = (float(x), float(y), float(rng.integers(4, 18)), float(rng.integers(4, 18)))
                things.append(Thing(NAMES[rng.integers(3)], box))
            splits[split][f"{split} ü {i}.png"] = ((w, h), things)
    splits["train"]["train ü 0.png"][1].append(Thing("ant", (1, 2, 30, 30), crowd=True))
    return splits


TRUTH = truth()


def picture(path: Path, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "orange").save(path)


def coco_file(path: Path, split: str, first: int = 1, prefix: str = "", splits: Any = None) -> None:
    """Ids that jump and need ten digits, categories in an order of their own."""
    images: list[Any] = []
    annotations: list[Any] = []
    for part in splits or [split]:
        for file, (size, things) in TRUTH[part].items():
            image_id = 4_000_000_000 + 7 * len(images)
            images.append({"id": image_id, "file_name": prefix + file, "width": size[0], "height": size[1]})
            for thing in things:
                annotations.append(
                    {
                        "id": 10 * len(annotations), "image_id": image_id, "bbox": list(thing.box),
                        "category_id": first + 5 * NAMES.index(thing.name), "iscrowd": int(thing.crowd),
                        "segmentation": [[1, 2, 3, 4, 5, 6]], "area": thing.box[2] * thing.box[3],
                    }
                )  # fmt: skip
    categories = [{"id": first + 5 * i, "name": name} for i, name in enumerate(NAMES)][::-1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images[::-1], "annotations": annotations, "categories": categories}))


def coco(root: Path) -> None:
    for split in TRUTH:
        coco_file(root / "annotations" / f"instances_{split}2017.json", split)
        for file, (size, _) in TRUTH[split].items():
            picture(root / f"{split}2017" / file, size)


def coco_in_images(root: Path) -> None:
    for split in TRUTH:
        coco_file(root / "annotations" / f"instances_{split}.json", split)
        for file, (size, _) in TRUTH[split].items():
            picture(root / "images" / split / file, size)


def roboflow(root: Path) -> None:
    for split, word in (("train", "train"), ("val", "valid")):
        coco_file(root / word / "_annotations.coco.json", split, first=0)
        for file, (size, _) in TRUTH[split].items():
            picture(root / word / file, size)


def yolo_labels(path: Path, size: tuple[int, int], things: list[Thing]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    w, h = size
    lines = [
        f"{NAMES.index(t.name)} {(t.box[0] + t.box[2] / 2) / w} {(t.box[1] + t.box[3] / 2) / h} "
        f"{t.box[2] / w} {t.box[3] / h}"
        for t in things
    ]
    if things:
        path.write_text("\n".join(lines))


def yolo(root: Path) -> None:
    for split in TRUTH:
        for file, (size, things) in TRUTH[split].items():
            picture(root / "images" / split / file, size)
            yolo_labels(root / "labels" / split / f"{Path(file).stem}.txt", size, things)
    names = "".join(f"  {i}: {json.dumps(name)}\n" for i, name in enumerate(NAMES))
    (root / "data.yaml").write_text(f"path: /not/here\ntrain: images/train\nval: images/val\nnames:\n{names}")


def yolo_of_roboflow(root: Path) -> None:
    """`../train/images` beside the data.yaml, names as a list."""
    for split, word in (("train", "train"), ("val", "valid")):
        for file, (size, things) in TRUTH[split].items():
            picture(root / word / "images" / file, size)
            yolo_labels(root / word / "labels" / f"{Path(file).stem}.txt", size, things)
    (root / "data.yaml").write_text(
        f"train: ../train/images\nval: ../valid/images\nnc: 3\nnames: {json.dumps(NAMES)}\n"
    )


def voc(root: Path) -> None:
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "Annotations").mkdir()
    for split in TRUTH:
        for file, (size, things) in TRUTH[split].items():
            picture(root / "JPEGImages" / file, size)
            objects = "".join(
                f"<object><name>{escape(t.name)}</name><difficult>{int(t.crowd)}</difficult><bndbox>"
                f"<xmin>{t.box[0] + 1}</xmin><ymin>{t.box[1] + 1}</ymin><xmax>{t.box[0] + t.box[2]}</xmax>"
                f"<ymax>{t.box[1] + t.box[3]}</ymax></bndbox></object>"
                for t in things
            )
            (root / "Annotations" / f"{Path(file).stem}.xml").write_text(
                f"<annotation><filename>{file}</filename><size><width>{size[0]}</width>"
                f"<height>{size[1]}</height></size>{objects}</annotation>"
            )
        stems = "\n".join(Path(file).stem for file in TRUTH[split])
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(stems)


LAYOUTS: dict[str, tuple[str, Callable[[Path], None], list[int]]] = {
    "coco": ("coco", coco, [1, 6, 11]),
    "coco-images": ("coco", coco_in_images, [1, 6, 11]),
    "roboflow": ("roboflow", roboflow, [0, 5, 10]),
    "yolo": ("yolo", yolo, [0, 1, 2]),
    "yolo-roboflow": ("yolo", yolo_of_roboflow, [0, 1, 2]),
    "voc": ("voc", voc, [1, 2, 3]),
}


def objects(written: RawAnnotations, *, crowd: bool = True) -> dict[str, list[tuple[str, bool, list[float]]]]:
    """By file: name, crowd and box of each object, in one order."""
    names = dict(zip(written.category_ids.tolist(), written.names, strict=True))
    files = dict(zip(written.image_ids.tolist(), written.files, strict=True))
    found: dict[str, list[tuple[str, bool, list[float]]]] = {Path(file).name: [] for file in written.files}
    for image, category, box, flag in zip(
        written.of_image.tolist(),
        written.of_category.tolist(),
        written.boxes.tolist(),
        written.crowd.tolist(),
        strict=True,
    ):
        found[Path(files[image]).name].append((names[category], flag and crowd, [round(v, 6) for v in box]))
    return {file: sorted(things) for file, things in found.items()}


def expected(split: str, *, crowd: bool = True) -> dict[str, list[tuple[str, bool, list[float]]]]:
    return {
        file: sorted((t.name, t.crowd and crowd, list(t.box)) for t in things)
        for file, (_, things) in TRUTH[split].items()
    }


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_layout_says_the_same(tmp_path: Path, kind: str) -> None:
    """Under a path with spaces and letters beyond ASCII. YOLO alone cannot say what is a crowd."""
    name, write, ids = LAYOUTS[kind]
    root = tmp_path / "meine Daten é"
    write(root)
    source = open_data(root)
    assert source.layout == name
    assert source.splits == ["train", "val"]
    for split in ("train", "val"):
        written = source.read(split)
        crowd = name != "yolo"
        assert objects(written, crowd=crowd) == expected(split, crowd=crowd)
        assert dict(sorted(zip(written.category_ids.tolist(), written.names, strict=True))) == dict(
            zip(ids, NAMES, strict=True)
        )
        for file, (h, w) in zip(written.files, written.sizes.tolist(), strict=True):
            assert (w, h) == ((0, 0) if name == "yolo" else TRUTH[split][Path(file).name][0])
            assert (written.folder / file).is_file()
        assert not written.problems


@pytest.mark.parametrize("kind", ["cvat", "label-studio", "fiftyone"])
def test_exports_of_one_file(tmp_path: Path, kind: str) -> None:
    """They have no splits: a tenth is held out, the same one at every reading."""
    file, pictures, prefix = {
        "cvat": ("annotations/instances_default.json", "images", ""),
        "label-studio": ("result.json", "images", "images\\"),
        "fiftyone": ("labels.json", "data", ""),
    }[kind]
    coco_file(tmp_path / file, "", prefix=prefix, splits=["train", "val"])
    for split in TRUTH:
        for name, (size, _) in TRUTH[split].items():
            picture(tmp_path / pictures / name, size)
    source = open_data(tmp_path)
    assert source.splits == ["train", "val"]
    assert source.holds_out
    train, val = objects(source.read("train")), objects(source.read("val"))
    assert train.keys().isdisjoint(val)
    assert train | val == expected("train") | expected("val")
    assert val
    assert objects(open_data(tmp_path).read("val")) == val


@pytest.mark.parametrize(
    ("kind", "named", "split"),
    [
        ("coco", "annotations/instances_train2017.json", "train"),
        ("coco", "annotations/instances_val2017.json", "val"),
        ("coco-images", "annotations/instances_val.json", "val"),
        ("roboflow", "valid/_annotations.coco.json", "val"),
        ("roboflow", "train/_annotations.coco.json", "train"),
        ("yolo", "data.yaml", None),
    ],
)
def test_a_file_of_a_data_set_stands_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, named: str, split: str | None
) -> None:
    """By a path from elsewhere, and by its bare name in its own folder."""
    LAYOUTS[kind][1](tmp_path)
    for folder, file in ((tmp_path.parent, tmp_path / named), ((tmp_path / named).parent, Path(named).name)):
        monkeypatch.chdir(folder)
        source = open_data(Path(file))
        assert source.layoutd == split
        assert not source.single_file
        for part in ("train", "val"):
            written = source.read(part)
            assert objects(written, crowd=kind != "yolo") == expected(part, crowd=kind != "yolo")
            assert all((written.folder / name).is_file() for name in written.files)


@pytest.mark.parametrize(
    ("file", "pictures"),
    [
        ("a.json", "."),
        ("a.json", "images"),
        ("a.json", "images/a"),
        ("annotations/a.json", "images"),
        ("annotations/a.json", "annotations"),
        ("instances_val2017.json", "val2017"),
        ("annotations/instances_default.json", "images"),
        ("instances_test.json", "test"),
        ("valid/_annotations.coco.json", "valid"),
    ],
)
def test_an_annotation_file_alone(tmp_path: Path, file: str, pictures: str) -> None:
    """Whatever its name, it is train, with a tenth held out."""
    coco_file(tmp_path / file, "train")
    coco_file(tmp_path / file.replace("instances", "captions"), "train")  # another kind beside it
    for name, (size, _) in TRUTH["train"].items():
        picture(tmp_path / pictures / name, size)
    source = open_data(tmp_path / file)
    assert (source.layout, source.single_file, source.holds_out) == ("coco", True, True)
    written = source.read("train")
    assert objects(written) | objects(source.read("val")) == expected("train")
    assert all((written.folder / name).is_file() for name in written.files)


def test_the_file_that_is_named_goes_before_others_of_its_split(tmp_path: Path) -> None:
    for year, split in (("2014", "val"), ("2017", "train")):
        coco_file(tmp_path / f"train{year}.json", split)
        coco_file(tmp_path / f"val{year}.json", split)
    source = open_data(tmp_path / "train2017.json")
    assert objects(source.read("train")) == objects(source.read("val")) == expected("train")


def test_a_file_that_cannot_be_data_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.zip").touch()
    with pytest.raises(DataError, match="a.zip: it is a file. DATA is a folder"):
        open_data(tmp_path / "a.zip")
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(DataError, match="a.json: not a COCO annotation file"):
        open_data(tmp_path / "a.json").read("train")
    with pytest.raises(DataError, match="It is a web address"):
        open_data(Path("https://example.org/a.zip"))


def test_explicit_places(tmp_path: Path) -> None:
    coco_file(tmp_path / "a.json", "train")
    for name, (size, _) in TRUTH["train"].items():
        picture(tmp_path / "somewhere" / name, size)
    source = explicit({"train": (tmp_path / "a.json", tmp_path / "somewhere")})
    assert source.holds_out
    assert objects(source.read("train")) | objects(source.read("val")) == expected("train")


def test_held_out_is_about_a_tenth_and_never_all() -> None:
    share = held_out([f"{i}.jpg" for i in range(5000)]).mean()
    assert 0.08 < share < 0.12
    for count in range(1, 30):
        held = held_out([f"a{i}" for i in range(count)])
        assert held.sum() < count
        assert held.any() or count == 1


def test_split_folders_may_be_links(tmp_path: Path) -> None:
    coco(tmp_path / "far")
    root = tmp_path / "near"
    root.mkdir()
    (root / "annotations").symlink_to(tmp_path / "far" / "annotations")
    for split in TRUTH:
        (root / f"{split}2017").symlink_to(tmp_path / "far" / f"{split}2017")
    assert objects(open_data(root).read("train")) == expected("train")


def test_polygons_of_yolo_become_boxes(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "train" / "a.png", (100, 50))
    label = tmp_path / "labels" / "train" / "a.txt"
    label.parent.mkdir(parents=True)
    label.write_text("1 0.1 0.2 0.5 0.2 0.5 0.6 0.3 0.8\n\n2 0.5 0.5 0.2 0.4\nx 1 2\n1 nan 0 0 0\n1 0.5 0.5\n")
    written = open_data(tmp_path).readers["train"]()
    np.testing.assert_allclose(written.boxes, [[10, 10, 40, 30], [40, 15, 20, 20]])
    assert written.of_category.tolist() == [1, 2]
    assert written.names == ["class 1", "class 2"]
    assert [problem.where.rsplit(", ", 1)[1] for problem in written.problems] == ["line 3", "line 4", "line 5"]


def test_what_is_not_known_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        open_data(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"instances_\*\.json .*data\.yaml .*JPEGImages"):
        open_data(tmp_path)
    coco(tmp_path)
    with pytest.raises(UsageError, match="--split test: this data has train, val"):
        open_data(tmp_path).read("test")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not a COCO annotation file"),
        ("[1, 2]", "not a COCO annotation file"),
        ('{"images": []}', "there are no images"),
        ('{"annotations": []}', "there are no images"),
        ('{"images": [{"id": "x", "file_name": "a"}], "categories": []}', "'x'"),
        ('{"images": [{"id": 1.5, "file_name": "a"}], "categories": []}', "1.5"),
    ],
)
def test_files_that_are_not_coco(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train.json").write_text(text)
    with pytest.raises(DataError, match=said):
        open_data(tmp_path).read("train")


def test_odd_boxes_are_kept_as_not_a_number(tmp_path: Path) -> None:
    """NaN as Python writes it, too few numbers, words: each entry by itself, the others unharmed."""
    picture(tmp_path / "train" / "a.png", (50, 50))
    boxes: list[Any] = [[1, 2, 3, 4], [1, 2, 3], None, ["a", 2, 3, 4], [1, 2, 3, float("nan")], [1, 2, 3, float("inf")]]
    document = {
        "images": [{"id": "1", "file_name": "a.png", "width": 50, "height": 50}],
        "annotations": [{"id": i, "image_id": 1, "category_id": 1, "bbox": box} for i, box in enumerate(boxes)],
        "categories": [{"id": 1, "name": "ant"}],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(document))
    written = open_data(tmp_path).readers["train"]()
    assert np.isfinite(written.boxes).all(1).tolist() == [True, False, False, False, False, False]
    assert written.boxes[0].tolist() == [1, 2, 3, 4]
    assert written.areas[0] == 12
    assert written.image_ids.tolist() == [1]


def test_key_points_and_pixels_of_yolo(tmp_path: Path) -> None:
    """Key points follow a box and are no polygon; numbers beyond 1 are no shares; `test` may be missing."""
    picture(tmp_path / "images" / "a.png", (100, 50))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 .5 .5 .2 .4" + " .9 .9 2" * 4 + "\n0.0 .5 .5 .2 .4\n0 50 25 20 20\n")
    (tmp_path / "data.yaml").write_text("train: images\ntest: ../test/images\nkpt_shape: [4, 3]\nnames: [ant]\n")
    source = open_data(tmp_path)
    written = source.readers["train"]()
    np.testing.assert_allclose(written.boxes, [[40, 15, 20, 20]] * 2)
    assert len(written.problems) == 1
    with pytest.raises(DataError, match="is not there; tried"):
        source.read("test")


def test_default_does_not_hide_train(tmp_path: Path) -> None:
    coco(tmp_path)
    coco_file(tmp_path / "annotations" / "instances_default.json", "val")
    assert objects(open_data(tmp_path).read("train")) == expected("train")
