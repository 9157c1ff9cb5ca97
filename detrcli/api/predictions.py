"""Predictions for many images, in the formats in which they are printed and written."""

import csv
import io
import json
import mmap
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePath
from typing import Any

from detrcli.api.results import Result, Table, box_table
from detrcli.errors import DataError, UsageError
from detrcli.inference.stream import ImageResult
from detrcli.messages import argument
from detrcli.structures import Detections
from detrcli.system import distributed
from detrcli.system.files import write_whole
from detrcli.system.text import escape_controls

Threshold = float | dict[str, Any]  # for all classes; or {"all": ..., "classes": {name: ...}}
LINES_SCHEMA = "detr.predict-lines/1"
MANY = 20  # images; the results of more are summarized


@dataclass
class Counts:
    """The numbers of images and objects in a prediction."""

    images: int = 0
    empty: int = 0  # images without objects
    skipped: int = 0
    objects: Counter[str] = field(default_factory=Counter)  # by class name
    images_with: Counter[str] = field(default_factory=Counter)  # by class name

    def add(self, result: ImageResult) -> None:
        self.images += 1
        self.skipped += result.problem is not None
        if result.detections is not None:
            labels = Counter(result.detections.labels.tolist())
            self.empty += not labels
            self.objects.update(labels)
            self.images_with.update(labels.keys())

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Predictions(Result):
    """The results for a number of images, in their order."""

    weights: str
    threshold: Threshold
    results: Sequence[ImageResult]  # where they were saved as JSON lines, only those of skipped images
    image_ids: Sequence[int]  # of the results
    counts: Counts
    written: Sequence[Path] = ()  # the output folder and the file of JSON lines
    maps: dict[str, Any] | None = None  # the JSON document of panoptic or semantic maps
    polygons: bool = False

    @property
    def images(self) -> int:
        return self.counts.images

    @property
    def objects(self) -> int:
        return self.counts.objects.total()

    @property
    def skipped(self) -> Sequence[ImageResult]:
        """The results of images that could not be read."""
        return [result for result in self.results if result.problem is not None]

    @property
    def document(self) -> dict[str, Any]:
        images = [result for result in self.results if result.problem is None]
        return {
            "schema": "detr.predict/1",
            "weights": self.weights,
            "threshold": self.threshold,
            "images": [image_document(result, polygons=self.polygons) for result in images],
            "skipped": [image_document(result) for result in self.skipped],
        }

    @property
    def coco(self) -> list[dict[str, Any]]:
        """COCO results."""
        return [
            {"image_id": image_id, "file_name": str(result.source), **row}
            for image_id, result in zip(self.image_ids, self.results, strict=True)
            for row in coco_rows(result.detections)
        ]

    @property
    def csv(self) -> str:
        """A line per detection. Text that a spreadsheet would evaluate is quoted."""

        def cell(value: str | float) -> str:
            text = escape_controls(str(value))
            return f"'{text}" if isinstance(value, str) and text.startswith(("=", "+", "-", "@")) else text

        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "query", "category_id", "label", "score", "x0", "y0", "x1", "y1"])
        for result in self.results:
            for row in rows(result.detections):
                values = (row["query"], row["category_id"], row["label"], row["score"], *row["box"])
                writer.writerow([cell(value) for value in (str(result.source), *values)])
        return file.getvalue()

    @property
    def content(self) -> Sequence[str | Table]:
        return self.summary if self.images > MANY else self.table

    @property
    def table(self) -> Sequence[str | Table]:
        """The detections of a single image, or the number of objects in each of several."""
        images = self.document["images"]
        if len(images) != 1 or self.skipped:
            counts = [(image["file"], Counter(row["label"] for row in image["detections"])) for image in images]
            lines = [(file, n.total(), ", ".join(f"{k} {label}" for label, k in n.most_common())) for file, n in counts]
            return [Table("", ("file", "objects", "classes"), lines)] if lines else []
        if images[0]["detections"]:
            return [box_table(images[0]["detections"])]
        return [f"No detections with a score of {self.threshold} or more."]

    @property
    def summary(self) -> Sequence[str | Table]:
        """The number of images and objects, and of the objects of each class."""
        counts, images = self.counts, "1 image" if self.images == 1 else f"{self.images:,} images"
        written = f", written to {' and '.join(map(str, self.written))}" if self.written else ""
        lines: list[str | Table] = [f"{images}, {self.objects:,} objects{written}"]
        if counts.empty:
            lines.append(f"{counts.empty:,} without objects")
        if counts.skipped:
            lines.append(f"{counts.skipped:,} skipped")
        classes = [(label, count, counts.images_with[label]) for label, count in counts.objects.most_common()]
        return [*lines, Table("", ("class", "objects", "images"), classes)] if classes else lines


def coco_rows(detections: Detections | None) -> Iterator[dict[str, Any]]:
    """Yield the category, box, score and mask of each detection as in COCO results."""
    for row in rows(detections):
        x0, y0, x1, y1 = row["box"]
        yield {
            "category_id": row["category_id"],
            "bbox": [x0, y0, round(x1 - x0, 3), round(y1 - y0, 3)],
            "score": row["score"],
            **({"segmentation": row["mask"]} if "mask" in row else {}),
        }


