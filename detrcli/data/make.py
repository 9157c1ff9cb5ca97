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

from detrcli.data.outlines import encoded
from detrcli.data.shapes import CATALOGUE, DEFAULT, Scene, scene
from detrcli.errors import UsageError
from detrcli.system.cache import cache_folder

IMAGES, SIZE, OBJECTS, SEED = 2000, 128, 5, 0
VAL_SHARE = 5  # a validation picture for so many of train
VAL_FIRST = 1 << 30  # validation is another stretch of the same seed's series, whatever --images is
EDITION = 1  # to be counted up with any change of what is drawn


def make_shapes(
    folder: Path,
    *,
    images: int = IMAGES,
    size: int = SIZE,
    classes: Sequence[str] = DEFAULT,
    objects: int = OBJECTS,
    seed: int = SEED,
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Write train and val, whole or not at all. Category ids count from 1 in the order of the classes."""
    unknown = [name for name in classes if name not in CATALOGUE]
    if unknown or not classes or len(set(classes)) < len(classes):
        raise UsageError(
            f"--classes {','.join(classes):.80} takes each of these once at most: {', '.join(CATALOGUE)}."
        )
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        _write(temporary, images, size, classes, objects, seed, advance)
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
) -> None:
    for split, first, count in (("train", 0, images), ("val", VAL_FIRST, max(1, images // VAL_SHARE))):
        (folder / split).mkdir(parents=True, exist_ok=True)

        def draw(number: int, split: str = split, first: int = first) -> tuple[str, Scene]:
            made, name = scene(seed, first + number, size, classes, objects), f"{number:06d}.png"
            Image.fromarray(made.pixels).save(folder / split / name, compress_level=1)
            advance()
            return name, made

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            document = _document(pool.map(draw, range(count)), size, classes)
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"instances_{split}.json").write_text(
            json.dumps(document), encoding="utf-8"
        )


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
