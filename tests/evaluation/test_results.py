"""Files of COCO results: every digit there and back, and each entry that does not fit named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detrcli.errors import DataError, UsageError
from detrcli.evaluation.results import Results, join, read_results, write_results

IMAGES, CATEGORIES = np.array([3, 4_000_000_007]), np.array([0, 18])
GOOD = {"image_id": 4_000_000_007, "category_id": 18, "bbox": [1, 2.5, 3, 4], "score": 0.25}


def read(path: Path, content: str | bytes) -> Results:
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
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_nothing_found(tmp_path: Path) -> None:
    write_results(join([]), tmp_path / "r.json")
    assert len(read_results(tmp_path / "r.json", IMAGES, CATEGORIES)) == 0


def test_other_keys_are_passed_over(tmp_path: Path) -> None:
    """Whatever is in them: a NaN, a number of a hundred digits; before all that, the mark of an encoding."""
    plain = read(tmp_path / "r.json", json.dumps([GOOD]))
    assert plain.boxes.tolist() == [[1, 2.5, 3, 4]]
    odd = json.dumps([{**GOOD, "segmentation": [float("nan")], "id": 10**100, "area": "x"}])
    for content in (odd, b"\xef\xbb\xbf" + odd.encode()):
        assert read(tmp_path / "r.json", content).boxes.tolist() == [[1, 2.5, 3, 4]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no JSON"),
        ("[{", "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        ("[" * 100_000, "no JSON"),
        (json.dumps([{**GOOD, "file_name": "caf\u00e9"}], ensure_ascii=False).encode("latin-1"), "no JSON"),
        ('{"annotations": []}', "a list of detections; this is a dict"),
        ("null", "this is a NoneType"),
    ],
)
def test_files_that_are_no_list(tmp_path: Path, content: str | bytes, said: str) -> None:
    with pytest.raises(DataError, match=said) as error:
        read(tmp_path / "r.json", content)
    assert "r.json: " in str(error.value)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (5, "no detection but a int"),
        ({}, "lacks image_id, category_id, bbox, score"),
        ({**GOOD, "image_id": "3"}, "its image_id is '3', which is no id"),
        ({**GOOD, "image_id": True}, "its image_id is True"),
        ({**GOOD, "category_id": None}, "its category_id is None"),
        ({**GOOD, "category_id": 2**63}, "its category_id is 9223372036854775808"),
        ({**GOOD, "bbox": [1, 2, 3]}, "its bbox is not four numbers"),
        ({**GOOD, "bbox": [1, 2, 3, 4, 5]}, "its bbox is not four numbers"),
        ({**GOOD, "bbox": None}, "its bbox is not four numbers"),
        ({**GOOD, "bbox": [[1, 2, 3, 4]]}, "its bbox is not four numbers"),
        ({**GOOD, "bbox": [1, 2, 3, "4"]}, "'4' in its bbox is no finite number"),
        ({**GOOD, "bbox": [1, 2, 3, float("inf")]}, "inf in its bbox is no finite number"),
        ({**GOOD, "score": float("nan")}, "nan in its score is no finite number"),
        ({**GOOD, "score": True}, "True in its score is no finite number"),
        ({**GOOD, "score": 10**400}, "10{39} in its score is no finite number"),
        ({**GOOD, "score": None}, "None in its score is no finite number"),
        ({**GOOD, "file_name": 5.0}, "its file_name is 5.0, which is no name"),
        ({**GOOD, "file_name": ["a"]}, r"its file_name is \['a'\], which is no name"),
        ({**GOOD, "image_id": 5}, "is of image 5, which the data does not have"),
        ({**GOOD, "category_id": 1}, "is of category 1, which the data does not have"),
    ],
    ids=str,
)
def test_an_entry_that_does_not_fit_is_named(tmp_path: Path, entry: Any, said: str) -> None:
    with pytest.raises(DataError, match=rf"r\.json: entry 1\b.*{said}"):
        read(tmp_path / "r.json", json.dumps([GOOD, entry, GOOD]))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_results(tmp_path / "r.json", IMAGES, CATEGORIES)
