"""COCO annotation files, panoptic ones too, as COCO 2017, Roboflow, CVAT, Label Studio and FiftyOne lay them out."""

import json
import os
import posixpath
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from detrcli.data.maps import PanopticMaps, places_of_maps
from detrcli.data.outlines import Outlines, as_text
from detrcli.data.raw_annotations import NO_ID, RawAnnotations, box_array, whole_numbers
from detrcli.errors import DataError
from detrcli.structures import check_class_names
from detrcli.system.text import writable

_TRUE = frozenset({"1", "1.0", "true"})
# A segmentation that says something; where there is none, nobody reads the file again to look for masks.
_SOME_OUTLINE = re.compile(rb'"segmentation"\s*:\s*(?!\[\s*\]|null|\s)')


class _Image(msgspec.Struct):
    id: Any = None
    file_name: Any = None
    width: Any = 0
    height: Any = 0


class _Annotation(msgspec.Struct):
    id: Any = None
    image_id: Any = None
    category_id: Any = None
    bbox: Any = None
    area: Any = None
    iscrowd: Any = 0
    # In a panoptic file an entry is a picture's map, and its segments are the annotations.
    file_name: Any = None
    segments_info: "list[_Annotation] | None" = None


class _Category(msgspec.Struct):
    id: Any = None
    name: Any = None
    supercategory: Any = ""
    isthing: Any = None


class _File(msgspec.Struct):
    """What is read; segmentations, licences and the rest are passed over without being built."""

    images: list[_Image] | None = None
    annotations: list[_Annotation] | None = None
    categories: list[_Category] | None = None


def read(annotations: Path, folders: Sequence[Path]) -> RawAnnotations:
    """Read an annotation file whose pictures lie in the first of `folders` that has them."""
    file, has_outlines = _decode(annotations)
    if not file.images:
        raise DataError(f"{annotations}: there are no images in it; it is not a COCO annotation file, or an empty one.")
    images, entries, categories = file.images, file.annotations or [], file.categories or []
    panoptic = [entry for entry in entries if entry.segments_info is not None]
    if panoptic:
        entries = _segments(panoptic)
    names = [_file_name(image.file_name) for image in images]
    boxes = box_array([entry.bbox for entry in entries])
    try:
        of_image = whole_numbers((entry.image_id for entry in entries), otherwise=NO_ID)
        maps = _maps(annotations, panoptic, entries) if panoptic else None
        if maps is not None:
            outlines = Outlines(partial(maps.outlines, of_image), np.arange(len(entries)))
        elif has_outlines:
            outlines = Outlines(partial(_outlines, annotations), np.arange(len(entries)))
        else:
            outlines = None
        return RawAnnotations(
            folder=_folder_of(names, folders),
            image_ids=whole_numbers(image.id for image in images),
            files=names,
            sizes=whole_numbers(v or 0 for image in images for v in (image.height, image.width)).reshape(-1, 2),
            # Segments are numbered in their picture, in many pictures alike.
            annotation_ids=annotation_ids([None if maps else entry.id for entry in entries]),
            of_image=of_image,
            of_category=whole_numbers((entry.category_id for entry in entries), otherwise=NO_ID),
            boxes=boxes,
            areas=_areas(entries, boxes),
            crowd=np.fromiter((str(entry.iscrowd).lower() in _TRUE for entry in entries), dtype=bool),
            category_ids=whole_numbers(category.id for category in categories),
            names=_class_names([category.name for category in categories]),
            parents=[_word(category.supercategory or "") for category in categories],
            annotation_file=None if maps else annotations,
            outlines=outlines,
            things=_things(categories),
            maps=maps,
        )
    except ValueError as error:
        raise DataError(f"{annotations}: among its ids, sizes and classes, {error}.") from None


def _segments(panoptic: Sequence[_Annotation]) -> list[_Annotation]:
    """Those of all maps as annotations of their images."""
    segments = []
    for entry in panoptic:
        for segment in entry.segments_info or []:
            segment.image_id = entry.image_id
            segments.append(segment)
    return segments


