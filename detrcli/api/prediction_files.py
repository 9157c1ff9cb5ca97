"""The files that a prediction writes below its output folder: annotated images, maps and crops."""

import json
import math
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detrcli.api.selection import clipped
from detrcli.checkpoints.coco import UNUSED
from detrcli.data.panoptic_maps import ids_to_rgb
from detrcli.errors import UsageError
from detrcli.inference.stream import ImageResult
from detrcli.messages import argument
from detrcli.render.draw import DrawingStyle, draw_detections, draw_map, save
from detrcli.segmentation.maps import MapKind, PanopticMap
from detrcli.structures import Classes, Detections
from detrcli.system.files import write_whole
from detrcli.system.text import as_file_name, escape_controls, writable

JPEG = frozenset({".jpg", ".jpeg", ".jpe", ".jfif"})
CROPS = "crops"
CROP_QUALITY = 97  # of JPEG, which is compressed a second time


@dataclass(frozen=True)
class Item:
    """An image to predict. No two have the same name for their files."""

    index: int
    image_id: int
    path: Path
    name: Path  # without suffix, relative to the folder given as argument
    flat_name: str  # without folders

    @property
    def suffix(self) -> str:
        """The suffix of drawings and crops: a JPEG stays a JPEG, other formats become PNG, which is lossless."""
        return self.path.suffix if self.path.suffix.lower() in JPEG else ".png"

    def document(self, file_name: str, size: tuple[int, int]) -> dict[str, Any]:
        """Return the entry of an image of this (height, width) in COCO's files."""
        return {"id": self.image_id, "file_name": file_name, "width": size[1], "height": size[0]}


def distinct(names: Iterable[Path]) -> list[Path]:
    """Append a number to names that occurred before; upper and lower case are not distinguished."""
    taken: dict[str, int] = {}  # the last number appended to each name
    result = []
    for name in names:
        path, key = name, str(name).casefold()
        while str(path).casefold() in taken:
            taken[key] += 1
            path = name.parent / f"{name.name}-{taken[key]}"
        taken[str(path).casefold()] = 1
        result.append(path)
    return result


@dataclass(frozen=True)
class Destination:
    """Where files are written, and facts about the model that they contain."""

    folder: Path
    classes: Classes
    weights: str

    @cached_property
    def names(self) -> dict[int, str]:
        """The class names by id, without the gaps between COCO's ids."""
        pairs = zip(self.classes.ids.tolist(), self.classes.names.tolist(), strict=True)
        return {id_: escape_controls(writable(name)) for id_, name in pairs if name != UNUSED}

    @cached_property
    def index(self) -> dict[int, int]:
        """The position of each class id in `names`."""
        return {id_: i for i, id_ in enumerate(self.names)}

    @cached_property
    def class_folders(self) -> dict[int, Path]:
        return dict(zip(self.names, distinct(Path(as_file_name(name)) for name in self.names.values()), strict=True))

    def write(self, path: str | Path, data: bytes) -> None:
        """Write a file, given relative to the folder."""
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / path, data)

    def objects(self, result: ImageResult) -> Detections:
        """Return the detections for other tools: clipped to the image, without empty boxes and nameless classes."""
        assert result.detections is not None
        assert result.size is not None
        objects = clipped(result.detections, result.size)
        return objects.part(np.isin(objects.category_ids, list(self.names)))


class Writer(ABC):
    """Writes the files of one kind. Paths are relative to the output folder."""

    shared: Sequence[str] = ()  # files about all images, and folders in which only this writer writes
    has_document = False  # whether a file contains the results of all images

    @abstractmethod
    def paths(self, item: Item) -> Iterator[Path]:
        """Yield the files of an image, except for those in a shared folder."""

    @abstractmethod
    def write(self, to: Destination, item: Item, result: ImageResult) -> Any:
        """Write the files of an image. Return what `finish` needs to know about it."""

    def finish(self, to: Destination, entries: Sequence[Any]) -> dict[str, Any] | None:
        """Write the shared files, in a single process. Return the document to print if there is one."""
        return None


@dataclass(frozen=True)
class Drawings(Writer):
    """Annotated images."""

    style: DrawingStyle
    folder: str = ""

    def paths(self, item: Item) -> Iterator[Path]:
        yield Path(self.folder, f"{item.name}{item.suffix}")

    def write(self, to: Destination, item: Item, result: ImageResult) -> None:
        assert result.image is not None
        if result.map is not None:
            drawn = draw_map(result.image, result.map, self.style)
        else:
            assert result.detections is not None
            drawn = draw_detections(result.image, result.detections, self.style)
        (path,) = self.paths(item)
        save(drawn, to.folder / path)


