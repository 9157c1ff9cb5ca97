"""Opening the dataset that a user names."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from detrcli.data.checks import Exif
from detrcli.data.images import folder_of
from detrcli.data.layouts.detect import YAML_SUFFIXES, detect_layout, explicit, yaml_folders
from detrcli.data.make import built_in
from detrcli.data.splits import DataSource
from detrcli.errors import UsageError
from detrcli.messages import argument
from detrcli.reporter import Reporter

BUILT_IN = "shapes"

Files = Mapping[str, tuple[Path | None, Path | None]]  # split -> annotation file, image folder


@dataclass(frozen=True)
class DataSpec:
    """The dataset that a user names, and how to read it, in plain values that a run saves."""

    data: str | None
    files: dict[str, list[str | None]]  # annotation files and image folders by split, in place of `data`
    exif: Exif = "auto"
    skip_bad: bool = False

    @classmethod
    def of(cls, data: Path | None, files: Files | None = None, exif: Exif = "auto", *, skip_bad: bool = False) -> Self:
        """Make paths absolute, since a run may be resumed in another folder."""

        def absolute(path: Path | None) -> str | None:
            return None if path is None else os.path.abspath(path)

        name = BUILT_IN if str(data) == BUILT_IN else absolute(data)
        return cls(name, {split: [*map(absolute, pair)] for split, pair in (files or {}).items()}, exif, skip_bad)

    @property
    def name(self) -> str:
        return self.data or str(next(pair[0] for pair in self.files.values()))

    def open(self) -> DataSource:
        def path(text: str | None) -> Path | None:
            return None if text is None else Path(text)

        return open_source(path(self.data), {split: (path(f), path(i)) for split, (f, i) in self.files.items()})


def open_data(data: Path) -> DataSource:
    """Open DATA: a folder, its data.yaml, an annotation file, or `shapes` (a folder of that name is ./shapes)."""
    return detect_layout(built_in() if str(data) == BUILT_IN else data)


def open_source(data: Path | None, files: Files | None = None) -> DataSource:
    """Open DATA, or the explicit files of each split."""
    files = files or {}
    pairs = {split: (file, images) for split, (file, images) in files.items() if file and images}
    for split, pair in files.items():
        if any(pair) and split not in pairs:
            raise UsageError(f"{argument(f'{split}_ann')} requires {argument(f'{split}_images')}, and vice versa.")
    if (data is None) == (not pairs):
        options = " and ".join(argument(f"{split}_{what}") for split in files for what in ("ann", "images"))
        raise UsageError(f"Give DATA, or {options}." if options else "Give DATA.")
    return explicit(pairs) if data is None else open_data(data)


def for_inspection(source: DataSource, name: str, reporter: Reporter) -> DataSource:
    """Return the dataset for a command that does not train: train and val are both all of a single annotation file."""
    if source.single_file:
        reporter.note(f"{name}: all of its images are used; `detr train {name}` would hold out a tenth as val")
        return DataSource(source.layout, dict.fromkeys(("train", "val"), source.readers["train"]))
    if source.named == "train":
        reporter.note(f"{name} is the train split, and val lies beside it; {argument('split')} selects a split")
    return source


def data_folders(data: Path) -> list[Path]:
    """Return the files and folders of DATA, linked folders included; none for the built-in dataset."""
    if str(data) == BUILT_IN:
        return []
    if os.path.isfile(data):
        if data.suffix in YAML_SUFFIXES:
            return [data, *yaml_folders(data)]
        in_annotations = data.absolute().parent.name == "annotations"  # COCO's folder, beside the folders of images
        return [data, *([folder_of(data)] if in_annotations else [])]
    linked: list[Path] = []
    for folder in (data, data / "images", data / "labels"):
        with suppress(OSError):
            linked += [Path(entry) for entry in os.scandir(folder) if entry.is_symlink() and entry.is_dir()]
    return [data, *linked]
