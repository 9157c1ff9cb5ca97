"""Detections of a whole split as arrays, and COCO results files."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Annotated, Any

import msgspec
import numpy as np

from detrcli.data.segmentations import MALFORMED
from detrcli.errors import DataError, UsageError
from detrcli.evaluation.class_mapping import UNKNOWN_CLASS
from detrcli.evaluation.truth import Truth, run_lengths
from detrcli.messages import argument
from detrcli.structures import Detections
from detrcli.system.files import write_whole


@dataclass(frozen=True)
class Results:
    """N detections with the data's own ids."""

    image_ids: np.ndarray  # (N,) int64
    category_ids: np.ndarray  # (N,) int64
    boxes: np.ndarray  # (N, 4) float64, x, y, width, height in pixels
    scores: np.ndarray  # (N,) float64
    masks: np.ndarray | None = None  # (N,) of RunLengths

    def __len__(self) -> int:
        return len(self.scores)

    def known_to(self, truth: Truth) -> np.ndarray:
        """Return which detections are of an image and a class of the ground truth, (N,) bool."""
        return np.isin(self.image_ids, truth.image_ids) & np.isin(self.category_ids, truth.classes.ids)

    def part(self, chosen: np.ndarray) -> "Results":
        """Return some of the detections, by indices or (N,) bool."""
        return Results(**{name: column[chosen] for name, column in vars(self).items() if column is not None})


def join(parts: list[Results]) -> Results:
    """Concatenate results. They have masks only if all parts do."""
    if not parts:
        return Results(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))
    columns = {name: [vars(part)[name] for part in parts] for name in vars(parts[0])}
    complete = {name: column for name, column in columns.items() if all(values is not None for values in column)}
    return Results(**{name: np.concatenate(column) for name, column in complete.items()})


def best_of_classes(detections: Detections, count: int) -> Detections:
    """Return the `count` best detections of each class of an image, in their order. Metrics use no more."""
    order = np.lexsort((-detections.scores, detections.category_ids))  # by class, then by descending score
    of_class = detections.category_ids[order]
    ranks = np.arange(len(order)) - np.searchsorted(of_class, of_class)
    return detections.part(np.sort(order[ranks < count]))


def of_detections(image_id: int, detections: Detections) -> Results:
    """Return the detections of an image as results, without classes that the data does not have."""
    kept = detections.part(np.flatnonzero(detections.category_ids != UNKNOWN_CLASS))
    boxes = kept.boxes.astype(np.float64)  # (n, 4)
    boxes[:, 2:] -= boxes[:, :2]
    masks = None
    if kept.masks is not None:
        size = list(kept.masks.size)
        masks = np.fromiter(({"size": size, "counts": counts} for counts in kept.masks.counts), object, len(kept))
    image_ids = np.full(len(kept), image_id, dtype=np.int64)
    return Results(image_ids, kept.category_ids, boxes, kept.scores.astype(np.float64), masks)


_Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Entry(msgspec.Struct, gc=False):
    image_id: _Id
    category_id: _Id
    bbox: tuple[float, float, float, float]
    score: float
    file_name: str | None = None  # as written by `detr predict`
    segmentation: Any = None


def read_results(path: Path, image_ids: np.ndarray, category_ids: np.ndarray, files: Sequence[str] = ()) -> Results:
    """Read COCO results of the given images and categories. Raises DataError, which names the first invalid entry.

    `files` are the names of the images; where an entry names a file, it must be the file of its image.
    """
    try:
        entries = _entries(path, path.read_bytes())
    except OSError as error:
        raise UsageError(f"{argument('predictions', path)}: cannot be read ({error.strerror}).") from None
    results = Results(
        np.fromiter((entry.image_id for entry in entries), np.int64, len(entries)),
        np.fromiter((entry.category_id for entry in entries), np.int64, len(entries)),
        np.array([entry.bbox for entry in entries], np.float64).reshape(-1, 4),
        np.fromiter((entry.score for entry in entries), np.float64, len(entries)),
    )
    for key, finite in (("bbox", np.isfinite(results.boxes).all(1)), ("score", np.isfinite(results.scores))):
        for i in np.flatnonzero(~finite)[:1].tolist():
            raise DataError(f"{path}: entry {i}: {key} is {getattr(entries[i], key)}, which is not finite.")
    results = replace(results, masks=_masks(path, entries))
    file_of = dict(zip(image_ids.tolist(), files, strict=False))
    for i, entry in enumerate(entries):
        file = file_of.get(entry.image_id, "not in the data")
        if entry.file_name is not None and PurePath(entry.file_name).name != PurePath(file).name:
            raise DataError(
                f"{path}: entry {i}: file_name is {entry.file_name}, but image {entry.image_id} of the data is {file}."
                f"\n`detr predict` numbers images from 1. With {argument('ids_from')} it uses the ids of an annotation "
                "file."
            )
    for key, known, ids in (
        ("image_id", image_ids, results.image_ids), ("category_id", category_ids, results.category_ids)
    ):  # fmt: skip
        for i in np.flatnonzero(~np.isin(ids, known))[:1].tolist():
            raise DataError(
                f"{path}: entry {i}: the data has no {key} {ids[i]} (nor those of {(~np.isin(ids, known)).sum():,} of "
                f"{len(ids):,} entries).\nAre these results of another split or dataset?"
            )
    return results


def _entries(path: Path, data: bytes) -> list[_Entry]:
    try:
        try:
            return msgspec.json.decode(data, type=list[_Entry])
        except msgspec.ValidationError:
            raise
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # Unlike msgspec, Python's json accepts the NaN that it writes.
            return msgspec.convert(json.loads(data), list[_Entry])
    except msgspec.ValidationError as error:
        # From `Expected ... - at `$[3].score`` to `entry 3: score: Expected ...`.
        message = re.sub(r"(.*) - at `\$\[(\d+)\]\.?(.*)`", r"entry \2: \3: \1", str(error)).replace(": :", ":")
        raise DataError(f"{path}: {message}.\nCOCO results are a list of detections.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: invalid JSON ({error}).\n`detr eval` with {argument('save', 'FILE')} writes COCO results."
        ) from None


def _masks(path: Path, entries: Sequence[_Entry]) -> np.ndarray | None:
    """Return the masks of all entries; None if an entry has none. Polygons do not count, as in pycocotools."""
    if not entries or any(entry.segmentation is None or isinstance(entry.segmentation, list) for entry in entries):
        return None
    masks = []
    for i, entry in enumerate(entries):
        try:
            height, width = (int(side) for side in entry.segmentation["size"])
            masks.append(run_lengths(msgspec.json.encode(entry.segmentation), height, width))
        except MALFORMED:
            raise DataError(f"{path}: entry {i}: its segmentation is not an RLE.") from None
    return np.fromiter(masks, object, len(masks))


def write_results(results: Results, path: Path) -> None:
    """Write a COCO results file with all digits."""
    masks = [None] * len(results) if results.masks is None else results.masks
    entries = [
        {"image_id": image, "category_id": category, "bbox": box, "score": score}
        | ({} if mask is None else {"segmentation": {**mask, "counts": mask["counts"].decode("ascii")}})
        for image, category, box, score, mask in zip(
            results.image_ids.tolist(), results.category_ids.tolist(), results.boxes.tolist(),
            results.scores.tolist(), masks, strict=True,
        )
    ]  # fmt: skip
    write_whole(path, msgspec.json.encode(entries))
