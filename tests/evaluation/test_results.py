"""COCO results files: every digit is kept, and each invalid entry is named."""

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
    write_results(join([]), tmp_path / "r.json")
    assert len(read_results(tmp_path / "r.json", IMAGES, CATEGORIES)) == 0


def test_other_keys_are_ignored(tmp_path: Path) -> None:
    """Also NaN and numbers of a hundred digits in them, and a byte order mark."""
    assert read(tmp_path / "r.json", json.dumps([GOOD])).boxes.tolist() == [[1, 2.5, 3, 4]]
    odd = json.dumps([{**GOOD, "segmentation": [float("nan")], "id": 10**100, "area": "x"}])
    for content in (odd, b"\xef\xbb\xbf" + odd.encode()):
        assert read(tmp_path / "r.json", content).boxes.tolist() == [[1, 2.5, 3, 4]]


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
        read(tmp_path / "r.json", content)


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
        read(tmp_path / "r.json", json.dumps([GOOD, entry, GOOD]))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="predictions"):
        read_results(tmp_path / "r.json", IMAGES, CATEGORIES)
