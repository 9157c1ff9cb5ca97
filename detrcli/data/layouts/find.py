"""Which kind of folder is this, and how are its splits read?"""

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from detrcli.data.layouts import coco, voc, yolo
from detrcli.data.place import folder_of, is_web_address
from detrcli.data.raw_annotations import RawAnnotations
from detrcli.errors import DataError

Reader = Callable[[], RawAnnotations]

ROBOFLOW_FILE = "_annotations.coco.json"
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Layout:
    """A kind of folder, and how to read each split of it. A split that nobody asks for is not read."""

    name: str
    readers: Mapping[str, Reader]
    named: str | None = None  # the split whose annotation file was given as DATA; train where it stands alone

    @property
    def alone(self) -> bool:
        """Whether it is a single annotation file, whose name says nothing of splits that lie beside it."""
        return self.named is not None and len(self.readers) == 1


def find(data: Path) -> Layout:
    """Tell the layout of a folder by what is in it, or of a data.yaml or a COCO annotation file."""
    if os.path.isfile(data):
        return _by_file(data)
    if not os.path.isdir(data):
        web = " It is a web address: download it, and give the folder." if is_web_address(data) else ""
        raise DataError(f"{data}: there is no such folder.{web}\n`detr guide data` says what can be given as DATA.")
    for known in (_coco, _coco_panoptic, _roboflow, _yolo, _voc, _label_studio, _fiftyone):
        if layout := known(data):
            return layout
    raise DataError(
        f"{data}: no known layout. Looked for annotations/instances_*.json or panoptic_*.json (COCO), "
        "train/_annotations.coco.json (Roboflow), data.yaml or images/train + labels/train (YOLO), "
        "Annotations/ + JPEGImages/ (VOC), result.json + images/ (Label Studio), labels.json + data/ (FiftyOne).\n"
        "Other places can be named: --train-ann, --train-images, --val-ann, --val-images."
    )


def _by_file(path: Path) -> Layout:
    if path.suffix in (".yaml", ".yml"):
        return _yolo_by_yaml(path)
    if path.suffix == ".json":
        return _coco_by_file(path)
    raise DataError(f"{path}: it is a file. DATA is a folder, its data.yaml, or a COCO annotation file (.json).")


def explicit(files: Mapping[str, tuple[Path, Path]]) -> Layout:
    """COCO annotation files and picture folders that the user names, by split."""
    return Layout("coco", {split: partial(coco.read, *_in(ann, images)) for split, (ann, images) in files.items()})


def _in(annotations: Path, *folders: Path) -> tuple[Path, list[Path]]:
    return annotations, list(folders)


def _coco(data: Path) -> Layout | None:
    return _coco_files(data, "instances", "coco")


def _coco_panoptic(data: Path) -> Layout | None:
    return _coco_files(data, "panoptic", "coco-panoptic")


def _coco_files(data: Path, what: str, name: str) -> Layout | None:
    readers: dict[str, Reader] = {}
    # `default` is train only where nothing else is.
    files = (data / "annotations").glob(f"{what}_*.json")
    for path in sorted(files, key=lambda path: ("default" in path.name, path.name)):
        named = re.fullmatch(rf"{what}_(train|val|valid|validation|test|default)(\d{{4}})?\.json", path.name)
        if named:
            word, year = named[1], named[2] or ""
            split = SPLITS.get(word, "train")
            readers.setdefault(split, partial(coco.read, path, _places(data, word, year)))
    return Layout(name, readers) if readers else None


def _places(data: Path, word: str, year: str = "") -> list[Path]:
    """Where the pictures of a COCO annotation file may lie."""
    places = [word + year, word, f"images/{word}{year}", f"images/{word}", "images", "data", "."]
    return [data / place for place in places]


def _coco_by_file(path: Path) -> Layout:
    """An annotation file, with the splits beside it where it is train or val and both are there."""
    folder = path.absolute().parent
    if path.name == ROBOFLOW_FILE:
        named, beside = SPLITS.get(folder.name), _roboflow(folder.parent)
        readers = dict(beside.readers) if beside else {}
    else:
        named, readers = _named_like(path)
    name = "coco-panoptic" if path.name.startswith("panoptic") else "coco"
    if named in ("train", "val") and {"train", "val"} <= readers.keys():
        return Layout(name, readers, named)
    return Layout(name, {"train": partial(coco.read, path, _pictures_of(path))}, "train")


