"""Which kind of folder is this, and how are its splits read?"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from detrcli.data.layouts import coco, voc, yolo
from detrcli.data.raw_annotations import RawAnnotations
from detrcli.errors import DataError

Reader = Callable[[], RawAnnotations]

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Layout:
    """A kind of folder, and how to read each split of it. A split that nobody asks for is not read."""

    name: str
    readers: Mapping[str, Reader]


def find(data: Path) -> Layout:
    """Tell the layout of a folder (or of a data.yaml) by what is in it."""
    if data.suffix in (".yaml", ".yml") and data.is_file():
        return _yolo_by_yaml(data)
    if not data.is_dir():
        raise DataError(f"{data}: there is no such folder.")
    for known in (_coco, _roboflow, _yolo, _voc, _label_studio, _fiftyone):
        if layout := known(data):
            return layout
    raise DataError(
        f"{data}: no known layout. Looked for annotations/instances_*.json (COCO), train/_annotations.coco.json "
        "(Roboflow), data.yaml or images/train + labels/train (YOLO), Annotations/ + JPEGImages/ (VOC), "
        "result.json + images/ (Label Studio), labels.json + data/ (FiftyOne).\n"
        "Other places can be named: --train-ann, --train-images, --val-ann, --val-images."
    )


def explicit(files: Mapping[str, tuple[Path, Path]]) -> Layout:
    """COCO annotation files and picture folders that the user names, by split."""
    return Layout(
        "coco", {split: partial(coco.read, *_in(ann, images)) for split, (ann, images) in files.items()}
    )


def _in(annotations: Path, *folders: Path) -> tuple[Path, list[Path]]:
    return annotations, list(folders)


def _coco(data: Path) -> Layout | None:
    readers: dict[str, Reader] = {}
    # `default` is train only where nothing else is.
    files = (data / "annotations").glob("instances_*.json")
    for path in sorted(files, key=lambda path: ("default" in path.name, path.name)):
        named = re.fullmatch(r"instances_(train|val|valid|validation|test|default)(\d{4})?\.json", path.name)
        if named:
            word, year = named[1], named[2] or ""
            places = [word + year, word, f"images/{word}{year}", f"images/{word}", "images", "data", "."]
            split = SPLITS.get(word, "train")
            readers.setdefault(split, partial(coco.read, path, [data / place for place in places]))
    return Layout("coco", readers) if readers else None


def _roboflow(data: Path) -> Layout | None:
    readers = {
        split: partial(coco.read, *_in(data / word / "_annotations.coco.json", data / word))
        for word, split in SPLITS.items()
        if (data / word / "_annotations.coco.json").is_file()
    }
    return Layout("roboflow", readers) if readers else None


def _label_studio(data: Path) -> Layout | None:
    file = data / "result.json"
    if not (file.is_file() and (data / "images").is_dir()):
        return None
    return Layout("label-studio", {"train": partial(coco.read, *_in(file, data, data / "images"))})


def _fiftyone(data: Path) -> Layout | None:
    file = data / "labels.json"
    if not (file.is_file() and (data / "data").is_dir()):
        return None
    return Layout("fiftyone", {"train": partial(coco.read, *_in(file, data / "data"))})


def _yolo(data: Path) -> Layout | None:
    for name in ("data.yaml", "data.yml"):
        if (data / name).is_file():
            return _yolo_by_yaml(data / name)
    readers = {
        split: partial(yolo.read, [data / "images" / word], None, split)
        for word, split in SPLITS.items()
        if (data / "images" / word).is_dir() and (data / "labels" / word).is_dir()
    }
    return Layout("yolo", readers) if readers else None


def _yolo_by_yaml(path: Path) -> Layout:
    facts = yolo.read_yaml(path)
    names = yolo.names_of(facts, path)
    base = _base(path, facts)
    readers: dict[str, Reader] = {}
    for word, split in SPLITS.items():
        said = facts.get(word)
        if said:
            entries = said if isinstance(said, list) else [said]
            readers[split] = partial(_read_yolo, path, base, entries, names, split, pose="kpt_shape" in facts)
    if not readers:
        raise DataError(f"{path}: it names no train, val or test.")
    return Layout("yolo", readers)


def _base(path: Path, facts: Mapping[str, Any]) -> Path:
    base = path.parent / str(facts.get("path") or "")
    return base if base.is_dir() else path.parent  # `path` is of the machine that it was written on


def named_places(path: Path) -> list[Path]:
    """What a data.yaml names, as far as it is there: pictures and labels of each split, and the base they share."""
    facts = yolo.read_yaml(path)
    base = _base(path, facts)
    places: list[Path] = []
    for word in SPLITS:
        said = facts.get(word) or []
        for entry in said if isinstance(said, list) else [said]:
            with suppress(DataError):
                place = _place(base, entry, path)
                places += [place, yolo.label_of(place / "picture").parent] if place.is_dir() else [place]
    inside = any(place.resolve().is_relative_to(base.resolve()) for place in places)
    return [base, *places] if inside else places


def _read_yolo(
    path: Path, base: Path, entries: list[Any], names: dict[int, str], split: str, *, pose: bool
) -> RawAnnotations:
    return yolo.read([_place(base, entry, path) for entry in entries], names, split, pose=pose)


def _place(base: Path, entry: Any, path: Path) -> Path:
    # Roboflow writes ../train/images for what lies beside the file.
    inside = re.sub(r"^(\.\./)+", "", str(entry))
    tried = [folder / name for folder in dict.fromkeys((base, path.parent)) for name in (str(entry), inside)]
    for place in tried:
        if place.exists():
            return place
    raise DataError(f"{path}: {entry} is not there; tried {', '.join(map(str, dict.fromkeys(tried)))}.")


def _voc(data: Path) -> Layout | None:
    annotations, pictures, lists = data / "Annotations", data / "JPEGImages", data / "ImageSets" / "Main"
    if not (annotations.is_dir() and pictures.is_dir()):
        return None
    listed = {
        split: lists / f"{word}.txt" for word, split in SPLITS.items() if (lists / f"{word}.txt").is_file()
    }
    if "train" not in listed and (lists / "trainval.txt").is_file():
        listed["train"] = lists / "trainval.txt"

    everything = sorted(path.stem for path in annotations.glob("[!.]*.xml"))

    def read(split: str) -> RawAnnotations:
        stems = voc.stems_of(listed[split], annotations) if split in listed else everything
        return voc.read(data, stems, voc.class_names(annotations), split)

    return Layout("voc", {split: partial(read, split) for split in listed or ["train"]})
