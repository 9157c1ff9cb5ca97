"""Detecting the layout of a dataset from its files."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from detrcli.data.images import folder_of, is_web_address
from detrcli.data.layouts import coco, voc, yolo
from detrcli.data.raw_annotations import RawAnnotations
from detrcli.data.splits import DataSource, Reader
from detrcli.errors import DataError
from detrcli.messages import argument

YAML_SUFFIXES = (".yaml", ".yml")
ROBOFLOW_FILE = "_annotations.coco.json"
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}  # by folder name


def detect_layout(data: Path) -> DataSource:
    """Return the dataset in a folder, or that of a data.yaml or a COCO annotation file. Raises DataError."""
    if os.path.isfile(data):
        if data.suffix in YAML_SUFFIXES:
            return _yolo_by_yaml(data)
        if data.suffix == ".json":
            return _coco_by_file(data)
        raise DataError(f"{data}: it is a file. DATA is a folder, its data.yaml, or a COCO annotation file (.json).")
    if not os.path.isdir(data):
        web = " It is a web address: download it, and give the folder." if is_web_address(data) else ""
        raise DataError(f"{data}: no such folder.{web}\n`detr guide data` describes what DATA can be.")
    source = (
        _coco(data, "instances", "coco")
        or _coco(data, "panoptic", "coco-panoptic")
        or _roboflow(data)
        or _yolo(data)
        or _voc(data)
        or _export("label-studio", data / "result.json", [data, data / "images"])
        or _export("fiftyone", data / "labels.json", [data / "data"])
    )
    if source is not None:
        return source
    places = ", ".join(argument(f"{split}_{what}") for split in ("train", "val") for what in ("ann", "images"))
    raise DataError(
        f"{data}: unknown layout. Known are annotations/instances_*.json or panoptic_*.json (COCO), "
        "train/_annotations.coco.json (Roboflow), data.yaml or images/train + labels/train (YOLO), "
        "Annotations/ + JPEGImages/ (VOC), result.json + images/ (Label Studio), labels.json + data/ (FiftyOne).\n"
        f"Files in other places can be given by {places}."
    )


def explicit(files: Mapping[str, tuple[Path, Path]]) -> DataSource:
    """Return the dataset of an annotation file and an image folder for each split."""
    return DataSource("coco", {split: partial(coco.read, file, [images]) for split, (file, images) in files.items()})


def _coco(data: Path, prefix: str, layout: str) -> DataSource | None:
    readers: dict[str, Reader] = {}
    # CVAT's instances_default.json is train, unless a file is named train.
    files = (data / "annotations").glob(f"{prefix}_*.json")
    for path in sorted(files, key=lambda path: ("default" in path.name, path.name)):
        match = re.fullmatch(rf"{prefix}_(train|val|valid|validation|test|default)(\d{{4}})?\.json", path.name)
        if match:
            word, year = match[1], match[2] or ""
            readers.setdefault(SPLITS.get(word, "train"), partial(coco.read, path, _image_folders(data, word, year)))
    return DataSource(layout, readers) if readers else None


def _image_folders(data: Path, word: str, year: str = "") -> list[Path]:
    names = [word + year, word, f"images/{word}{year}", f"images/{word}", "images", "data", "."]
    return [data / name for name in names]


def _coco_by_file(path: Path) -> DataSource:
    """Return the dataset of an annotation file, with the files of other splits beside it if these are train and val."""
    folder = path.absolute().parent
    named: str | None = None
    readers: dict[str, Reader] = {}
    if path.name == ROBOFLOW_FILE:
        named, siblings = SPLITS.get(folder.name), _roboflow(folder.parent)
        readers |= siblings.readers if siblings else {}
    elif own := _split_in_name(path):
        named = SPLITS[own["word"]]
        matches = {file: match for file in sorted(path.parent.glob("*.json")) if (match := _split_in_name(file))}
        # The given file takes precedence, then files of the same year.
        for file in sorted(matches, key=lambda file: (file != path, matches[file]["year"] != own["year"])):
            if matches[file]["prefix"] == own["prefix"]:
                readers.setdefault(SPLITS[matches[file]["word"]], partial(coco.read, file, _image_folders_of(file)))
    layout = "coco-panoptic" if path.name.startswith("panoptic") else "coco"
    if named in ("train", "val") and {"train", "val"} <= readers.keys():
        return DataSource(layout, readers, named)
    return DataSource(layout, {"train": partial(coco.read, path, _image_folders_of(path))}, "train")


def _split_in_name(path: Path) -> re.Match[str] | None:
    # As in instances_train2017.json, person_keypoints_val2017.json and train.json.
    words = "|".join(sorted(SPLITS, key=len, reverse=True))
    return re.fullmatch(rf"(?P<prefix>|.*[_-])(?P<word>{words})(?P<year>\d{{4}}|)\.json", path.name)


def _image_folders_of(path: Path) -> list[Path]:
    match, folder = _split_in_name(path), folder_of(path)
    if match:
        return [*_image_folders(folder, match["word"], match["year"]), path.parent]
    return [*_image_folders(folder, path.stem), path.parent, *_image_folders(folder, "train")]


def _roboflow(data: Path) -> DataSource | None:
    readers = {
        split: partial(coco.read, data / word / ROBOFLOW_FILE, [data / word])
        for word, split in SPLITS.items()
        if (data / word / ROBOFLOW_FILE).is_file()
    }
    return DataSource("roboflow", readers) if readers else None


def _export(layout: str, file: Path, folders: list[Path]) -> DataSource | None:
    """Return the dataset of a single COCO file, if it and the last of the folders exist."""
    exists = file.is_file() and folders[-1].is_dir()
    return DataSource(layout, {"train": partial(coco.read, file, folders)}) if exists else None


def _yolo(data: Path) -> DataSource | None:
    for suffix in YAML_SUFFIXES:
        if (data / f"data{suffix}").is_file():
            return _yolo_by_yaml(data / f"data{suffix}")
    readers = {
        split: partial(yolo.read, [data / "images" / word], None, split)
        for word, split in SPLITS.items()
        if (data / "images" / word).is_dir() and (data / "labels" / word).is_dir()
    }
    return DataSource("yolo", readers) if readers else None


def _yolo_by_yaml(path: Path) -> DataSource:
    facts = yolo.read_yaml(path)
    names = yolo.names_of(facts, path)
    base = _base(path, facts)
    pose = "kpt_shape" in facts

    def read(entries: list[str], split: str) -> RawAnnotations:
        return yolo.read([_locate(base, entry, path) for entry in entries], names, split, pose=pose)

    readers: dict[str, Reader] = {}
    for word, split in SPLITS.items():
        if entries := yolo.strings(facts.get(word), path):
            readers[split] = partial(read, entries, split)
    if not readers:
        raise DataError(f"{path}: it has none of the keys train, val and test.")
    return DataSource("yolo", readers)


def _base(path: Path, facts: Mapping[str, Any]) -> Path:
    """Return the folder that the paths of a data.yaml are relative to."""
    base = path.parent.joinpath(*yolo.strings(facts.get("path"), path)[:1])
    return base if os.path.isdir(base) else path.parent  # `path` is often that of another machine


def _locate(base: Path, entry: str, path: Path) -> Path:
    """Return the existing path of an entry of the data.yaml `path`."""
    # In Roboflow's data.yaml, ../train/images is a folder beside the file.
    inside = re.sub(r"^(\.\./)+", "", entry)
    candidates = [folder / name for folder in dict.fromkeys((base, path.parent)) for name in (entry, inside)]
    for candidate in candidates:
        if os.path.exists(candidate):
            return candidate
    tried = ", ".join(f"{candidate!s:.300}" for candidate in dict.fromkeys(candidates))
    raise DataError(f"{path}: {entry:.300} does not exist; tried {tried}.")


def yaml_folders(path: Path) -> list[Path]:
    """Return the existing folders of a data.yaml: images and labels of each split, and the base if any lies there."""
    facts = yolo.read_yaml(path)
    base = _base(path, facts)
    folders: list[Path] = []
    for word in SPLITS:
        for entry in yolo.strings(facts.get(word), path):
            with suppress(DataError):
                images = _locate(base, entry, path)
                folders += [images, yolo.label_of(images / "image").parent] if images.is_dir() else [images]
    inside = any(folder.resolve().is_relative_to(base.resolve()) for folder in folders)
    return [base, *folders] if inside else folders


def _voc(data: Path) -> DataSource | None:
    annotations, lists = data / "Annotations", data / "ImageSets" / "Main"
    if not (annotations.is_dir() and (data / "JPEGImages").is_dir()):
        return None
    listings = {split: lists / f"{word}.txt" for word, split in SPLITS.items() if (lists / f"{word}.txt").is_file()}
    if "train" not in listings and (lists / "trainval.txt").is_file():
        listings["train"] = lists / "trainval.txt"

    def read(split: str) -> RawAnnotations:
        if split in listings:
            images = voc.image_names(listings[split], annotations)
        else:
            images = sorted(path.stem for path in annotations.glob("[!.]*.xml"))
        return voc.read(data, images, voc.class_names(annotations), split)

    return DataSource("voc", {split: partial(read, split) for split in listings or ["train"]})