def _named_like(path: Path) -> tuple[str | None, dict[str, Reader]]:
    """Which split a file's name says it is, and the splits of the files beside it with such names."""
    own = _says_split(path)
    if own is None:
        return None, {}
    alike = [
        (other, said)
        for other in sorted(path.parent.glob("*.json"))
        if (said := _says_split(other)) and said["prefix"] == own["prefix"]
    ]
    # The file that was named stands for its split, and those of its year go before others.
    alike.sort(key=lambda one: (one[0] != path, one[1]["year"] != own["year"]))
    readers: dict[str, Reader] = {}
    for other, said in alike:
        readers.setdefault(SPLITS[said["word"]], partial(coco.read, other, _pictures_of(other)))
    return SPLITS[own["word"]], readers


def _says_split(path: Path) -> re.Match[str] | None:
    # As instances_train2017.json, person_keypoints_val2017.json and train.json do.
    words = "|".join(sorted(SPLITS, key=len, reverse=True))
    return re.fullmatch(rf"(?P<prefix>|.*[_-])(?P<word>{words})(?P<year>\d{{4}}|)\.json", path.name)


def _pictures_of(path: Path) -> list[Path]:
    """Where the pictures of an annotation file may lie that was named."""
    said, folder = _says_split(path), folder_of(path)
    if said:
        return [*_places(folder, said["word"], said["year"]), path.parent]
    return [*_places(folder, path.stem), path.parent, *_places(folder, "train")]


def _roboflow(data: Path) -> Layout | None:
    readers = {
        split: partial(coco.read, *_in(data / word / ROBOFLOW_FILE, data / word))
        for word, split in SPLITS.items()
        if (data / word / ROBOFLOW_FILE).is_file()
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
        if entries := yolo.words(facts.get(word), path):
            readers[split] = partial(_read_yolo, path, base, entries, names, split, pose="kpt_shape" in facts)
    if not readers:
        raise DataError(f"{path}: it names no train, val or test; one of them is needed.")
    return Layout("yolo", readers)


def _base(path: Path, facts: Mapping[str, Any]) -> Path:
    base = path.parent.joinpath(*yolo.words(facts.get("path"), path)[:1])
    return base if os.path.isdir(base) else path.parent  # `path` is of the machine that it was written on


def named_places(path: Path) -> list[Path]:
    """What a data.yaml names, as far as it is there: pictures and labels of each split, and the base they share."""
    facts = yolo.read_yaml(path)
    base = _base(path, facts)
    places: list[Path] = []
    for word in SPLITS:
        for entry in yolo.words(facts.get(word), path):
            with suppress(DataError):
                place = _place(base, entry, path)
                places += [place, yolo.label_of(place / "picture").parent] if place.is_dir() else [place]
    inside = any(place.resolve().is_relative_to(base.resolve()) for place in places)
    return [base, *places] if inside else places


def _read_yolo(
    path: Path, base: Path, entries: list[str], names: dict[int, str], split: str, *, pose: bool
) -> RawAnnotations:
    return yolo.read([_place(base, entry, path) for entry in entries], names, split, pose=pose)


def _place(base: Path, entry: str, path: Path) -> Path:
    # Roboflow writes ../train/images for what lies beside the file.
    inside = re.sub(r"^(\.\./)+", "", entry)
    tried = [folder / name for folder in dict.fromkeys((base, path.parent)) for name in (entry, inside)]
    for place in tried:
        if os.path.exists(place):
            return place
    places = ", ".join(f"{place!s:.300}" for place in dict.fromkeys(tried))
    raise DataError(f"{path}: {entry:.300} is not there; tried {places}.")


def _voc(data: Path) -> Layout | None:
    annotations, pictures, lists = data / "Annotations", data / "JPEGImages", data / "ImageSets" / "Main"
    if not (annotations.is_dir() and pictures.is_dir()):
        return None
    listed = {split: lists / f"{word}.txt" for word, split in SPLITS.items() if (lists / f"{word}.txt").is_file()}
    if "train" not in listed and (lists / "trainval.txt").is_file():
        listed["train"] = lists / "trainval.txt"

    everything = sorted(path.stem for path in annotations.glob("[!.]*.xml"))

    def read(split: str) -> RawAnnotations:
        stems = voc.stems_of(listed[split], annotations) if split in listed else everything
        return voc.read(data, stems, voc.class_names(annotations), split)

    return Layout("voc", {split: partial(read, split) for split in listed or ["train"]})
