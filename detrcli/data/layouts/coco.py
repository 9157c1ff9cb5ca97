"""COCO annotation files, panoptic files included: reading them, and writing a split as a document of this format."""

import json
import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from detrcli.data.panoptic_maps import PanopticMaps, map_folders
from detrcli.data.raw_annotations import NO_ID, RawAnnotations, box_array, integer_array
from detrcli.data.segmentations import Segmentations, as_text, mask_of, to_rle
from detrcli.errors import DataError
from detrcli.run_lengths import box_around
from detrcli.structures import check_class_names
from detrcli.system.text import writable

# A segmentation that is not empty. A file without any is not read a second time for masks.
_SEGMENTATION = re.compile(rb'"segmentation"\s*:\s*(?!\[\s*\]|null|\s)')


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
    # In a panoptic file an entry is the map of an image, and its segments are what annotations are elsewhere.
    file_name: Any = None
    segments_info: "list[_Annotation] | None" = None


class _Category(msgspec.Struct):
    id: Any = None
    name: Any = None
    supercategory: Any = ""
    isthing: Any = None


class _File(msgspec.Struct):
    """The fields to read. Segmentations, licenses and others are skipped without being built."""

    images: list[_Image] | None = None
    annotations: list[_Annotation] | None = None
    categories: list[_Category] | None = None


def read(annotations: Path, folders: Sequence[Path]) -> RawAnnotations:
    """Read an annotation file; the images lie in the folder that has most of them."""
    data = _bytes(annotations)
    file = _decode(annotations, data)
    if not file.images:
        raise DataError(f"{annotations}: not a COCO annotation file, or an empty one: it has no images.")
    images, entries, categories = file.images, file.annotations or [], file.categories or []
    panoptic = [entry for entry in entries if entry.segments_info is not None]
    if panoptic:
        for entry in panoptic:
            for segment in entry.segments_info or []:
                segment.image_id = entry.image_id
        entries = [segment for entry in panoptic for segment in entry.segments_info or []]
    names, things = [_file_name(image.file_name) for image in images], [category.isthing for category in categories]
    boxes = box_array([entry.bbox for entry in entries])
    areas = np.array([_area(entry.area) for entry in entries], dtype=np.float64)
    try:
        class_names = [_name(category.name) for category in categories]
        check_class_names(class_names)
        of_image = integer_array((entry.image_id for entry in entries), invalid=NO_ID)
        maps, segmentations = None, None
        if panoptic:
            maps = _maps(annotations, panoptic, entries)
            segmentations = Segmentations(partial(maps.texts, of_image), np.arange(len(entries)))
        elif _SEGMENTATION.search(data):
            segmentations = Segmentations(partial(_segmentations, annotations), np.arange(len(entries)))
        return RawAnnotations(
            folder=_folder_of(names, folders),
            image_ids=integer_array(image.id for image in images),
            files=names,
            sizes=integer_array(v or 0 for image in images for v in (image.height, image.width)).reshape(-1, 2),
            # The ids of segments are unique in their image only.
            annotation_ids=annotation_ids([None if maps else entry.id for entry in entries]),
            of_image=of_image,
            of_category=integer_array((entry.category_id for entry in entries), invalid=NO_ID),
            boxes=boxes,
            areas=np.where(np.isfinite(areas), areas, boxes[:, 2] * boxes[:, 3]),
            crowd=np.fromiter((_is_true(entry.iscrowd) for entry in entries), dtype=bool),
            category_ids=integer_array(category.id for category in categories),
            names=class_names,
            parents=[_name(category.supercategory or "") for category in categories],
            annotation_file=None if maps else annotations,
            segmentations=segmentations,
            things=None if None in things else [_is_true(value) for value in things],
            maps=maps,
        )
    except ValueError as error:
        raise DataError(f"{annotations}: among its ids, sizes and classes, {error}.") from None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None


def _decode(path: Path, data: bytes) -> _File:
    try:
        try:
            return msgspec.json.decode(data, type=_File)
        except msgspec.ValidationError:
            raise
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # Python's json is slower than msgspec, but accepts NaN, which json.dumps writes.
            return msgspec.convert(json.loads(data), _File)
    except (ValueError, RecursionError) as error:  # ValueError includes msgspec's errors
        raise DataError(f"{path}: not a COCO annotation file ({error}).") from None


def _maps(annotations: Path, panoptic: Sequence[_Annotation], segments: Sequence[_Annotation]) -> PanopticMaps:
    images = integer_array((entry.image_id for entry in panoptic), invalid=NO_ID)
    names = [_file_name(entry.file_name) for entry in panoptic]
    return PanopticMaps(
        folder=_folder_of(names, map_folders(annotations)),
        files=dict(zip(images.tolist(), names, strict=True)),
        segment_ids=integer_array((segment.id for segment in segments), invalid=NO_ID),
    )


class _Segmentation(msgspec.Struct):
    segmentation: msgspec.Raw = msgspec.Raw(b"")


