"""A dataset as a set of splits, with a validation split held out from train if it has none."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from detrcli.data.raw_annotations import Problems, RawAnnotations
from detrcli.errors import UsageError
from detrcli.messages import argument

HELD_OUT = 10  # about one in this many images is held out for validation

Reader = Callable[[], RawAnnotations]


@dataclass(frozen=True)
class DataSource:
    """A dataset: its layout, and a reader for each of its splits, which are named train, val and test."""

    layout: str
    readers: Mapping[str, Reader]
    named: str | None = None  # the split of the annotation file given as DATA; train if it is the only file

    @property
    def single_file(self) -> bool:
        """Whether DATA is a COCO annotation file that does not belong to several splits."""
        return self.named is not None and len(self.readers) == 1

    @property
    def holds_out(self) -> bool:
        """Whether the validation split is a part of train."""
        return "val" not in self.readers and "train" in self.readers

    @property
    def splits(self) -> list[str]:
        return [name for name in ("train", "val", "test") if name in self.readers or (name == "val" and self.holds_out)]

    def read(self, split: str) -> RawAnnotations:
        if split not in self.splits:
            raise UsageError(f"{argument('split', split)}: this dataset has {', '.join(self.splits)}.")
        if not self.holds_out or split == "test":
            return self.readers[split]()
        train, held = self._train, held_out(self._train.files)
        if split == "val":
            return replace(images_of(train, held), problems=())  # problems are reported with train
        problems = Problems("train", train.problems)
        for i in np.intersect1d(train.image_ids[held], train.image_ids[~held]).tolist():
            problems.error("duplicate-id", f"image {i}", f"image id {i} is given more than once")
        return replace(images_of(train, ~held), problems=problems)

    @cached_property
    def _train(self) -> RawAnnotations:
        return self.readers["train"]()


def held_out(files: Sequence[str]) -> np.ndarray:
    """Return which images are for validation, (I,) bool, by a hash of their names: at least one, and never all."""
    digests = [hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() for name in files]
    hashes = np.array([int.from_bytes(digest[:6]) for digest in digests])
    held: np.ndarray = hashes % HELD_OUT == 0
    if len(files) > 1 and not held.any():
        held[hashes.argmin()] = True
    if held.all():
        held[hashes.argmax()] = False
    return held


def images_of(raw: RawAnnotations, chosen: np.ndarray) -> RawAnnotations:
    """Select images by a mask (I,) bool, with their annotations; those of unknown images go with the first image."""
    ids = raw.image_ids[chosen]
    unknown = ~np.isin(raw.of_image, raw.image_ids)
    objects = np.isin(raw.of_image, ids) | (unknown & bool(chosen[:1].all()))
    return replace(
        raw.part(objects),
        image_ids=ids,
        files=[name for name, kept in zip(raw.files, chosen, strict=True) if kept],
        sizes=raw.sizes[chosen],
    )