def rows(detections: Detections | None, *, polygons: bool = False) -> Iterator[dict[str, Any]]:
    """Yield each detection for JSON. Boxes have three decimals, which is the precision of float32 at these sizes."""
    if detections is None:
        return
    for i in range(len(detections)):
        row: dict[str, Any] = {
            "query": int(detections.queries[i]),
            "category_id": int(detections.category_ids[i]),
            "label": str(detections.labels[i]),
            "score": round(float(detections.scores[i]), 6),
            "box": [round(value, 3) for value in detections.boxes[i].tolist()],
        }
        if detections.masks is not None:
            row["mask"] = detections.masks.rle(i)
            if polygons:
                row["polygons"] = detections.masks.polygons(i)
        yield row


def image_document(result: ImageResult, *, polygons: bool = False) -> dict[str, Any]:
    """Return the detections of an image for JSON, or the reason it was skipped."""
    if result.problem is not None:
        return {"file": str(result.source), "reason": result.problem}
    height, width = result.size or (0, 0)
    detections = list(rows(result.detections, polygons=polygons))
    return {"file": str(result.source), "width": width, "height": height, "detections": detections}


def image_ids_from(path: Path, images: Sequence[Path]) -> list[int]:
    """Return the ids of images in COCO annotations, by file name. Raises DataError unless each name occurs once."""
    option = argument("ids_from", path)
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["images"]
        listed = [(PurePath(entry["file_name"]).name, int(entry["id"])) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(f"{option}: these are not COCO annotations ({error}).") from None
    count, ids = Counter(name for name, _ in listed), dict(listed)
    for image in images:
        if count[image.name] != 1:
            raise DataError(f"{option}: {count[image.name]} images have the name {image.name}.")
    return [ids[image.name] for image in images]


class PredictionLines:
    """A file of JSON lines, written as results come, so that an interrupted prediction can be resumed.

    The first line contains the options, each other line an image. Each of several processes writes a file beside it,
    and these are appended at the end, or when the prediction is resumed.
    """

    def __init__(self, path: Path, options: Mapping[str, Any], *, resume: bool) -> None:
        self.path = path
        self.head = {"schema": LINES_SCHEMA, **options}
        distributed.broadcast_object(lambda: self._begin(resume=resume))
        self.done = set(_files_in(path))  # files with a line
        several = distributed.world_size() > 1
        self._part = path.with_name(f"{path.name}.part{distributed.rank()}") if several else path

    def _parts(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{self.path.name}.part*"))

    def _begin(self, *, resume: bool) -> None:
        if not resume or not (self.path.exists() or self._parts()):
            for part in self._parts():  # of an interrupted run that is not resumed
                part.unlink()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, (json.dumps(self.head) + "\n").encode())
            return
        with self.path.open(encoding="utf-8", errors="replace") as file:
            try:
                before = json.loads(file.readline() or "{}")
            except (ValueError, RecursionError):
                before = None
        if not isinstance(before, dict) or before.get("schema") != LINES_SCHEMA:
            raise DataError(f"{self.path}: not a file of predictions in JSON lines.")
        for key, value in self.head.items():
            if before.get(key) != value:
                raise UsageError(
                    f"{argument('resume')}: {self.path} was begun with another {key}: {before.get(key)!r}, "
                    f"not {value!r}."
                )
        _cut_incomplete_line(self.path)
        self._append_parts()

    def _append_parts(self) -> None:
        parts = self._parts()
        with self.path.open("a", encoding="utf-8") as whole:
            for part in parts:
                _cut_incomplete_line(part)
                with part.open(encoding="utf-8") as file:
                    whole.writelines(file)
        for part in parts:
            part.unlink()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Open the file for `add`."""
        with self._part.open("a", encoding="utf-8") as self._file:
            yield
        if distributed.world_size() > 1:
            distributed.gather(None)  # until all have written
            distributed.broadcast_object(self._append_parts)

    def add(self, result: ImageResult) -> None:
        """Write the line of an image."""
        document = image_document(result, polygons=bool(self.head.get("polygons")))
        self._file.write(json.dumps(document) + "\n")
        self._file.flush()


def _files_in(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        next(lines)
        for number, line in enumerate(lines, 2):
            try:
                file = json.loads(line)["file"]
                if not isinstance(file, str):
                    raise TypeError("its file is not a string")
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise DataError(
                    f"{path}: line {number} is not a prediction ({error}).\nRemove the line, or start again."
                ) from None
            yield file


def _cut_incomplete_line(path: Path) -> None:
    """Remove the beginning of a line that a killed process left at the end of a file."""
    with path.open("r+b") as file:
        if file.seek(0, os.SEEK_END):
            with mmap.mmap(file.fileno(), 0) as content:
                end = content.rfind(b"\n") + 1
            file.truncate(end)
