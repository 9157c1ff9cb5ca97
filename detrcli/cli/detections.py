"""Detections as JSON, COCO results, CSV and tables."""

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from detrcli.cli.console import print_json, print_table
from detrcli.errors import DataError
from detrcli.system.text import escape_controls

if TYPE_CHECKING:
    from detrcli.structures import Detections


Threshold = float | dict[str, Any]  # of all classes; or those of "classes" by their names, and "all" for the rest


COLUMNS = ("query", "category_id", "label", "score", "box")  # of what is printed in lines


@dataclass(frozen=True)
class Result:
    """What became of one picture."""

    file: str
    width: int
    height: int
    detections: "Detections | None"
    notes: Sequence[str]
    problem: str | None
    segments: Sequence[Mapping[str, Any]] | None = None  # of its map, where it has one, as they are written


def _rows(found: "Detections | None", *, polygons: bool = False) -> Iterator[dict[str, Any]]:
    """A detection each, in plain Python; a thousandth of a pixel is as fine as float32 goes."""
    if found is None:
        return
    for i in range(len(found)):
        yield {
            "query": int(found.queries[i]),
            "category_id": int(found.category_ids[i]),
            "label": str(found.labels[i]),
            "score": round(float(found.scores[i]), 6),
            "box": [round(value, 3) for value in found.boxes[i].tolist()],
            **({} if found.masks is None else {"mask": found.masks.rle(i)}),
            **({"polygons": found.masks.polygons(i)} if polygons and found.masks is not None else {}),
        }


def as_line(result: Result, *, polygons: bool = False) -> dict[str, Any]:
    """One picture of the document below, or why it was skipped."""
    if result.problem is not None:
        return {"file": result.file, "reason": result.problem}
    return {
        "file": result.file,
        "width": result.width,
        "height": result.height,
        "detections": list(_rows(result.detections, polygons=polygons)),
    }


def as_json(results: Sequence[Result], weights: str, threshold: Threshold, *, polygons: bool = False) -> dict[str, Any]:
    """The document `detr.predict/1`."""
    return {
        "schema": "detr.predict/1",
        "weights": weights,
        "threshold": threshold,
        "images": [as_line(result, polygons=polygons) for result in results if result.problem is None],
        "skipped": [as_line(result) for result in results if result.problem is not None],
    }


def as_coco(results: Sequence[Result], ids: Mapping[str, int] | None = None) -> list[dict[str, Any]]:
    """COCO results. Without ids by their files' names images count from 1 in input order, skipped ones included."""
    return [
        {
            "image_id": image_id if ids is None else ids[PurePath(result.file).name],
            "file_name": result.file,
            "category_id": row["category_id"],
            "bbox": [x0, y0, round(x1 - x0, 3), round(y1 - y0, 3)],
            "score": row["score"],
            **({"segmentation": row["mask"]} if "mask" in row else {}),
        }
        for image_id, result in enumerate(results, 1)
        for row in _rows(result.detections)
        for x0, y0, x1, y1 in [row["box"]]
    ]


def ids_from(path: Path, files: Sequence[str]) -> dict[str, int]:
    """The ids that COCO annotations give to files, by their names; a DataError where a file has none, or two."""
    try:
        images = json.loads(path.read_text(encoding="utf-8"))["images"]
        listed = [(PurePath(image["file_name"]).name, int(image["id"])) for image in images]
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(f"--ids-from {path}: these are no COCO annotations ({error}).") from None
    count = Counter(name for name, _ in listed)
    for file in files:
        name = PurePath(file).name
        if count[name] != 1:
            raise DataError(f"--ids-from {path}: there are {count[name]} images of the name {name}.")
    return dict(listed)


def print_results(
    results: Sequence[Result],
    format_: str | None,
    weights: str,
    threshold: Threshold,
    ids: Mapping[str, int] | None = None,
    *,
    polygons: bool = False,
) -> None:
    """In a format, or as a table for people."""
    if format_ == "json":
        print_json(as_json(results, weights, threshold, polygons=polygons))
    elif format_ == "coco":
        print_json(as_coco(results, ids))
    elif format_ == "csv":
        print_csv(results)
    else:
        print_for_people(results, threshold)


def print_csv(results: Sequence[Result]) -> None:
    """A line per detection."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["file", "query", "category_id", "label", "score", "x0", "y0", "x1", "y1"])
    for result in results:
        for row in _rows(result.detections):
            *values, box = (row[key] for key in COLUMNS)
            writer.writerow([_cell(value) for value in (result.file, *values, *box)])


def _cell(value: str | float) -> str:
    """Words that a spreadsheet would compute are quoted, as it would quote them itself."""
    text = escape_controls(str(value))
    return f"'{text}" if isinstance(value, str) and text.startswith(("=", "+", "-", "@")) else text


def print_for_people(results: Sequence[Result], threshold: Threshold) -> None:
    """One picture's detections, or how much of what was found in each of several."""
    if len(results) == 1 and results[0].problem is None:
        found = ([row[key] for key in COLUMNS] for row in _rows(results[0].detections))
        rows = [(*values, *box) for *values, box in found]
        if rows:
            print_table(
                ("query", "label", "score", "x0", "y0", "x1", "y1"),
                [(q, label, f"{s:.3f}", *(f"{v:.1f}" for v in box)) for q, _, label, s, *box in rows],
            )
        else:
            asked = f"a score of {threshold} or more" if isinstance(threshold, float) else "the score of its class"
            print(f"Nothing found with {asked}.")
        return
    print_table(
        ("file", "objects", "what"),
        [(r.file, len(r.detections), _summary(r.detections)) for r in results if r.detections is not None],
    )


def _summary(found: "Detections") -> str:
    counts = Counter(found.labels.tolist())
    return ", ".join(f"{count} {label}" for label, count in counts.most_common())
