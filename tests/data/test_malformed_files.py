"""Malformed and malicious annotation files: each fails at once with an error that names the file."""

import json
import os
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import folders
import numpy as np
import pytest

from detrcli.data.annotations import classes_in_report
from detrcli.data.checks import check_split
from detrcli.data.examine import examine
from detrcli.data.images import lies_inside
from detrcli.data.layouts import yolo
from detrcli.data.raw_annotations import NO_ID, RawAnnotations
from detrcli.data.source import open_data
from detrcli.errors import DataError
from detrcli.structures import MAX_CLASSES, MAX_NAME_LENGTH, Classes


def train_of(root: Path) -> RawAnnotations:
    return open_data(root).readers["train"]()


def coco(**changes: Any) -> Callable[[Path], Path]:
    """A COCO file with other values in the first entries of its lists, as in `annotations__area`."""
    document = deepcopy(folders.DOCUMENT)
    for place, value in changes.items():
        table, _, key = place.partition("__")
        document[table][0][key] = value
    return lambda root: folders.coco(root, json.dumps(document))


def coco_text(change: Callable[[str], str | bytes]) -> Callable[[Path], Path]:
    return lambda root: folders.coco(root, change(folders.COCO))


def voc(old: str = "", new: str = "", **rest: Any) -> Callable[[Path], Path]:
    text = folders.VOC.replace(old, new) if old else new + folders.VOC
    return lambda root: folders.voc(root, text, **rest)


def entities(*lines: str, last: str) -> Callable[[Path], Path]:
    """XML whose class is an entity."""
    text = f"<!DOCTYPE a [{''.join(lines)}]>" + folders.VOC.replace("ant<", f"&{last};<")
    return lambda root: folders.voc(root, text)


def yaml(text: str) -> Callable[[Path], Path]:
    return lambda root: folders.yolo(root, "train: images\n" + text)


NESTED = "[" * 100_000 + "]" * 100_000
LAUGHTER = [f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10)]


def references(form: str) -> str:
    """YAML in which each name refers to the one before nine times."""
    pairs = zip("abcdefgh", "bcdefghi", strict=True)
    return "".join(f"{after}: &{after} {form % ','.join([f'*{before}'] * 9)}\n" for before, after in pairs)


LISTS = references("[%s]")

