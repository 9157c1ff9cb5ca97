"""YOLO folders: a text file of relative boxes or polygons per image, and often a data.yaml; read and written."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from detrcli.data.image_files import read_headers
from detrcli.data.images import IMAGE_SUFFIXES
from detrcli.data.raw_annotations import Problems, RawAnnotations
from detrcli.data.segmentations import Segmentations, as_text
from detrcli.errors import DataError
from detrcli.structures import MAX_CLASSES, check_class_names
from detrcli.system.text import writable

MAX_YAML_BYTES = 1_000_000  # read in two seconds; a thousand class names take 20,000 bytes
HINT = "`train`, `val` and `names` are enough, as in `train: images/train`, `val: images/val`, `names: [cat, dog]`."
_EMPTY = frozenset({"", "~", "null", "Null", "NULL"})  # scalars that mean null in YAML
_MAX_ID = 2**31 - 1  # of a class


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a data.yaml. All scalars are strings, and merge keys (<<) are not resolved: that can be very slow."""
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise ValueError(f"more than {MAX_YAML_BYTES:,} bytes")
        facts = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)
    except RecursionError:
        raise DataError(f"{path}: cannot be read (too deeply nested lists).\n{HINT}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read ({' '.join(str(error).split())}).\n{HINT}") from None
    if not isinstance(facts, dict):
        raise DataError(f"{path}: not a YOLO data.yaml: it has no keys.\n{HINT}")
    return facts


def strings(value: Any, path: Path) -> list[str]:
    """Return a value of a data.yaml as a list of strings, empty for a key without value."""
    values = value if isinstance(value, list) else [value]
    if any(not isinstance(item, str | None) for item in values):
        raise DataError(f"{path}: `train`, `val`, `test` and `path` must be names of folders, or lists of them.")
    return [writable(item) for item in values if item is not None and item not in _EMPTY]


def names_of(facts: Mapping[str, Any], path: Path) -> dict[int, str]:
    """Return class names by id, from a list or a mapping; generated names if there is only `nc`."""
    names, count = facts.get("names"), str(facts.get("nc", ""))
    if isinstance(names, list):
        names = dict(enumerate(names))
    elif names in (None, "") and count.isdecimal():
        if len(count) > len(str(MAX_CLASSES)):
            raise DataError(f"{path}: `nc` is more than the {MAX_CLASSES:,} classes allowed.")
        names = {index: f"class {index}" for index in range(int(count))}
    if not isinstance(names, dict) or not all(_is_class(index, name) for index, name in names.items()):
        raise DataError(f"{path}: `names` must be a list or a mapping of class names, with ids from 0.")
    by_id = {int(index): writable(name) for index, name in names.items()}
    try:
        check_class_names(list(by_id.values()))
    except ValueError as error:
        raise DataError(f"{path}: {error}.") from None
    return dict(sorted(by_id.items()))


def _is_class(index: Any, name: Any) -> bool:
    digits = str(index)
    return isinstance(name, str) and digits.isdecimal() and len(digits) < 11 and int(digits) <= _MAX_ID


