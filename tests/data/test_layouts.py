"""A dataset written in each layout, with the same images, classes and boxes."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import numpy as np
import pytest
from folders import image
from folders import written as write

from detrcli.data.layouts.detect import explicit
from detrcli.data.raw_annotations import RawAnnotations
from detrcli.data.source import open_data
from detrcli.data.splits import held_out
from detrcli.errors import DataError, UsageError

NAMES = ["ant", "bee & co", "cât"]


class Object(NamedTuple):
    name: str
    crowd: bool
    box: list[float]  # x, y, w, h


Images = dict[str, tuple[tuple[int, int], list[Object]]]  # file -> (width, height), objects


def ground_truth() -> dict[str, Images]:
    """Two splits, with an empty image, a crowd and unusual file names."""
    rng = np.random.default_rng(3)
    splits: dict[str, Images] = {"train": {}, "val": {}}
    for split, i in [*(("train", i) for i in range(5)), *(("val", i) for i in range(3))]:
        w, h = rng.integers(40, 90, 2).tolist()
        boxes = rng.integers([0, 0, 4, 4], [w - 20, h - 20, 18, 18], (0 if i == 1 else 3, 4)).astype(float)
        objects = [Object(NAMES[rng.integers(3)], False, box) for box in boxes.tolist()]
        splits[split][f"{split} ü {i}.png"] = ((w, h), objects)
    splits["train"]["train ü 0.png"][1].append(Object("ant", True, [1, 2, 30, 30]))
    return splits


TRUTH = ground_truth()


def save_images(folder: Path, split: str) -> None:
    for file, (size, _) in TRUTH[split].items():
        image(folder / file, size)


def coco_file(path: Path, *splits: str, first: int = 1, prefix: str = "") -> None:
    """An annotation file with gaps in the ids, which have ten digits, and categories in another order."""
    entries = [entry for split in splits for entry in TRUTH[split].items()]
    images = [
        {"id": 4_000_000_000 + 7 * n, "file_name": prefix + file, "width": w, "height": h}
        for n, (file, ((w, h), _)) in enumerate(entries)
    ]
    annotations: list[Any] = [
        {
            "image_id": image["id"], "category_id": first + 5 * NAMES.index(name), "bbox": box, "iscrowd": int(crowd),
            "segmentation": [[1, 2, 3, 4, 5, 6]], "area": box[2] * box[3],
        }
        for image, (_, (_, objects)) in zip(images, entries, strict=True)
        for name, crowd, box in objects
    ]  # fmt: skip
    annotations = [{"id": 10 * n, **annotation} for n, annotation in enumerate(annotations)]
    categories = [{"id": first + 5 * i, "name": name} for i, name in enumerate(NAMES)][::-1]
    write(path, json.dumps({"images": images[::-1], "annotations": annotations, "categories": categories}))


def coco(
    root: Path, annotations: str = "annotations/instances_{}2017.json", images: str = "{}2017",
    words: Sequence[str] = ("train", "val"), first: int = 1,
) -> None:  # fmt: skip
    for split, word in zip(TRUTH, words, strict=True):
        coco_file(root / annotations.format(word), split, first=first)
        save_images(root / images.format(word), split)


def yolo(
    root: Path, images: str = "images/{}", labels: str = "labels/{}", words: Sequence[str] = ("train", "val"),
    yaml: str = "path: /not/here\ntrain: images/train\nval: images/val\n",
) -> None:  # fmt: skip
    for split, word in zip(TRUTH, words, strict=True):
        save_images(root / images.format(word), split)
        for file, ((w, h), objects) in TRUTH[split].items():
            text = "\n".join(
                f"{NAMES.index(name)} {(x + width / 2) / w} {(y + height / 2) / h} {width / w} {height / h}"
                for name, _, (x, y, width, height) in objects
            )
            if text:
                write(root / labels.format(word) / f"{Path(file).stem}.txt", text)
    names = json.dumps(NAMES) if "nc: " in yaml else json.dumps(dict(enumerate(NAMES)))  # JSON is YAML
    write(root / "data.yaml", f"{yaml}names: {names}\n")


def voc(root: Path) -> None:
    for split in TRUTH:
        save_images(root / "JPEGImages", split)
        for file, (size, objects) in TRUTH[split].items():
            elements = "".join(
                f"<object><name>{escape(name)}</name><difficult>{int(crowd)}</difficult><bndbox>"
                f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
                for name, crowd, (x, y, w, h) in objects
            )
            write(
                root / "Annotations" / f"{Path(file).stem}.xml",
                f"<annotation><filename>{file}</filename><size><width>{size[0]}</width>"
                f"<height>{size[1]}</height></size>{elements}</annotation>",
            )
        stems = "\n".join(Path(file).stem for file in TRUTH[split])
        write(root / "ImageSets" / "Main" / f"{split}.txt", stems)


VALID = ("train", "valid")
IN_PARENT = "train: ../train/images\nval: ../valid/images\nnc: 3\n"  # as Roboflow writes it
LAYOUTS: dict[str, tuple[str, Callable[[Path], None], list[int]]] = {  # with the ids of the classes
    "coco": ("coco", coco, [1, 6, 11]),
    "coco-images": ("coco", partial(coco, annotations="annotations/instances_{}.json", images="images/{}"), [1, 6, 11]),
    "roboflow": ("roboflow", partial(coco, annotations="{}/_annotations.coco.json", images="{}", words=VALID, first=0),
                 [0, 5, 10]),
    "yolo": ("yolo", yolo, [0, 1, 2]),
    "yolo-roboflow": ("yolo", partial(yolo, images="{}/images", labels="{}/labels", words=VALID, yaml=IN_PARENT),
                      [0, 1, 2]),
    "voc": ("voc", voc, [1, 2, 3]),
}  # fmt: skip


def objects(written: RawAnnotations) -> dict[str, list[Object]]:
    """The objects of each image, sorted; all image files exist."""
    assert all((written.folder / file).is_file() for file in written.files)
    names = dict(zip(written.category_ids.tolist(), written.names, strict=True))
    files = [Path(file).name for file in written.files]
    by_file: dict[str, list[Object]] = {file: [] for file in files}
    columns = (written.image_index(), written.of_category, written.boxes.round(6), written.crowd)
    for i, category, box, crowd in zip(*(column.tolist() for column in columns), strict=True):
        by_file[files[i]].append(Object(names[category], crowd, box))
    return {file: sorted(objects) for file, objects in by_file.items()}


def expected(split: str, *, crowd: bool = True) -> dict[str, list[Object]]:
    return {
        file: sorted(entry._replace(crowd=entry.crowd and crowd) for entry in objects)
        for file, (_, objects) in TRUTH[split].items()
    }


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_layout_gives_the_same(tmp_path: Path, kind: str) -> None:
    """In a folder with spaces and letters beyond ASCII. YOLO has no crowds and no sizes."""
    layout, make, ids = LAYOUTS[kind]
    root = tmp_path / "meine Daten é"
    make(root)
    source = open_data(root)
    assert (source.layout, source.splits) == (layout, ["train", "val"])
    for split in ("train", "val"):
        written = source.read(split)
        assert objects(written) == expected(split, crowd=layout != "yolo")
        assert sorted(zip(written.category_ids.tolist(), written.names, strict=True)) == [*zip(ids, NAMES, strict=True)]
        for file, (h, w) in zip(written.files, written.sizes.tolist(), strict=True):
            assert (w, h) == ((0, 0) if layout == "yolo" else TRUTH[split][Path(file).name][0])
        assert not written.problems


@pytest.mark.parametrize(
    ("file", "images", "prefix"),
    [
        ("annotations/instances_default.json", "images", ""),  # CVAT
        ("result.json", "images", "images\\"),  # Label Studio
        ("labels.json", "data", ""),  # FiftyOne
    ],
)
def test_exports_without_splits(tmp_path: Path, file: str, images: str, prefix: str) -> None:
    """A tenth is held out, the same in every run."""
    coco_file(tmp_path / file, "train", "val", prefix=prefix)
    for split in TRUTH:
        save_images(tmp_path / images, split)
    source = open_data(tmp_path)
    assert (source.splits, source.holds_out) == (["train", "val"], True)
    train, val = objects(source.read("train")), objects(source.read("val"))
    assert train.keys().isdisjoint(val.keys())
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
def test_a_dataset_given_by_one_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, named: str, split: str | None
) -> None:
    """By an absolute path, and by its name in the current folder."""
    LAYOUTS[kind][1](tmp_path)
    for folder, file in ((tmp_path.parent, tmp_path / named), ((tmp_path / named).parent, Path(named).name)):
        monkeypatch.chdir(folder)
        source = open_data(Path(file))
        assert source.named == split
        assert not source.single_file
        for part in ("train", "val"):
            assert objects(source.read(part)) == expected(part, crowd=kind != "yolo")


@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("a.json", "."), ("a.json", "images"), ("a.json", "images/a"),
        ("annotations/a.json", "images"), ("annotations/a.json", "annotations"),
        ("instances_val2017.json", "val2017"), ("instances_test.json", "test"),
        ("annotations/instances_default.json", "images"), ("valid/_annotations.coco.json", "valid"),
    ],
)  # fmt: skip
def test_a_single_annotation_file_is_train(tmp_path: Path, file: str, images: str) -> None:
    coco_file(tmp_path / file, "train")
    coco_file(tmp_path / file.replace("instances", "captions"), "train")  # another kind beside it
    save_images(tmp_path / images, "train")
    source = open_data(tmp_path / file)
    assert (source.layout, source.single_file, source.holds_out) == ("coco", True, True)
    assert objects(source.read("train")) | objects(source.read("val")) == expected("train")


def test_the_given_file_takes_precedence_over_others_of_its_split(tmp_path: Path) -> None:
    for year, split in (("2014", "val"), ("2017", "train")):
        coco_file(tmp_path / f"train{year}.json", split)
        coco_file(tmp_path / f"val{year}.json", split)
        save_images(tmp_path, split)
    source = open_data(tmp_path / "train2017.json")
    assert objects(source.read("train")) == objects(source.read("val")) == expected("train")


def test_files_that_are_no_datasets(tmp_path: Path) -> None:
    write(tmp_path / "a.zip", "")
    for path, message in (
        (tmp_path / "a.zip", "a.zip: it is a file"),
        (Path("https://example.org/a.zip"), "web address"),
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path, r"instances_\*\.json .*data\.yaml .*JPEGImages"),
    ):
        with pytest.raises(DataError, match=message):
            open_data(path)
    coco(tmp_path)
    with pytest.raises(UsageError, match="split=test.* train, val"):
        open_data(tmp_path).read("test")


def test_explicit_files(tmp_path: Path) -> None:
    coco_file(tmp_path / "a.json", "train")
    save_images(tmp_path / "somewhere", "train")
    source = explicit({"train": (tmp_path / "a.json", tmp_path / "somewhere")})
    assert source.holds_out
    assert objects(source.read("train")) | objects(source.read("val")) == expected("train")


def test_about_a_tenth_is_held_out_and_never_all() -> None:
    share = held_out([f"{i}.jpg" for i in range(5000)]).mean()
    assert 0.08 < share < 0.12
    for count in range(1, 30):
        held = held_out([f"a{i}" for i in range(count)])
        assert held.sum() < count
        assert held.any() or count == 1


def test_linked_folders_and_default_beside_train(tmp_path: Path) -> None:
    coco(tmp_path / "far")
    root = tmp_path / "near"
    root.mkdir()
    for name in ("annotations", "train2017", "val2017"):
        (root / name).symlink_to(tmp_path / "far" / name)
    assert objects(open_data(root).read("train")) == expected("train")
    coco_file(root / "annotations" / "instances_default.json", "val")
    assert objects(open_data(root).read("train")) == expected("train")


def test_polygons_of_yolo_become_boxes(tmp_path: Path) -> None:
    image(tmp_path / "images" / "train" / "a.png", (100, 50))
    lines = "1 0.1 0.2 0.5 0.2 0.5 0.6 0.3 0.8\n\n2 0.5 0.5 0.2 0.4\nx 1 2\n1 nan 0 0 0\n1 0.5 0.5\n"
    write(tmp_path / "labels" / "train" / "a.txt", lines)
    written = open_data(tmp_path).readers["train"]()
    np.testing.assert_allclose(written.boxes, [[10, 10, 40, 30], [40, 15, 20, 20]])
    assert written.of_category.tolist() == [1, 2]
    assert written.names == ["class 1", "class 2"]
    assert [problem.where.rsplit(", ", 1)[1] for problem in written.problems] == ["line 3", "line 4", "line 5"]


def test_key_points_and_pixels_of_yolo(tmp_path: Path) -> None:
    """Key points after a box are no polygon; numbers above 1 are no fractions; the folder of `test` may be missing."""
    image(tmp_path / "images" / "a.png", (100, 50))
    lines = "0 .5 .5 .2 .4" + " .9 .9 2" * 4 + "\n0.0 .5 .5 .2 .4\n0 50 25 20 20\n"
    write(tmp_path / "labels" / "a.txt", lines)
    write(tmp_path / "data.yaml", "train: images\ntest: ../test/images\nkpt_shape: [4, 3]\nnames: [ant]\n")
    source = open_data(tmp_path)
    written = source.readers["train"]()
    np.testing.assert_allclose(written.boxes, [[40, 15, 20, 20]] * 2)
    assert len(written.problems) == 1
    with pytest.raises(DataError, match="test/images does not exist"):
        source.read("test")
