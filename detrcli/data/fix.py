"""Writing a corrected copy of a dataset from a list of annotation errors."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from detrcli.data.examine import examine_headers
from detrcli.data.layouts.coco import annotation_ids, coco_document, images_document
from detrcli.data.raw_annotations import NO_ID, RawAnnotations, integer_array
from detrcli.data.segmentations import as_text, mask_of
from detrcli.data.splits import DataSource
from detrcli.errors import DataError, UsageError
from detrcli.reporter import SILENT, Reporter
from detrcli.run_lengths import box_around
from detrcli.system.files import new_folder


class Change(msgspec.Struct, frozen=True):
    """A change of an annotation, or an annotation to add."""

    kind: Literal["wrong_label", "missing_label", "loose_box", "duplicate", "poor_mask"]
    verdict: Literal["right", "wrong", "unsure"]  # on the annotation as it is
    image_id: int
    annotation_id: int | None  # None to add an annotation
    category_id: int  # the new category
    box: tuple[float, float, float, float]  # the new box, xyxy in pixels
    mask: dict[str, Any] | None = None  # the new mask of a poor_mask, as RLE

    def __post_init__(self) -> None:
        if (self.annotation_id is None) != (self.kind == "missing_label"):
            raise ValueError(f"annotation_id {self.annotation_id}")
        x0, y0, x1, y1 = self.box
        if not (x0 < x1 and y0 < y1):
            raise ValueError(f"box {self.box}")
        if self.kind == "poor_mask" and self.mask is None:
            raise ValueError("its mask is not RLE")


class FixList(msgspec.Struct, frozen=True):
    """The list that the page of `detr report` saves."""

    schema: Literal["detr.fix/1"]
    split: str
    entries: Sequence[Change] = msgspec.field(name="changes")

    @property
    def changes(self) -> list[Change]:
        """The entries with the verdict "wrong"; the others change nothing."""
        return [entry for entry in self.entries if entry.verdict == "wrong"]


def read_fix_list(path: Path) -> FixList:
    try:
        return msgspec.json.decode(path.read_bytes(), type=FixList)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:  # ValueError includes msgspec's errors
        raise DataError(f"{path}: not a list saved by `detr report` ({error}).") from None


def write_fixed(source: DataSource, fixes: FixList, out: Path, reporter: Reporter = SILENT) -> None:
    """Write all splits, with the changes, as a new COCO dataset, atomically."""
    if fixes.split not in source.splits:
        raise DataError(f"The list is of {fixes.split}; the dataset has {', '.join(source.splits)}.")
    examined = examine_headers(source, source.splits)
    examined.check(reporter)
    count = sum(len(split.written.files) for split in examined.splits.values())
    with new_folder(out) as folder, reporter.progress("copying images", count) as advance:
        (folder / "annotations").mkdir()
        for name, split in examined.splits.items():
            w = replace(split.written, sizes=split.sizes)
            document = _document(w)
            if name == fixes.split:
                _apply(document, fixes.changes)
            for file in w.files:
                copy = folder / name / file
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(w.folder / file, copy)
                advance(1)
            text = json.dumps(document, allow_nan=False)
            (folder / "annotations" / f"instances_{name}.json").write_text(text, encoding="utf-8")


def _document(split: RawAnnotations) -> dict[str, Any]:
    """Return the split's own COCO file with all its fields, or a new document for other layouts."""
    if split.annotation_file is None:
        return coco_document(split)
    document: dict[str, Any] = json.loads(split.annotation_file.read_bytes())
    images = {int(image["id"]): image for image in document["images"]}
    document["images"] = [{**images[image["id"]], **image} for image in images_document(split)]
    annotations = document.get("annotations") or []
    columns = {"id": annotation_ids([annotation.get("id") for annotation in annotations])}
    for key in ("image_id", "category_id"):
        columns[key] = integer_array((annotation.get(key) for annotation in annotations), invalid=NO_ID)
    for key, values in columns.items():
        for annotation, value in zip(annotations, values.tolist(), strict=True):
            annotation[key] = value
    own = set(split.image_ids.tolist())
    document["annotations"] = [annotation for annotation in annotations if annotation["image_id"] in own]
    return document


def _apply(document: dict[str, Any], changes: Sequence[Change]) -> None:
    annotations: list[dict[str, Any]] = document["annotations"]
    index = {(annotation["image_id"], annotation["id"]): i for i, annotation in enumerate(annotations)}
    images = {image["id"]: image for image in document["images"]}
    categories = {int(category["id"]) for category in document["categories"]}
    next_id = max((annotation["id"] for annotation in annotations), default=0) + 1
    removed = set()
    for change in changes:
        if change.image_id not in images or change.category_id not in categories:
            raise _not_in_data(f"image {change.image_id} and category {change.category_id}")
        x0, y0, x1, y1 = change.box
        box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
        if change.annotation_id is None:
            ids = {"id": next_id, "image_id": change.image_id, "category_id": change.category_id}
            annotations.append({**ids, "iscrowd": 0, **box})
            next_id += 1
            continue
        i = index.get((change.image_id, change.annotation_id))
        if i is None:
            raise _not_in_data(f"annotation {change.annotation_id} of image {change.image_id}")
        if change.kind == "duplicate":
            removed.add(i)
        elif change.kind == "poor_mask":
            annotations[i] |= _with_mask(change, images[change.image_id])
        elif change.kind == "wrong_label":
            annotations[i]["category_id"] = change.category_id
        else:
            annotations[i] |= box
            annotations[i].pop("segmentation", None)  # it does not fit the new box
    document["annotations"] = [annotation for i, annotation in enumerate(annotations) if i not in removed]


def _not_in_data(what: str) -> DataError:
    return DataError(f"The list names {what}, which the data does not have.\nIs it a list of another dataset?")


def _with_mask(change: Change, image: Mapping[str, Any]) -> dict[str, Any]:
    try:
        pixels = mask_of(as_text(change.mask), int(image["height"]), int(image["width"]))
    except ValueError as error:
        raise DataError(f"The list's mask for annotation {change.annotation_id} is malformed: {error}.") from None
    return {"segmentation": change.mask, "bbox": list(box_around(pixels)), "area": int(pixels.sum())}
