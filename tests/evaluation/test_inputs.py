"""The inputs of an evaluation: ground truth, COCO results files, and the mapping of classes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judge import read_both, read_truth, twelve

from detrcli.checkpoints.coco import NAMES
from detrcli.errors import DataError, UsageError
from detrcli.evaluation.class_mapping import UNKNOWN_CLASS, map_classes
from detrcli.evaluation.metrics import score
from detrcli.evaluation.results import Results, join, read_results, write_results
from detrcli.structures import Classes

BOXES = [[10, 10, 30, 20], [80, 40, 60, 60], [200, 5, 10, 10], [5, 5, 20, 0]]  # inside, partly, outside, flat


@pytest.fixture
def document() -> dict[str, Any]:
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 60} for i in (9, 3)],
        "annotations": [
            {"id": i, "image_id": image, "category_id": 1 + i % 2, "bbox": box, "area": 7.0, "iscrowd": 0}
            for image in (9, 3)
            for i, box in enumerate(BOXES)
        ],
        "categories": [{"id": 2, "name": "Bee"}, {"id": 1, "name": "ant"}],
    }


def test_nothing_is_clipped_or_left_out(document: dict[str, Any], tmp_path: Path) -> None:
    """Boxes without width or outside of the image, areas and crowds; each annotation id twice, 0 too."""
    document["annotations"][1]["iscrowd"] = 1
    truth = read_truth(tmp_path, document)
    assert truth.boxes.tolist() == BOXES * 2
    assert truth.areas.tolist() == [7.0] * 8
    assert truth.crowd.tolist() == [i == 1 for i in range(8)]
    assert truth.image_ids.tolist() == [3, 9]
    keys = ("image_id", "category_id", "bbox")
    results = [{key: entry[key] for key in keys} | {"score": 0.5} for entry in document["annotations"]]
    truth, found = read_both(tmp_path, document, results)
    assert score(truth, found).metrics == pytest.approx(twelve(document, results), abs=1e-9)
    assert score(truth, found).metrics["AP"] > 0


def test_invalid_boxes_are_not_objects(document: dict[str, Any], tmp_path: Path) -> None:
    for i, box in ((0, [1, 2, 3]), (5, [1, 2, float("nan"), 4]), (6, None)):
        document["annotations"][i]["bbox"] = box
    truth = read_truth(tmp_path, document)
    assert truth.boxes.tolist() == [*BOXES[1:], BOXES[0], BOXES[3]]
    assert truth.of_image.tolist() == [9, 9, 9, 3, 3]


def test_a_missing_area_is_that_of_the_box(document: dict[str, Any], tmp_path: Path) -> None:
    for annotation in document["annotations"]:
        del annotation["area"]
    assert read_truth(tmp_path, document).areas.tolist() == [w * h for _, _, w, h in BOXES * 2]


def test_the_first_images_of_the_file(document: dict[str, Any], tmp_path: Path) -> None:
    truth = read_truth(tmp_path, document, limit=1)
    assert truth.image_ids.tolist() == [9]
    assert set(truth.of_image.tolist()) == {9}


def test_some_classes(document: dict[str, Any], tmp_path: Path) -> None:
    truth = read_truth(tmp_path, document, classes=[" bee "])
    assert truth.classes.names.tolist() == ["Bee"]
    assert set(truth.of_category.tolist()) == {2}
    with pytest.raises(UsageError, match=r"(?s)classes.*wasp.*ant, Bee\."):
        read_truth(tmp_path, document, classes=["wasp", "ant"])


@pytest.mark.parametrize("flat", [False, True])
def test_a_parent_class_counts_only_with_objects(document: dict[str, Any], tmp_path: Path, flat: bool) -> None:
    """A box without height counts, though training leaves it out."""
    document["categories"].append({"id": 0, "name": "insects"})
    document["categories"][1]["supercategory"] = "insects"
    if flat:
        document["annotations"][3]["category_id"] = 0
    assert read_truth(tmp_path, document).classes.ids.tolist() == [0, 1, 2][not flat :]


IMAGES, CATEGORIES = np.array([3, 4_000_000_007]), np.array([0, 18])
GOOD = {"image_id": 4_000_000_007, "category_id": 18, "bbox": [1, 2.5, 3, 4], "score": 0.25}


def read_content(path: Path, content: str | bytes) -> Results:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_results(path, IMAGES, CATEGORIES)


def test_every_digit_comes_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    results = Results(
        rng.choice(IMAGES, 50), rng.choice(CATEGORIES, 50), rng.normal(size=(50, 4)) * 1e3, rng.random(50)
    )
    write_results(results, tmp_path / "r.json")
    again = read_results(tmp_path / "r.json", IMAGES, CATEGORIES)
    for name in ("image_ids", "category_ids", "boxes", "scores"):
        np.testing.assert_array_equal(getattr(again, name), getattr(results, name))
    write_results(join([]), tmp_path / "r.json")
    assert len(read_results(tmp_path / "r.json", IMAGES, CATEGORIES)) == 0


def test_other_keys_are_ignored(tmp_path: Path) -> None:
    """Also NaN and numbers of a hundred digits in them, and a byte order mark."""
    assert read_content(tmp_path / "r.json", json.dumps([GOOD])).boxes.tolist() == [[1, 2.5, 3, 4]]
    odd = json.dumps([{**GOOD, "segmentation": [float("nan")], "id": 10**100, "area": "x"}])
    for content in (odd, b"\xef\xbb\xbf" + odd.encode()):
        assert read_content(tmp_path / "r.json", content).boxes.tolist() == [[1, 2.5, 3, 4]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "JSON"),
        ("[{", "JSON"),
        (b"\xff\xfe\x00", "JSON"),
        ("[" * 100_000, "entry 0"),
        (json.dumps([{**GOOD, "file_name": "caf\u00e9"}], ensure_ascii=False).encode("latin-1"), "JSON"),
        ('{"annotations": []}', "list"),
        ("null", "list"),
    ],
)
def test_invalid_files(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"(?s)r\.json: .*{message}"):
        read_content(tmp_path / "r.json", content)


@pytest.mark.parametrize(
    ("entry", "key"),
    [
        (5, ""),
        ({}, "image_id"),
        ({**GOOD, "image_id": "3"}, "image_id"),
        ({**GOOD, "image_id": True}, "image_id"),
        ({**GOOD, "category_id": None}, "category_id"),
        ({**GOOD, "category_id": 2**63}, "category_id"),
        ({**GOOD, "image_id": -(2**63) - 1}, "image_id"),
        ({**GOOD, "bbox": [1, 2, 3]}, "bbox"),
        ({**GOOD, "bbox": [1, 2, 3, 4, 5]}, "bbox"),
        ({**GOOD, "bbox": None}, "bbox"),
        ({**GOOD, "bbox": [[1, 2, 3, 4]]}, "bbox"),
        ({**GOOD, "bbox": [1, 2, 3, "4"]}, "bbox"),
        ({**GOOD, "bbox": [1, 2, 3, float("inf")]}, "bbox"),
        ({**GOOD, "score": float("nan")}, "score"),
        ({**GOOD, "score": True}, "score"),
        ({**GOOD, "score": 10**400}, "score"),
        ({**GOOD, "score": None}, "score"),
        ({**GOOD, "file_name": 5.0}, "file_name"),
        ({**GOOD, "file_name": ["a"]}, "file_name"),
        ({**GOOD, "image_id": 5}, "image_id 5"),
        ({**GOOD, "category_id": 1}, "category_id 1"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_an_invalid_entry_is_named(tmp_path: Path, entry: Any, key: str) -> None:
    with pytest.raises(DataError, match=rf"r\.json: entry 1\b.*{key}\b"):
        read_content(tmp_path / "r.json", json.dumps([GOOD, entry, GOOD]))


def classes(named: dict[int, str]) -> Classes:
    return Classes(ids=np.array(list(named), dtype=np.int64), names=np.array(list(named.values())))


def test_by_name_across_ids() -> None:
    """Case and surrounding space do not matter, nor do ids, even if they match another class."""
    mapping = map_classes(classes({1: "Dog", 2: "cat", 3: "bus"}), classes({2: " dog ", 1: "CAT", 9: "tree"}))
    assert mapping.by == "name"
    assert mapping.classes.ids.tolist() == [2, 1, UNKNOWN_CLASS]
    assert mapping.classes.names.tolist() == ["Dog", "cat", "bus"]
    assert list(mapping.only_weights) == ["bus"]
    assert list(mapping.only_data) == ["tree"]


def test_by_id_where_no_name_matches() -> None:
    model, data = classes({1: "a", 2: "b", 3: "N/A"}), classes({2: "zwei", 3: "drei"})
    mapping = map_classes(model, data, match_classes_by_id=True)
    assert mapping.by == "id"
    assert mapping.classes.ids.tolist() == [UNKNOWN_CLASS, 2, UNKNOWN_CLASS]
    assert list(mapping.only_weights) == ["a"]
    assert list(mapping.only_data) == ["drei"]
    assert list(mapping.pairs) == [("b", "zwei")]
    with pytest.raises(DataError, match=r"(?s)a, b.*zwei, drei.*match.classes.by.id"):
        map_classes(model, data)
    with pytest.raises(DataError, match=r"(?s)a, b.*c\."):
        map_classes(classes({1: "a", 2: "b"}), classes({3: "c"}), match_classes_by_id=True)


def test_repeated_names() -> None:
    """A name that the data has twice maps to the class of its id, else of the lowest id."""
    data = classes({4: "cat", 2: "cat", 7: "dog"})
    assert map_classes(classes({4: "cat"}), data).classes.ids.tolist() == [4]
    assert map_classes(classes({9: "cat"}), data).classes.ids.tolist() == [2]
    assert list(map_classes(classes({9: "cat"}), data).only_data) == ["cat", "dog"]
    assert map_classes(classes({0: "dog", 1: "Dog"}), data).classes.ids.tolist() == [7, 7]


def test_unused_classes_of_the_published_weights_map_to_nothing() -> None:
    mapping = map_classes(classes(dict(enumerate(NAMES))), classes({12: "N/A", 100: "person"}))
    assert [i for i in mapping.classes.ids.tolist() if i != UNKNOWN_CLASS] == [100]
    assert len(mapping.only_weights) == 79
