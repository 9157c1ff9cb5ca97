"""Detections of a whole split as arrays, and the file of COCO results that others read and write."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import msgspec
import numpy as np

from detrcli.errors import DataError, UsageError
from detrcli.evaluation.class_mapping import UNKNOWN_CLASS
from detrcli.evaluation.masks import objects, read_mask, rows_of
from detrcli.structures import Detections
from detrcli.system.files import write_whole

LARGEST = sys.float_info.max


@dataclass(frozen=True)
class Results:
    """N detections, under the data's own ids."""

    image_ids: np.ndarray  # (N,) int64
    category_ids: np.ndarray  # (N,) int64
    boxes: np.ndarray  # (N, 4) float64, x, y, width, height in pixels
    scores: np.ndarray  # (N,) float64
    masks: np.ndarray | None = None  # (N,) of run lengths, where there are any

    def __len__(self) -> int:
        return len(self.scores)

    def part(self, chosen: np.ndarray) -> "Results":
        """Some of them."""
        return Results(
            self.image_ids[chosen],
            self.category_ids[chosen],
            self.boxes[chosen],
            self.scores[chosen],
            None if self.masks is None else self.masks[chosen],
        )


def join(parts: list[Results]) -> Results:
    """Several in a row."""
    if not parts:
        return Results(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))
    masks = [part.masks for part in parts if part.masks is not None]
    return Results(
        np.concatenate([part.image_ids for part in parts]),
        np.concatenate([part.category_ids for part in parts]),
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate(masks) if len(masks) == len(parts) else None,
    )


def of_detections(image_id: int, found: Detections) -> Results:
    """What was found in an image, without the classes that the data does not have."""
    known = np.flatnonzero(found.category_ids != UNKNOWN_CLASS)
    boxes = found.boxes[known].astype(np.float64)  # (n, 4)
    boxes[:, 2:] -= boxes[:, :2]
    return Results(
        image_ids=np.full(len(known), image_id, dtype=np.int64),
        category_ids=found.category_ids[known],
        boxes=boxes,
        scores=found.scores[known].astype(np.float64),
        masks=None if found.masks is None else rows_of(found.masks[known]),
    )


class _Entry(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float
    file_name: str | None = None  # as `detr predict` says it
    segmentation: Any = None


def read_results(path: Path, image_ids: np.ndarray, category_ids: np.ndarray, files: Sequence[str] = ()) -> Results:
    """A list of COCO detections of these images and categories; what does not fit is named by its entry.

    Where entries name their files, these must be those of their images.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"--predictions {path}: cannot be read ({error.strerror}).") from None
    try:
        entries = msgspec.json.decode(data, type=list[_Entry])
        results = _as_results(entries)
    except (msgspec.DecodeError, UnicodeDecodeError, OverflowError, RecursionError):
        entries = _read_slowly(path, data)
        results = _as_results(entries)
    results = replace(results, masks=_masks(path, entries))
    _check_files(path, entries, dict(zip(image_ids.tolist(), files, strict=False)))
    for what, known, given in (
        ("image", image_ids, results.image_ids),
        ("category", category_ids, results.category_ids),
    ):
        foreign = np.flatnonzero(~np.isin(given, known))
        if len(foreign):
            raise DataError(
                f"{path}: entry {foreign[0]} is of {what} {given[foreign[0]]}, which the data does not have "
                f"(entries like that: {len(foreign):,} of {len(given):,}).\n"
                "Are these the results of another split or data set?"
            )
    return results


def _check_files(path: Path, entries: Sequence[_Entry], files: Mapping[int, str]) -> None:
    for i, entry in enumerate(entries):
        if entry.file_name is None:
            continue
        known = files.get(entry.image_id, "nothing")
        if PurePath(entry.file_name).name != PurePath(known).name:
            raise DataError(
                f"{path}: entry {i} is of {entry.file_name}, but image {entry.image_id} of the data is {known}.\n"
                "`detr predict --format coco` counts its pictures from 1; with --ids-from ANN they have the ids of "
                "those annotations."
            )


def _as_results(entries: Sequence[_Entry]) -> Results:
    return Results(
        np.fromiter((entry.image_id for entry in entries), np.int64, len(entries)),
        np.fromiter((entry.category_id for entry in entries), np.int64, len(entries)),
        np.array([entry.bbox for entry in entries], np.float64).reshape(-1, 4),
        np.fromiter((entry.score for entry in entries), np.float64, len(entries)),
    )


def _masks(path: Path, entries: Sequence[_Entry]) -> np.ndarray | None:
    """Those of all entries; None where some have none. Polygons are none, as pycocotools has it."""
    if not entries or any(entry.segmentation is None or isinstance(entry.segmentation, list) for entry in entries):
        return None
    rows = []
    for i, entry in enumerate(entries):
        try:
            rows.append(read_mask(entry.segmentation))
        except ValueError as error:
            raise DataError(f"{path}: entry {i}: {error}.") from None
    return objects(rows)


def _read_slowly(path: Path, data: bytes) -> list[_Entry]:
    """By Python's own reader, which knows the NaN that Python's own writer writes.

    The first entry that is not as it should be is a DataError that names it.
    """
    try:
        found: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: it is no JSON ({error}).\n`detr eval --save FILE` writes such results.") from None
    if not isinstance(found, list):
        raise DataError(f"{path}: COCO results are a list of detections; this is a {type(found).__name__}.")
    for i, entry in enumerate(found):
        if not isinstance(entry, dict):
            raise DataError(f"{path}: entry {i} is no detection but a {type(entry).__name__}.")
        missing = [key for key in ("image_id", "category_id", "bbox", "score") if key not in entry]
        if missing:
            raise DataError(f"{path}: entry {i} lacks {', '.join(missing)}.")
        for key in ("image_id", "category_id"):
            if type(entry[key]) is not int or not -(2**63) <= entry[key] < 2**63:
                raise DataError(f"{path}: entry {i}: its {key} is {entry[key]!r:.40}, which is no id.")
        if not isinstance(entry.get("file_name"), str | None):
            raise DataError(f"{path}: entry {i}: its file_name is {entry['file_name']!r:.40}, which is no name.")
        if not isinstance(entry["bbox"], list) or len(entry["bbox"]) != 4:
            raise DataError(f"{path}: entry {i}: its bbox is not four numbers x, y, width, height.")
        for key, value in (("score", entry["score"]), *(("bbox", side) for side in entry["bbox"])):
            if isinstance(value, bool) or not isinstance(value, int | float) or not -LARGEST <= value <= LARGEST:
                raise DataError(f"{path}: entry {i}: {value!r:.40} in its {key} is no finite number.")
    return msgspec.convert(found, list[_Entry])


def write_results(results: Results, path: Path) -> None:
    """The file as pycocotools reads it, with every digit."""
    masks = [None] * len(results) if results.masks is None else results.masks
    entries = [
        {"image_id": image, "category_id": category, "bbox": box, "score": score}
        | ({} if mask is None else {"segmentation": {**mask, "counts": mask["counts"].decode("ascii")}})
        for image, category, box, score, mask in zip(
            results.image_ids.tolist(),
            results.category_ids.tolist(),
            results.boxes.tolist(),
            results.scores.tolist(),
            masks,
            strict=True,
        )
    ]
    write_whole(path, msgspec.json.encode(entries))
