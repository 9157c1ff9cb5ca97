"""A user's DATA: its splits, whatever their layout, with a validation split made where there is none."""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from detrcli.data.layouts.find import Layout, find, named_places
from detrcli.data.make import built_in
from detrcli.data.place import folder_of
from detrcli.data.raw_annotations import Problem, RawAnnotations
from detrcli.errors import UsageError

BUILT_IN = "shapes"
HELD_OUT = 10  # one picture in so many, where the data has no validation split


@dataclass(frozen=True)
class DataSource:
    """The splits of a data set by name: train, val, test, whatever the folder calls them."""

    layout: Layout

    @property
    def holds_out(self) -> bool:
        """Whether validation is a part of train, because the data has no such split."""
        return "val" not in self.layout.readers and "train" in self.layout.readers

    @property
    def splits(self) -> list[str]:
        """The splits that there are."""
        there = {*self.layout.readers, *(["val"] if self.holds_out else [])}
        return [split for split in ("train", "val", "test") if split in there]

    def read(self, split: str) -> RawAnnotations:
        """A split as written."""
        if split not in self.splits:
            raise UsageError(f"--split {split}: this data has {', '.join(self.splits)}.")
        if self.holds_out and split in ("train", "val"):
            held = held_out(self._train.files)
            both = np.intersect1d(self._train.image_ids[held], self._train.image_ids[~held]).tolist()
            if split == "val":
                return replace(images_of(self._train, held), problems=())  # they are told with train
            twice = [
                Problem("error", "duplicate-id", "train", f"image {i}", f"image id {i} is given twice") for i in both
            ]
            train = images_of(self._train, ~held)
            return replace(train, problems=[*train.problems, *twice])
        return self.layout.readers[split]()

    @cached_property
    def _train(self) -> RawAnnotations:
        return self.layout.readers["train"]()


def open_data(data: Path) -> DataSource:
    """The data set behind DATA: a folder, its data.yaml or an annotation file, or `shapes`.

    A folder of that name is ./shapes.
    """
    return DataSource(find(built_in() if str(data) == BUILT_IN else data))


def folders_of(data: Path) -> list[Path]:
    """Where the files of DATA lie, links to folders followed; nowhere of the user's for the built-in ones."""
    if str(data) == BUILT_IN:
        return []
    if os.path.isfile(data):
        if data.suffix in (".yaml", ".yml"):
            return [data, *named_places(data)]
        of_coco = data.absolute().parent.name == "annotations"  # beside the pictures' folders
        return [data, *([folder_of(data)] if of_coco else [])]
    linked: list[Path] = []
    for folder in (data, data / "images", data / "labels"):
        with suppress(OSError):
            linked += [Path(entry) for entry in os.scandir(folder) if entry.is_symlink() and entry.is_dir()]
    return [data, *linked]


def held_out(files: Sequence[str]) -> np.ndarray:
    """Which pictures validate: by a hash of the file's name, so the same ones in every command.

    At least one, and not the only one.
    """
    hashes = np.array(
        [int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:6]) for name in files]
    )
    held: np.ndarray = hashes % HELD_OUT == 0
    if len(files) > 1 and not held.any():
        held[hashes.argmin()] = True
    if held.all():
        held[hashes.argmax()] = False
    return held


def images_of(written: RawAnnotations, keep: np.ndarray) -> RawAnnotations:
    """A part of the images, with their annotations; those of no image at all stay with the first image."""
    ids = written.image_ids[keep]
    stray = ~np.isin(written.of_image, written.image_ids)
    objects = np.isin(written.of_image, ids) | (stray & bool(keep[:1].all()))
    return replace(
        written.with_annotations(objects),
        image_ids=ids,
        files=[name for name, kept in zip(written.files, keep, strict=True) if kept],
        sizes=written.sizes[keep],
    )
