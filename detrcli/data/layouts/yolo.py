"""YOLO folders: a text file of relative boxes in each picture's name, and often a data.yaml."""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from detrcli.data.headers import read_headers
from detrcli.data.images import SUFFIXES
from detrcli.data.outlines import Outlines, as_text
from detrcli.data.raw_annotations import Problem, RawAnnotations
from detrcli.errors import DataError
from detrcli.structures import MOST_CLASSES, check_class_names
from detrcli.system.text import writable

LARGEST_YAML = 1_000_000  # bytes, which are read in two seconds; a thousand classes take 20,000
HINT = "`train`, `val` and `names` are enough, as in `train: images/train`, `val: images/val`, `names: [cat, dog]`."
_NOTHING = frozenset({"", "~", "null", "Null", "NULL"})
_KINDS = 2**31  # the number of a class is lower


def read_yaml(path: Path) -> dict[str, Any]:
    """A data.yaml: words, and lists and maps of them.

    What looks like a number or a date stays a word, and keys are not merged (<<): some of those take for ever.
    """
    try:
        if path.stat().st_size > LARGEST_YAML:
            raise ValueError(f"it has more than {LARGEST_YAML:,} bytes")
        facts = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)
    except RecursionError:
        raise DataError(f"{path}: cannot be read (lists in lists without end).\n{HINT}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read ({' '.join(str(error).split())}).\n{HINT}") from None
    if not isinstance(facts, dict):
        raise DataError(f"{path}: not a YOLO data.yaml: it holds no keys.\n{HINT}")
    return facts


def words(said: Any, path: Path) -> list[str]:
    """One word, or a list of them; none where a key has no value."""
    values = said if isinstance(said, list) else [said]
    if any(not isinstance(value, str | None) for value in values):
        raise DataError(f"{path}: `train`, `val`, `test` and `path` must be names of folders, or lists of them.")
    return [writable(value) for value in values if value is not None and value not in _NOTHING]


def names_of(facts: Mapping[str, Any], path: Path) -> dict[int, str]:
    """Class names by id, from a list or a map; numbers where there is only `nc`."""
    names, count = facts.get("names"), str(facts.get("nc", ""))
    if isinstance(names, list):
        names = dict(enumerate(names))
    elif names in (None, "") and count.isdecimal():
        if len(count) > len(str(MOST_CLASSES)):
            raise DataError(f"{path}: `nc` is more than the {MOST_CLASSES:,} classes allowed.")
        names = {index: f"class {index}" for index in range(int(count))}
    if not isinstance(names, dict) or not all(_is_class(index, name) for index, name in names.items()):
        raise DataError(f"{path}: `names` must be a list or a map of class names, their numbers from 0.")
    named = {int(index): writable(name) for index, name in names.items()}
    try:
        check_class_names(list(named.values()))
    except ValueError as error:
        raise DataError(f"{path}: {error}.") from None
    return dict(sorted(named.items()))


def _is_class(index: Any, name: Any) -> bool:
    number = str(index)
    return isinstance(name, str) and number.isdecimal() and len(number) < 11 and int(number) < _KINDS


def pictures(places: Sequence[Path]) -> Iterator[Path]:
    """The pictures of a split: all below its folders, and those that its .txt files list."""
    for place in places:
        if place.is_dir():
            found = (path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES)
            yield from sorted(path for path in found if not path.name.startswith("."))
        else:
            try:
                lines = place.read_text(encoding="utf-8-sig").split("\n")
            except (OSError, ValueError) as error:
                raise DataError(f"{place}: cannot be read ({error}).") from None
            yield from (place.parent / writable(line.strip()) for line in lines if line.strip())


