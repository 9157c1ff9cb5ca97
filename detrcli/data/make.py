"""`shapes` as a COCO folder, on request or for whoever names `shapes` as DATA."""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detrcli.data.maps import as_colours
from detrcli.data.outlines import encoded
from detrcli.data.shapes import CATALOGUE, DEFAULT, STUFF, Scene, scene
from detrcli.errors import UsageError
from detrcli.run_lengths import box_around
from detrcli.system.files import cache_folder

IMAGES, SIZE, OBJECTS, SEED = 2000, 128, 5, 0
VAL_SHARE = 5  # a validation picture for so many of train
VAL_FIRST = 1 << 30  # validation is another stretch of the same seed's series, whatever --images is
EDITION = 1  # to be counted up with any change of what is drawn
MOST_SEGMENTS = 64  # of a picture
SPREAD = 0x9E3779  # odd: times this, ids that follow each other are colours that differ


def make_shapes(
    folder: Path,
    *,
    images: int = IMAGES,
    size: int = SIZE,
    classes: Sequence[str] = DEFAULT,
    objects: int = OBJECTS,
    seed: int = SEED,
    panoptic: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Write train and val, whole or not at all. Category ids count from 1 in the order of the classes.

    Panoptic ones have stuff behind the shapes, and files in COCO's panoptic form too, with ids that go on for stuff.
    """
    unknown = [name for name in classes if name not in CATALOGUE]
    if unknown or not classes or len(set(classes)) < len(classes):
        raise UsageError(f"--classes {','.join(classes):.80} takes each of these once at most: {', '.join(CATALOGUE)}.")
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        _write(temporary, images, size, classes, objects, seed, advance, panoptic=panoptic)
        if folder.is_dir():
            folder.rmdir()  # an empty one stands in the way on some systems
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(
    folder: Path,
    images: int,
    size: int,
    classes: Sequence[str],
    objects: int,
    seed: int,
    advance: Callable[[], None],
    *,
    panoptic: bool,
) -> None:
    for split, first, count in (("train", 0, images), ("val", VAL_FIRST, max(1, images // VAL_SHARE))):
        (folder / split).mkdir(parents=True, exist_ok=True)
        maps = folder / "annotations" / f"panoptic_{split}"
        (maps if panoptic else maps.parent).mkdir(parents=True, exist_ok=True)
        infos: list[list[dict[str, Any]]] = [[] for _ in range(count)]  # the segments of each picture

        def draw(
            number: int,
            split: str = split,
            first: int = first,
            maps: Path = maps,
            infos: list[list[dict[str, Any]]] = infos,
        ) -> tuple[str, Scene]:
            made = scene(seed, first + number, size, classes, objects, landscape=panoptic)
            name = f"{number:06d}.png"
            Image.fromarray(made.pixels).save(folder / split / name, compress_level=1)
            if panoptic:
                ids, infos[number] = _segments(made, number, len(classes))
                Image.fromarray(as_colours(ids)).save(maps / name, compress_level=1)
            advance()
            return name, made

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            document = _document(pool.map(draw, range(count)), size, classes)
        _dump(document, folder / "annotations" / f"instances_{split}.json")
        if panoptic:
            _dump(_panoptic_document(document, infos), maps.with_suffix(".json"))


def _dump(document: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(document), encoding="utf-8")


def _document(scenes: Any, size: int, classes: Sequence[str]) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (name, made) in enumerate(scenes, 1):
        images.append({"id": image_id, "file_name": name, "width": size, "height": size})
        for label, mask, box in zip(made.labels.tolist(), made.masks, made.boxes.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": box,
                    "area": int(np.count_nonzero(mask)),
                    "iscrowd": 0,
                    "segmentation": encoded(mask),
                }
            )
    categories = [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(classes, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _segments(made: Scene, number: int, classes: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The ids (S, S) of a picture's map and what COCO says of each: all stuff of a kind, and every shape."""
    assert made.stuff is not None
    behind = ~made.masks.any(0)  # (S, S)
    stuff = [(classes + kind, behind & (made.stuff == kind)) for kind in range(len(STUFF))]
    ids = np.zeros(made.stuff.shape, dtype=np.int64)
    infos: list[dict[str, Any]] = []
    for label, mask in [*stuff, *zip(made.labels.tolist(), made.masks, strict=True)]:
        if not mask.any():
            continue
        id_ = (number * MOST_SEGMENTS + len(infos) + 1) * SPREAD % 256**3
        ids[mask] = id_
        infos.append(
            {
                "id": id_,
                "category_id": label + 1,
                "iscrowd": 0,
                "bbox": list(box_around(mask)),
                "area": int(np.count_nonzero(mask)),
            }
        )
    return ids, infos


def _panoptic_document(instances: dict[str, Any], infos: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """COCO's panoptic file of the same images; their maps have the names of the pictures."""
    things = instances["categories"]
    return {
        "images": instances["images"],
        "annotations": [
            {"image_id": image["id"], "file_name": image["file_name"], "segments_info": segments}
            for image, segments in zip(instances["images"], infos, strict=True)
        ],
        "categories": [
            *({**one, "isthing": 1} for one in things),
            *(
                {"id": i, "name": name, "supercategory": "", "isthing": 0}
                for i, name in enumerate(STUFF, len(things) + 1)
            ),
        ],
    }


def built_in() -> Path:
    """The folder of the default `shapes`, made in the cache when it is first asked for."""
    folder = cache_folder() / f"shapes-{EDITION}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            make_shapes(folder)
        except OSError:
            if not folder.exists():  # else another process was faster
                raise
    return folder
