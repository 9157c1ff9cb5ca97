"""The built-in dataset `shapes`, written as a COCO folder."""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detrcli.data.panoptic_maps import ids_to_rgb
from detrcli.data.segmentations import to_rle
from detrcli.data.shapes import CATALOG, DEFAULT, STUFF, Scene, scene
from detrcli.errors import UsageError
from detrcli.messages import argument
from detrcli.reporter import SILENT, Reporter
from detrcli.run_lengths import box_around
from detrcli.system.files import cache_folder, new_folder

VAL_SHARE = 5  # training images per validation image
VAL_FIRST = 1 << 30  # validation is a distant part of the seed's series, for any number of training images
EDITION = 1  # incremented with every change of the drawings
MAX_SEGMENTS = 64  # per image
SPREAD = 0x9E3779  # odd; multiplying by it turns consecutive ids into distinct colors


def make_shapes(
    folder: Path,
    *,
    images: int = 2000,
    size: int = 128,
    classes: Sequence[str] = DEFAULT,
    objects: int = 5,
    seed: int = 0,
    panoptic: bool = False,
    reporter: Reporter = SILENT,
) -> None:
    """Write train and val splits, atomically. Category ids count from 1 in the order of the classes.

    With `panoptic` there is stuff behind the shapes, and COCO panoptic files in addition, with further ids for stuff.
    """
    unknown = [name for name in classes if name not in CATALOG]
    if unknown or not classes or len(set(classes)) < len(classes):
        given = argument("classes", f"{','.join(classes):.80}")
        raise UsageError(f"{given}: takes each of these at most once: {', '.join(CATALOG)}.")
    draw = partial(scene, seed, size=size, classes=classes, most=objects, landscape=panoptic)
    splits = {"train": range(images), "val": range(VAL_FIRST, VAL_FIRST + max(1, images // VAL_SHARE))}
    total = sum(map(len, splits.values()))
    with new_folder(folder) as temporary, reporter.progress("drawing shapes", total) as advance:
        for split, numbers in splits.items():
            _write_split(temporary, split, draw, numbers, classes, advance, panoptic=panoptic)


def _write_split(
    folder: Path,
    split: str,
    draw: Callable[[int], Scene],
    numbers: Sequence[int],
    classes: Sequence[str],
    advance: Callable[[int], None],
    *,
    panoptic: bool,
) -> None:
    maps = folder / "annotations" / f"panoptic_{split}"
    for needed in (folder / split, maps if panoptic else maps.parent):
        needed.mkdir(parents=True, exist_ok=True)

    def save(index: int) -> tuple[Scene, list[dict[str, Any]]]:
        """Write an image and its map; return the scene and the map's segments."""
        drawn, segments = draw(numbers[index]), list[dict[str, Any]]()
        Image.fromarray(drawn.pixels).save(folder / split / f"{index:06d}.png", compress_level=1)
        if panoptic:
            ids, segments = _segments(drawn, index, len(classes))
            Image.fromarray(ids_to_rgb(ids)).save(maps / f"{index:06d}.png", compress_level=1)
        return drawn, segments

    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    map_entries: list[dict[str, Any]] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for id_, (drawn, segments) in enumerate(pool.map(save, range(len(numbers))), 1):
            name, size = f"{id_ - 1:06d}.png", len(drawn.pixels)
            images.append({"id": id_, "file_name": name, "width": size, "height": size})
            map_entries.append({"image_id": id_, "file_name": name, "segments_info": segments})
            for label, mask in zip(drawn.labels.tolist(), drawn.masks, strict=True):
                ids = {"id": len(annotations) + 1, "image_id": id_}
                annotations.append({**ids, **_object(label, mask), "segmentation": to_rle(mask)})
            advance(1)
    things = [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(classes, 1)]
    document: dict[str, Any] = {"images": images, "annotations": annotations, "categories": things}
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document), encoding="utf-8")
    if panoptic:
        stuff = [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(STUFF, len(classes) + 1)]
        categories = [{**entry, "isthing": int(kind is things)} for kind in (things, stuff) for entry in kind]
        document |= {"annotations": map_entries, "categories": categories}
        maps.with_suffix(".json").write_text(json.dumps(document), encoding="utf-8")


def _object(label: int, mask: np.ndarray) -> dict[str, Any]:
    """Return the fields that COCO's instances and segments have in common."""
    area = int(np.count_nonzero(mask))
    return {"category_id": label + 1, "bbox": list(box_around(mask)), "area": area, "iscrowd": 0}


def _segments(drawn: Scene, index: int, classes: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return the ids (S, S) of an image's map, and its segments: every kind of stuff, and every shape."""
    assert drawn.stuff is not None
    background = ~drawn.masks.any(0)  # (S, S)
    stuff = [(classes + kind, background & (drawn.stuff == kind)) for kind in range(len(STUFF))]
    ids = np.zeros(drawn.stuff.shape, dtype=np.int64)
    segments: list[dict[str, Any]] = []
    for label, mask in [*stuff, *zip(drawn.labels.tolist(), drawn.masks, strict=True)]:
        if mask.any():
            id_ = (index * MAX_SEGMENTS + len(segments) + 1) * SPREAD % 256**3
            ids[mask] = id_
            segments.append({"id": id_, **_object(label, mask)})
    return ids, segments


def built_in() -> Path:
    """Return the folder of the default `shapes`, made in the user's cache on first use."""
    folder = cache_folder() / f"shapes-{EDITION}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            make_shapes(folder)
        except OSError:
            if not folder.exists():  # else another process was faster
                raise
    return folder