class _SegmentationFile(msgspec.Struct):
    annotations: list[_Segmentation] | None = None


def _segmentations(path: Path) -> list[bytes]:
    """Read the JSON of each annotation's segmentation."""
    data = _bytes(path)
    try:
        file = msgspec.json.decode(data, type=_SegmentationFile)
        return [bytes(entry.segmentation) for entry in file.annotations or []]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        entries = json.loads(data).get("annotations") or []  # as in `_decode`
        return [as_text(entry.get("segmentation")) for entry in entries]


def _is_true(value: Any) -> bool:
    return str(value).lower() in ("1", "1.0", "true")


def _name(value: Any) -> str:
    if isinstance(value, list | dict):
        raise ValueError(f"{value!r:.40} is not a name")
    return writable(str(value))


def _file_name(name: Any) -> str:
    return writable(str(name).replace("\\", "/"))  # Label Studio on Windows writes backslashes


def _folder_of(names: Sequence[str], folders: Sequence[Path]) -> Path:
    """Return the folder that has most files of a sample of about 20 names."""
    sample = [name for name in names[:: max(1, len(names) // 20)] if not posixpath.isabs(name)]
    return max(folders, key=lambda folder: sum(os.path.exists(folder / name) for name in sample))


def annotation_ids(written: Sequence[Any]) -> np.ndarray:
    """Return the ids of annotations as (N,) int64, with new ids where an export omits them."""
    if all(value is None for value in written):
        return np.arange(1, len(written) + 1)
    ids = integer_array(written, invalid=NO_ID)
    missing = ids == NO_ID
    greatest = max(int(ids.max()), 0)
    first = greatest + 1 if greatest < 2**62 else 1  # avoids overflow; `detr data check` reports duplicate ids
    ids[missing] = first + np.arange(np.count_nonzero(missing))
    return ids


def _area(area: Any) -> float:
    try:
        return float(area)
    except (TypeError, ValueError, OverflowError):
        return np.nan


def coco_document(split: RawAnnotations) -> dict[str, Any]:
    """Return a split in COCO's format, without malformed boxes.

    Segmentations are copied; segments of panoptic maps become RLE.
    """
    texts = split.texts(np.arange(len(split.boxes)))
    sizes = dict(zip(split.image_ids.tolist(), split.sizes.tolist(), strict=True))

    def segmentation(n: int) -> dict[str, Any]:
        if not texts[n]:
            return {}
        if split.maps is None:
            return {"segmentation": json.loads(texts[n])}
        try:
            return {"segmentation": to_rle(mask_of(texts[n], *sizes[int(split.of_image[n])]))}
        except (KeyError, ValueError):  # reported by the check
            return {}

    columns = {
        "id": split.annotation_ids,
        "image_id": split.of_image,
        "category_id": split.of_category,
        "bbox": split.boxes,
        "area": split.areas,
        "iscrowd": split.crowd.astype(int),
    }
    return {
        "images": images_document(split),
        "annotations": [
            {name: column[n].tolist() for name, column in columns.items()} | segmentation(n)
            for n in np.flatnonzero(np.isfinite(split.boxes).all(1)).tolist()
        ],
        "categories": [
            {"id": id_, "name": name, "supercategory": parent}
            | ({} if split.things is None else {"isthing": int(thing)})
            for id_, name, parent, thing in split.categories()
        ],
    }


@dataclass(frozen=True)
class Mask:
    """The mask of an object."""

    label: str
    pixels: np.ndarray  # (H, W) bool

    @property
    def box(self) -> np.ndarray:
        """The box around it, xyxy (4,); all 0 for an empty mask."""
        x, y, width, height = box_around(self.pixels)
        return np.array([x, y, x + width, y + height])


def masks_of(annotations: Path, file_name: str, height: int, width: int) -> list[Mask]:
    """Read the masks, crowds excluded, of the image with this file name. Raises DataError if it has none."""
    raw = read(annotations, [annotations.parent])
    images = [i for i, file in enumerate(raw.files) if posixpath.basename(file) == file_name]
    if len(images) != 1:
        raise DataError(f"{annotations}: {len(images)} of its images have the name {file_name}; there must be one.")
    objects = np.flatnonzero((raw.image_index() == images[0]) & ~raw.crowd)
    names = dict(zip(raw.category_ids.tolist(), raw.names, strict=True))
    try:
        masks = [
            Mask(names.get(category, f"category {category}"), mask_of(text, height, width))
            for category, text in zip(raw.of_category[objects].tolist(), raw.texts(objects), strict=True)
            if text
        ]
    except ValueError as error:
        raise DataError(f"{annotations}: {file_name}: {error}.") from None
    if not masks:
        raise DataError(f"{annotations}: {file_name} has no masks.")
    return masks


def images_document(split: RawAnnotations) -> list[dict[str, Any]]:
    return [
        {"id": id_, "file_name": file, "width": width, "height": height}
        for id_, file, (height, width) in zip(split.image_ids.tolist(), split.files, split.sizes.tolist(), strict=True)
    ]