# Further kinds are in tests/helpers/bad_data.py.
BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "half of a document": (coco_text(lambda text: text[:50]), "instances_train.json: not a COCO"),
    "no list of images": (coco_text(lambda text: '{"annotations": []}'), "instances_train.json: .* it has no images"),
    "an id that is a word": (coco(images__id="x"), "instances_train.json: .*'x' is not an integer"),
    "an id that is a fraction": (coco(images__id=1.5), "instances_train.json: .*1.5 is not an integer"),
    "nested lists": (coco_text(lambda text: text.replace('"ant"', NESTED)), "instances_train.json: not a COCO"),
    "nested lists in an unused field": (
        coco_text(lambda text: f'{{"licenses": {NESTED}, {text[1:]}'), "instances_train.json: not a COCO"
    ),
    "a number of 5,000 digits": (coco(images__id="9" * 5000), "instances_train.json: .*'9{39} is not an integer"),
    **{
        f"XML in {name}": (voc(new=f'<?xml version="1.0" encoding="{name}"?>'), "a.xml: cannot be read")
        for name in ("gb2312", "Shift_JIS", "foo", "idna", "hex", "undefined")
    },
    "XML of growing entities": (entities('<!ENTITY l0 "lol">', *LAUGHTER, last="l9"), "a.xml: cannot be read"),
    "XML of a long repeated entity": (
        entities(f'<!ENTITY l "{"l" * 100_000}">', last=";&".join(["l"] * 1000)), "a.xml: cannot be read"
    ),
    "a class name of VOC": (voc("ant", "x" * 2_000_000), "Annotations: the class name 'x{20}'... has 2,000,000"),
    "an empty list": (voc(listed=b"\x1c\n\n"), "Annotations: no annotations"),
    "a list that leaves its folder": (voc(listed=b"../../outside\n"), "train.txt: ../../outside lies outside"),
    "a class of 20 digits": (yaml("names: {99999999999999999999: a}\n"), "data.yaml: `names` must be"),
    "a hexadecimal class": (yaml(f"names: {{0x{'f' * 100}: a}}\n"), "data.yaml: `names` must be"),
    "names in lists": (yaml("names: [[ant]]\n"), "data.yaml: `names` must be"),
    "3,000 brackets": (yaml(f"names: {'[' * 3000}\n"), "data.yaml: cannot be read .too deeply nested"),
    "3,000,000 classes": (yaml("nc: 3000000\n"), "data.yaml: `nc` is more than"),
    "a count of 5,000 digits": (yaml(f"nc: {'9' * 5000}\n"), "data.yaml: `nc` is more than"),
    "too many names": (yaml("names: [" + "a, " * (MAX_CLASSES + 1) + "]\n"), "data.yaml: there are 30,001 classes"),
    "names by reference": (yaml(f"a: &a [lol]\n{LISTS}names: *i\n"), "data.yaml: `names` must be"),
    "splits by reference": (
        lambda root: folders.yolo(root, f"a: &a [lol]\n{LISTS}train: *i\nnames: [ant]\n"), "data.yaml: .*of folders"
    ),
    "more than a megabyte": (yaml(f"names: [ant]\nnote: {'x' * 1_000_000}\n"), "data.yaml: .*more than 1,000,000"),
    "a folder with a long name": (
        lambda root: folders.yolo(root, f"train: {'x' * 5000}\nnames: [ant]\n"), "data.yaml: x+ does not exist"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_malformed_files_fail(case: str, tmp_path: Path) -> None:
    make, message = BROKEN[case]
    folders.written(tmp_path / "outside.xml", folders.VOC)
    root = make(tmp_path / "data")
    with pytest.raises(DataError, match=message) as error:
        train_of(root)
    assert len(str(error.value)) < 1000
    assert len(str(error.value).splitlines()) <= 3


UNUSUAL: dict[str, Callable[[Path], Path]] = {
    "Latin-1 in an unused field": coco_text(
        lambda text: text.replace('"id"', '"license": "café", "id"', 1).encode("latin-1")
    ),
    "UTF-16": coco_text(lambda text: text.encode("utf-16")),
    "a long number in an unused field": yaml(f"names: [ant]\nsince: 1{':59' * 100_000}\n"),
    "an invalid date": yaml("names: [ant]\nsince: 9999-99-99\n"),
    "exponentially many merge keys": yaml(f"a: &a {{x: 1}}\n{references('{<<: [%s]}')}names: [ant]\n"),
    "empty splits": yaml("val: null\ntest:\nnames: [ant]\n"),
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_unusual_files_are_read(case: str, tmp_path: Path) -> None:
    written = train_of(UNUSUAL[case](tmp_path))
    assert (list(written.names), len(written.boxes)) == (["ant"], 1)


def test_scalars_of_yaml_are_strings(tmp_path: Path) -> None:
    facts = yolo.read_yaml(folders.written(tmp_path / "data.yaml", "names: [no, 1.0, null, 0x10, 12:30]\n"))
    assert list(yolo.names_of(facts, tmp_path).values()) == ["no", "1.0", "null", "0x10", "12:30"]


@pytest.mark.parametrize("digits", [20, 4301])
def test_long_numbers_of_voc_concern_their_image_only(digits: int, tmp_path: Path) -> None:
    root = voc("<width>50<", f"<width>{'9' * digits}<")(tmp_path / "size")
    problems = check_split("train", train_of(root)).problems
    assert [(problem.kind, problem.where) for problem in problems] == [("size-mismatch", "image 1")]
    root = voc("<xmin>3<", f"<xmin>{'9' * digits}<")(tmp_path / "box")
    checked = check_split("train", train_of(root))
    assert not checked.usable.any()
    assert len(checked.problems) == 1


@pytest.mark.parametrize(
    "make", [coco(annotations__bbox=[1e200, 1, 1e200, 1e200]), voc("<xmax>20<", "<xmax>1e200<")], ids=["coco", "voc"]
)
def test_boxes_whose_area_would_overflow_are_malformed(make: Callable[[Path], Path], tmp_path: Path) -> None:
    written = train_of(make(tmp_path))
    assert np.isnan(written.boxes).all()
    assert [problem.kind for problem in check_split("train", written).problems] == ["bad-box"]


def test_malformed_boxes_become_nan(tmp_path: Path) -> None:
    """NaN as Python writes it, missing numbers, strings; other annotations are not affected."""
    boxes: list[Any] = [[1, 2, 3, 4], [1, 2, 3], None, ["a", 2, 3, 4], [1, 2, 3, float("nan")], [1, 2, 3, float("inf")]]
    document = {**folders.DOCUMENT, "images": [{**folders.DOCUMENT["images"][0], "id": "1"}]}
    document["annotations"] = [{**folders.DOCUMENT["annotations"][0], "id": i, "bbox": b} for i, b in enumerate(boxes)]
    written = train_of(folders.coco(tmp_path, json.dumps(document)))
    assert np.isfinite(written.boxes).all(1).tolist() == [True, False, False, False, False, False]
    assert (written.boxes[0].tolist(), written.areas[0], written.image_ids.tolist()) == ([1, 2, 3, 4], 12, [1])


def test_characters_that_no_file_can_hold_are_escaped(tmp_path: Path) -> None:
    written = train_of(coco(categories__name="a\0", images__file_name="b\ud800\0.png")(tmp_path))
    assert (written.names, written.files) == (["a\\x00"], ["b\\ud800\\x00.png"])


def test_new_ids_start_at_1_after_the_largest_possible_id(tmp_path: Path) -> None:
    document = deepcopy(folders.DOCUMENT)
    entry = document["annotations"][0]
    document["annotations"] = [{**entry, "id": id_} for id_ in (2**63 - 1, None, "x")]
    ids = train_of(folders.coco(tmp_path, json.dumps(document))).annotation_ids
    assert ids.tolist() == [2**63 - 1, 1, 2]
    assert NO_ID not in ids


@pytest.mark.parametrize(
    "file",
    ["../a.png", "a/../../b.png", "..", "/etc/a.png", "//host/share/a.png", "C:/a.png", "link/../a.png", "./../a.png"],
)
def test_names_that_leave_their_folder(file: str, tmp_path: Path) -> None:
    """After a link, .. is relative to the link's target."""
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    root = folders.coco(tmp_path / "data", folders.COCO.replace("a.png", file))
    os.symlink(tmp_path / "elsewhere" / "deep", root / "train" / "link")
    folders.image(tmp_path / "elsewhere" / "a.png")
    problems = check_split("train", train_of(root)).problems
    assert [(p.severity, p.kind, p.where) for p in problems] == [("error", "leaves-folder", "image 1")]


def test_names_that_stay_in_their_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for file in ("a.png", "./a.png", "a/../b.png", "...png", "a..b/c.png", "http://host/a.png"):
        assert lies_inside(tmp_path, file), file


def test_many_supercategories_are_checked_in_linear_time(tmp_path: Path) -> None:
    document = deepcopy(folders.DOCUMENT)
    document["categories"] = [
        {"id": i, "name": f"c{i}", "supercategory": f"c{i // 2}" if i > 5 else "c1"} for i in range(1, 20_001)
    ]
    report = examine(open_data(folders.coco(tmp_path, json.dumps(document))))
    # All with subcategories are left out, but c1, which has a box.
    assert sum(problem.kind == "parent-class" for problem in report.problems) == 9_998
    assert classes_in_report(report).names.tolist() == ["c1", "c2", *(f"c{i}" for i in range(10_001, 20_001))]


def test_class_names_are_bounded() -> None:
    assert Classes.of([2, 1], ["b", "a"]).names.tolist() == ["b", "a"]
    assert Classes.of(range(2), ("x" * MAX_NAME_LENGTH, "")).ids.dtype == np.int64
    for ids, names in (
        ([1], ["x" * (MAX_NAME_LENGTH + 1)]),
        ([1, 2], ["a"]),
        ([[1], [2]], ["a", "b"]),
        ([1], [5]),
        ([1], "a"),
        (range(MAX_CLASSES + 1), ["a"] * (MAX_CLASSES + 1)),
    ):
        with pytest.raises(ValueError, match=r"class"):
            Classes.of(ids, names)