def images(places: Sequence[Path]) -> Iterator[Path]:
    """Yield the images of a split: all those in its folders and subfolders, and those listed in its .txt files."""
    for place in places:
        if place.is_dir():
            files = (path for path in place.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
            yield from sorted(path for path in files if not path.name.startswith("."))
        else:
            try:
                lines = place.read_text(encoding="utf-8-sig").split("\n")
            except (OSError, ValueError) as error:
                raise DataError(f"{place}: cannot be read ({error}).") from None
            yield from (place.parent / writable(line.strip()) for line in lines if line.strip())


def read(places: Sequence[Path], names: Mapping[int, str] | None, split: str, *, pose: bool = False) -> RawAnnotations:
    """Read a split. Without names, the classes are the ids in the labels; with `pose`, keypoints follow each box."""
    paths = [Path(os.path.normpath(path)) for path in images(places)]
    if not paths:
        raise DataError(f"{', '.join(map(str, places))}: no images.")
    roots = [place if place.is_dir() else place.parent for place in places]
    folder = Path(os.path.commonpath([os.path.normpath(root.absolute()) for root in roots]))
    files = [Path(os.path.relpath(path.absolute(), folder)).as_posix() for path in paths]

    rows: list[tuple[int, int, list[float], bool]] = []  # image id, class id, xywh in pixels, crowd
    polygons: list[tuple[str, int, int] | None] = []  # by row: line, image height and width; None for boxes
    problems = Problems(split)
    for image_id, (path, header) in enumerate(zip(paths, read_headers(folder, files), strict=True), 1):
        height, width = header.displayed
        for number, line in enumerate(_lines(label_of(path)), 1):
            try:
                category, x, y, w, h = _box(line, pose=pose)
            except ValueError:
                problems.error("bad-box", f"{label_of(path)}, line {number}", f"not a class and a box: {line!r}")
                continue
            polygons.append((line, height, width) if len(line.split()) > 5 else None)
            rows.append((image_id, category, [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height], False))

    if names is None:
        names = {category: f"class {category}" for category in sorted({row[1] for row in rows})}
    # Label files contain no image sizes; (0, 0) stands for the size of the image file.
    raw = RawAnnotations.from_rows(folder, files, [(0, 0)] * len(files), rows, names, problems)
    if pose or not any(polygons):
        return raw
    return replace(raw, segmentations=Segmentations(partial(_segmentations, polygons), np.arange(len(rows))))


def _segmentations(polygons: Sequence[tuple[str, int, int] | None]) -> list[bytes]:
    """Return the text of each polygon, in pixels; empty for boxes."""

    def text(line: str, height: int, width: int) -> bytes:
        corners = np.array(line.split()[1:], dtype=np.float64).reshape(-1, 2) * (width, height)
        return as_text([corners.flatten().tolist()])

    return [b"" if polygon is None else text(*polygon) for polygon in polygons]


def label_path(image: Path) -> Path:
    """Return the path of an image's labels: in the folder `labels` in place of the last `images`, else beside it."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def label_of(image: Path) -> Path:
    """Return the existing label file of an image, which may be beside it, or the path that it would have."""
    in_labels, beside = label_path(image), image.with_suffix(".txt")
    return beside if beside.is_file() and not in_labels.is_file() else in_labels


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError:
        return []  # an image without objects
    except (OSError, ValueError) as error:
        return [f"(the file cannot be read: {error})"]


def _box(line: str, *, pose: bool = False) -> tuple[int, float, float, float, float]:
    """Return the class id and the cxcywh in [0, 1] of a box, or of the box around a polygon."""
    category, *numbers = line.split()
    values = np.array(numbers, dtype=np.float64)
    id_ = float(category)
    if not np.isfinite(values).all() or not id_.is_integer() or not 0 <= id_ <= _MAX_ID:
        raise ValueError
    if pose:
        values = values[:4]
    if (np.abs(values) > 1.1).any():  # fractions of the image, with room for rounding
        raise ValueError
    if len(values) == 4:
        x, y, w, h = values.tolist()
    elif len(values) >= 6 and len(values) % 2 == 0:
        (x0, y0), (x1, y1) = values.reshape(-1, 2).min(0).tolist(), values.reshape(-1, 2).max(0).tolist()
        x, y, w, h = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
    else:
        raise ValueError
    return int(id_), x, y, w, h


def label_line(
    category: int,
    size: tuple[int, int],
    box: Sequence[float],
    polygon: Sequence[float] = (),
    score: float | None = None,
) -> str:
    """Return the line of an object in an image of this (height, width): its box, xyxy in pixels, or its polygon.

    The polygon has the points x, y, x, y, ... and may be empty. A score is the last number, as Ultralytics writes it.
    """
    (height, width), (x0, y0, x1, y1) = size, box
    places = polygon or ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
    numbers = [f"{value / (width, height)[i % 2]:.8f}" for i, value in enumerate(places)]
    return " ".join([str(category), *numbers, *([] if score is None else [f"{score:.6f}"])]) + "\n"


def data_yaml(names: Sequence[str], images: str) -> str:
    """Return a data.yaml for a folder of images that are both train and val, as Ultralytics requires."""
    facts = {"train": images, "val": images, "names": dict(enumerate(names))}
    text: str = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)
    return text