def _maps(annotations: Path, panoptic: Sequence[_Annotation], segments: Sequence[_Annotation]) -> PanopticMaps:
    images = whole_numbers((entry.image_id for entry in panoptic), otherwise=NO_ID)
    names = [_file_name(entry.file_name) for entry in panoptic]
    return PanopticMaps(
        folder=_folder_of(names, places_of_maps(annotations)),
        files=dict(zip(images.tolist(), names, strict=True)),
        segment_ids=whole_numbers((segment.id for segment in segments), otherwise=NO_ID),
    )


def _things(categories: Sequence[_Category]) -> list[bool] | None:
    if any(category.isthing is None for category in categories):
        return None
    return [str(category.isthing).lower() in _TRUE for category in categories]


class _Outline(msgspec.Struct):
    segmentation: msgspec.Raw = msgspec.Raw(b"")


class _Outlines(msgspec.Struct):
    """The segmentations alone, which are left as they are written."""

    annotations: list[_Outline] | None = None


def _outlines(path: Path) -> list[bytes]:
    """What each annotation of a file has, in their order."""
    data = _bytes(path)
    try:
        file = msgspec.json.decode(data, type=_Outlines)
        return [bytes(entry.segmentation) for entry in file.annotations or []]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    entries = json.loads(data).get("annotations") or []  # as `_decode` has read it before
    return [as_text(entry.get("segmentation")) for entry in entries]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None


def _decode(path: Path) -> tuple[_File, bool]:
    """What is read of a file, and whether there is an outline in it."""
    data = _bytes(path)
    has_outlines = _SOME_OUTLINE.search(data) is not None
    try:
        return msgspec.json.decode(data, type=_File), has_outlines
    except msgspec.ValidationError as error:
        raise DataError(f"{path}: not a COCO annotation file ({error}).") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        # Python's own reader is slower, and knows the NaN that Python's own writer writes.
        return msgspec.convert(json.loads(data), _File), has_outlines
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        raise DataError(f"{path}: not a COCO annotation file ({error}).") from None


def _word(value: Any) -> str:
    if isinstance(value, list | dict):
        raise ValueError(f"{value!r:.40} is no name")
    return writable(str(value))


def _class_names(values: Sequence[Any]) -> list[str]:
    names = [_word(value) for value in values]
    check_class_names(names)
    return names


def _file_name(name: Any) -> str:
    # Label Studio on Windows writes backslashes.
    return writable(str(name).replace("\\", "/"))


def _folder_of(names: Sequence[str], folders: Sequence[Path]) -> Path:
    some = [name for name in names[:: max(1, len(names) // 20)] if not posixpath.isabs(name)]
    found = [sum(os.path.exists(folder / name) for name in some) for folder in folders]
    return folders[found.index(max(found))]


def annotation_ids(written: Sequence[Any]) -> np.ndarray:
    """The ids of annotations in their order. Some exports leave them out; then they are counted."""
    if all(one is None for one in written):
        return np.arange(1, len(written) + 1)
    ids = whole_numbers(written, otherwise=NO_ID)
    missing = ids == NO_ID
    greatest = max(int(ids.max()), 0)
    first = greatest + 1 if greatest < 2**62 else 1  # ids that are there twice are told
    ids[missing] = first + np.arange(np.count_nonzero(missing))
    return ids


def _area(area: Any) -> float:
    try:
        return float(area)
    except (TypeError, ValueError, OverflowError):
        return np.nan


def _areas(entries: Sequence[_Annotation], boxes: np.ndarray) -> np.ndarray:
    written = np.array([entry.area if isinstance(entry.area, float) else _area(entry.area) for entry in entries])
    return np.where(np.isfinite(written), written, boxes[:, 2] * boxes[:, 3]) if len(entries) else written