def read(places: Sequence[Path], names: Mapping[int, str] | None, split: str, *, pose: bool = False) -> RawAnnotations:
    """Read a split. Without names, the classes are those of the labels; with `pose`, key points follow a box."""
    paths = [Path(os.path.normpath(path)) for path in pictures(places)]
    if not paths:
        raise DataError(f"{', '.join(map(str, places))}: there are no pictures here.")
    roots = [place if place.is_dir() else place.parent for place in places]
    folder = Path(os.path.commonpath([os.path.normpath(root.absolute()) for root in roots]))
    files = [Path(os.path.relpath(path.absolute(), folder)).as_posix() for path in paths]
    headers = read_headers(folder, files)

    rows: list[tuple[int, int, list[float]]] = []
    polygons: list[tuple[str, int, int] | None] = []  # a row's line, height and width, where it is a polygon
    problems: list[Problem] = []
    for image_id, (path, header) in enumerate(zip(paths, headers, strict=True), 1):
        height, width = header.displayed
        for number, line in enumerate(_lines(label_of(path)), 1):
            try:
                category, x, y, w, h = _box(line, pose=pose)
            except ValueError:
                where = f"{label_of(path)}, line {number}"
                problems.append(Problem("error", "bad-box", split, where, f"not a class and a box: {line!r}"))
                continue
            polygons.append((line, height, width) if len(line.split()) > 5 else None)
            rows.append((image_id, category, [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]))

    ids = sorted(names) if names is not None else sorted({row[1] for row in rows})
    boxes = np.array([row[2] for row in rows], dtype=np.float64).reshape(-1, 4)
    return RawAnnotations(
        folder=folder,
        image_ids=np.arange(1, len(paths) + 1),
        files=files,
        sizes=np.zeros((len(paths), 2), dtype=np.int64),
        annotation_ids=np.arange(1, len(rows) + 1),
        of_image=np.array([row[0] for row in rows], dtype=np.int64),
        of_category=np.array([row[1] for row in rows], dtype=np.int64),
        boxes=boxes,
        areas=boxes[:, 2] * boxes[:, 3],
        crowd=np.zeros(len(rows), dtype=bool),
        category_ids=np.array(ids, dtype=np.int64),
        names=[names[i] if names is not None else f"class {i}" for i in ids],
        parents=[""] * len(ids),
        problems=problems,
        outlines=None if pose or not any(polygons) else Outlines(partial(_outlines, polygons), np.arange(len(rows))),
    )


def _outlines(polygons: Sequence[tuple[str, int, int] | None]) -> list[bytes]:
    """In pixels; nothing for a box."""
    return [b"" if one is None else _outline(*one) for one in polygons]


def _outline(line: str, height: int, width: int) -> bytes:
    _, *numbers = line.split()
    corners = np.array(numbers, dtype=np.float64).reshape(-1, 2) * (width, height)
    return as_text([corners.flatten().tolist()])


def label_of(picture: Path) -> Path:
    """The text file of a picture: below `labels` where it is below `images`, else beside it."""
    parts = list(picture.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    below = Path(*parts).with_suffix(".txt")
    beside = picture.with_suffix(".txt")
    return beside if beside.is_file() and not below.is_file() else below


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError:
        return []  # a picture without objects
    except (OSError, ValueError) as error:
        return [f"(the file cannot be read: {error})"]


def _box(line: str, *, pose: bool = False) -> tuple[int, float, float, float, float]:
    """Class, and centre and size in [0, 1], from a box or from the corners of a polygon."""
    category, *numbers = line.split()
    values = np.array(numbers, dtype=np.float64)
    kind = float(category)
    if not np.isfinite(values).all() or not kind.is_integer() or not 0 <= kind < _KINDS:
        raise ValueError
    if pose:
        values = values[:4]
    # Shares of the picture; a little more is what rounding leaves.
    if (np.abs(values) > 1.1).any():
        raise ValueError
    if len(values) == 4:
        x, y, w, h = values.tolist()
    elif len(values) >= 6 and len(values) % 2 == 0:
        (x0, y0), (x1, y1) = values.reshape(-1, 2).min(0).tolist(), values.reshape(-1, 2).max(0).tolist()
        x, y, w, h = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
    else:
        raise ValueError
    return int(kind), x, y, w, h
