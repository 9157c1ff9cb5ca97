"""A corrected copy of a data set, by a list of what is wrong in it. The data itself is never touched."""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detrcli.data.coco_writer import coco_document, images_document
from detrcli.data.examine import headers_only
from detrcli.data.layouts.coco import annotation_ids
from detrcli.data.outlines import as_text, mask_of
from detrcli.data.raw_annotations import NO_ID, RawAnnotations, whole_numbers
from detrcli.data.source import DataSource
from detrcli.data.spec import Note, tell_problems
from detrcli.errors import DataError, UsageError
from detrcli.run_lengths import box_around

SCHEMA = "detr.fix/1"
KINDS = ("wrong_label", "missing_label", "loose_box", "duplicate", "poor_mask")
VERDICTS = ("right", "wrong", "unsure")  # on the annotation as it is


@dataclass(frozen=True)
class Change:
    """What is to become of an annotation, or of a place where one is missing."""

    kind: str  # of KINDS
    image_id: int
    annotation_id: int | None
    category_id: int  # that it gets
    box: tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels; that it gets
    mask: Mapping[str, Any] | None = None  # in run lengths; that a poor one becomes


@dataclass(frozen=True)
class MendList:
    """The changes of one split, and how many entries of the list say that nothing is to change."""

    split: str
    changes: Sequence[Change]
    kept: int


def read_list(path: Path) -> MendList:
    """The list as the page of `detr report` saves it: entries whose annotation is said to be wrong are changes."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--list {path}: cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: it is no JSON ({error}).") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise DataError(f"{path}: no list of `detr report`: its schema is not {SCHEMA}.")
    entries, split = document.get("changes"), document.get("split")
    if not isinstance(entries, list) or not isinstance(split, str):
        raise DataError(f'{path}: a list has a "split" and its "changes".')
    changes, kept = [], 0
    for i, entry in enumerate(entries):
        try:
            change, verdict = _change(entry)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: entry {i} is not as it should be ({error}).") from None
        if verdict == "wrong":
            changes.append(change)
        else:
            kept += 1
    return MendList(split, changes, kept)


def _change(entry: Mapping[str, Any]) -> tuple[Change, str]:
    kind, verdict, box = entry["kind"], entry["verdict"], entry["box"]
    if kind not in KINDS or verdict not in VERDICTS:
        raise ValueError(f"kind {kind!r}, verdict {verdict!r}")
    annotation = entry["annotation_id"]
    for id_ in (entry["image_id"], entry["category_id"], *([] if annotation is None else [annotation])):
        if type(id_) is not int:
            raise ValueError(f"{id_!r} is no id")
    if (annotation is None) != (kind == "missing_label"):
        raise ValueError(f"annotation_id is {annotation!r}")
    x0, y0, x1, y1 = (float(value) for value in box)
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"box {box!r}")
    if kind == "poor_mask" and not isinstance(entry["mask"], dict):
        raise ValueError("its mask is no run lengths")
    change = Change(kind, entry["image_id"], annotation, entry["category_id"], (x0, y0, x1, y1), entry.get("mask"))
    return change, verdict


def fix(
    source: DataSource, wanted: MendList, out: Path, *, note: Note, advance: Callable[[], None] = lambda: None
) -> None:
    """Write all splits as a new COCO data set, with the changes; whole or not at all."""
    if wanted.split not in source.splits:
        raise DataError(f"The list is of {wanted.split}; the data has {', '.join(source.splits)}.")
    examined = headers_only(source, source.splits)
    tell_problems(examined, note)
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex}")
    try:
        (temporary / "annotations").mkdir(parents=True)
        for split, checked in examined.splits.items():
            w = replace(checked.written, sizes=checked.sizes)
            document = _document(w)
            if split == wanted.split:
                _apply(document, wanted.changes)
            for file in w.files:
                place = temporary / split / file
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(w.folder / file, place)
                advance()
            text = json.dumps(document, allow_nan=False)
            (temporary / "annotations" / f"instances_{split}.json").write_text(text, encoding="utf-8")
        if out.is_dir():
            out.rmdir()  # an empty one stands in the way on some systems
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _document(split: RawAnnotations) -> dict[str, Any]:
    """The split's own annotation file where it is COCO's, with all that stands in it; else one that is made."""
    if split.annotation_file is None:
        return coco_document(split)
    document: dict[str, Any] = json.loads(split.annotation_file.read_bytes())
    own = set(split.image_ids.tolist())
    more = {int(one["id"]): one for one in document["images"]}
    document["images"] = [{**more[one["id"]], **one} for one in images_document(split)]
    annotations = document.get("annotations") or []
    ids = annotation_ids([one.get("id") for one in annotations]).tolist()
    of_image = whole_numbers((one.get("image_id") for one in annotations), otherwise=NO_ID).tolist()
    of_category = whole_numbers((one.get("category_id") for one in annotations), otherwise=NO_ID).tolist()
    document["annotations"] = [
        {**one, "id": id_, "image_id": image, "category_id": category}
        for one, id_, image, category in zip(annotations, ids, of_image, of_category, strict=True)
        if image in own
    ]
    return document


def _apply(document: dict[str, Any], changes: Sequence[Change]) -> None:
    annotations: list[dict[str, Any]] = document["annotations"]
    places = {(one["image_id"], one["id"]): i for i, one in enumerate(annotations)}
    images = {one["id"]: one for one in document["images"]}
    categories = {int(one["id"]) for one in document["categories"]}
    following = max((one["id"] for one in annotations), default=0) + 1
    removed = set()
    for change in changes:
        if change.image_id not in images or change.category_id not in categories:
            raise DataError(
                f"The list names image {change.image_id} and category {change.category_id}, which the data does not "
                "both have.\nIs it a list of another data set?"
            )
        x0, y0, x1, y1 = change.box
        box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
        if change.annotation_id is None:
            annotations.append(
                {"id": following, "image_id": change.image_id, "category_id": change.category_id,
                 "iscrowd": 0, **box}
            )  # fmt: skip
            following += 1
            continue
        place = places.get((change.image_id, change.annotation_id))
        if place is None:
            raise DataError(
                f"The list names annotation {change.annotation_id} of image {change.image_id}, which the data does "
                "not have.\nIs it a list of another data set?"
            )
        if change.kind == "duplicate":
            removed.add(place)
        elif change.kind == "poor_mask":
            annotations[place] |= _of_mask(change, images[change.image_id])
        elif change.kind == "wrong_label":
            annotations[place]["category_id"] = change.category_id
        else:
            annotations[place] |= box
            annotations[place].pop("segmentation", None)  # which does not fit the new box
    document["annotations"] = [one for i, one in enumerate(annotations) if i not in removed]


def _of_mask(change: Change, image: Mapping[str, Any]) -> dict[str, Any]:
    """What an annotation has whose mask is another one."""
    try:
        pixels = mask_of(as_text(change.mask), int(image["height"]), int(image["width"]))
    except ValueError as error:
        raise DataError(f"The list has a mask of annotation {change.annotation_id} that is none: {error}.") from None
    return {"segmentation": dict(change.mask or {}), "bbox": list(box_around(pixels)), "area": int(pixels.sum())}