class Maps(Writer):
    """Panoptic or semantic maps, a PNG per image, and a JSON document as COCO's panoptic results."""

    has_document = True

    def __init__(self, kind: MapKind) -> None:
        self.kind = kind
        self.shared = [f"{kind}.json"]

    def paths(self, item: Item) -> Iterator[Path]:
        yield Path(self.kind, f"{item.name}.png")

    def write(self, to: Destination, item: Item, result: ImageResult) -> dict[str, Any]:
        map_ = result.map
        assert map_ is not None
        if isinstance(map_, PanopticMap):
            pixels = ids_to_rgb(map_.ids)  # segment ids as COCO's colors
            segments = [
                {
                    "id": segment.id,
                    "category_id": segment.category_id,
                    "isthing": int(segment.thing),
                    "score": round(segment.score, 6),
                    "area": segment.area,
                    "bbox": list(segment.box),
                    "iscrowd": 0,
                }
                for segment in map_.segments
            ]
        else:
            pixels = map_.ids.astype(np.uint8 if to.classes.ids.max() < 256 else np.uint16)
            segments = [
                {"category_id": region.category_id, "area": region.area, "bbox": list(region.box)}
                for region in map_.regions
            ]
        (path,) = self.paths(item)
        save(Image.fromarray(pixels), to.folder / path)
        file_name = path.relative_to(self.kind).as_posix()
        annotation = {"image_id": item.image_id, "file_name": file_name, "segments_info": segments}
        assert result.size is not None
        return {"image": item.document(str(item.path), result.size), "annotation": annotation}

    def finish(self, to: Destination, entries: Sequence[Any]) -> dict[str, Any]:
        classes = to.classes
        things = np.ones(len(classes), dtype=bool) if classes.things is None else classes.things
        document = {
            "images": [entry["image"] for entry in entries],
            "annotations": [entry["annotation"] for entry in entries],
            "categories": [
                {"id": id_, "name": name, "isthing": int(thing)}
                for id_, name, thing in zip(classes.ids.tolist(), classes.names.tolist(), things.tolist(), strict=True)
                if name != UNUSED
            ],
        }
        to.write(self.shared[0], json.dumps(document).encode())
        return document


class Crops(Writer):
    """The image in each box, in folders by class."""

    shared = (CROPS,)

    def paths(self, item: Item) -> Iterator[Path]:
        yield from ()

    def write(self, to: Destination, item: Item, result: ImageResult) -> None:
        assert result.image is not None
        objects = to.objects(result)
        for number, (box, id_) in enumerate(zip(objects.boxes.tolist(), objects.category_ids.tolist(), strict=True), 1):
            x0, y0, x1, y1 = box
            crop = result.image.crop((math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)))
            path = Path(CROPS, to.class_folders[id_], f"{item.name}-{number}{item.suffix}")
            save(crop, to.folder / path, CROP_QUALITY)


def check_names(
    writers: Sequence[Writer],
    items: Sequence[Item],
    folder: Path | None,
    inputs: Iterable[str | Path],
    others: Sequence[Path],
) -> None:
    """Raise UsageError if two files would have the same name, or an input would be overwritten.

    All files that a prediction writes are those of the writers in the folder, which is None for a new one, and others.
    """
    names = [Path(name) for writer in writers for name in writer.shared]
    names += [path for item in items for writer in writers for path in writer.paths(item)]
    name, count = max(Counter(names).items(), key=lambda pair: pair[1], default=(Path(), 1))
    if count > 1:
        raise UsageError(f"{name}: two output files would have this name. Predict their images separately.")

    def real(path: str | Path) -> str:
        return os.path.normcase(os.path.realpath(path))

    occupied = {real(path) for path in inputs}
    for path in list(occupied):  # and the folders that contain an input
        while (path := os.path.dirname(path)) not in occupied:
            occupied.add(path)
    for output in [*others, *([] if folder is None else [folder / name for name in names])]:
        if real(output) in occupied:
            raise UsageError(
                f"{output} is an input, or contains one, and would be overwritten.\nChoose another {argument('out')}."
            )
