"""Annotations for training, in memory that loader processes share."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detrcli.data.augmentation import LazyMask
from detrcli.data.checks import Split, classes_without, parents_without_boxes
from detrcli.data.examine import DatasetReport
from detrcli.errors import DataError
from detrcli.structures import Classes

HASHED_BYTES = 4096  # from the middle of a file, which differ between any two compressed images


class SharedTexts:
    """A sequence of byte strings, concatenated in shared memory."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        self.joined = _shared(np.frombuffer(b"".join(texts), dtype=np.uint8))
        self.ends = _shared(np.cumsum([len(text) for text in texts], dtype=np.int64))

    def __getitem__(self, i: int) -> bytes:
        return bytes(self.joined[_span(self.ends, i)].numpy())


@dataclass(frozen=True)
class Annotations:
    """I images with N boxes, in flat tensors in shared memory.

    A loader process gets handles of these tensors instead of a copy, and without Python objects per image no page is
    copied because of reference counts.
    """

    folder: str
    names: SharedTexts  # (I,), file names
    image_ids: Tensor  # (I,) int64, the dataset's
    sizes: Tensor  # (I, 2) int32, height and width
    turned: Tensor  # (I,) bool, whether EXIF orientation is applied
    ends: Tensor  # (I,) int64; the boxes of image i are ends[i - 1]:ends[i]
    boxes: Tensor  # (N, 4) float32, xyxy in pixels, clipped to the image
    labels: Tensor  # (N,) int64, contiguous class indices
    annotation_ids: Tensor  # (N,) int64, the dataset's
    segmentations: SharedTexts | None  # (N,); None without masks

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def counts(self) -> Tensor:
        """The number of boxes of each image, (I,)."""
        return torch.diff(self.ends, prepend=self.ends.new_zeros(1))

    def path(self, i: int) -> Path:
        return Path(self.folder, self.names[i].decode("utf-8", "surrogateescape"))

    def objects(self, i: int) -> dict[str, Tensor]:
        """Return the boxes (n, 4) and labels (n,) of an image."""
        rows = _span(self.ends, i)
        return {"boxes": self.boxes[rows], "labels": self.labels[rows]}

    def masks(self, i: int) -> list[LazyMask] | None:
        if self.segmentations is None:
            return None
        rows = _span(self.ends, i)
        return [LazyMask.of(self.segmentations[n], *self.sizes[i].tolist()) for n in range(rows.start, rows.stop)]


def _span(ends: Tensor, i: int) -> slice:
    return slice(int(ends[i - 1]) if i else 0, int(ends[i]))


def _shared(array: np.ndarray) -> Tensor:
    shared: Tensor = torch.from_numpy(array.copy()).share_memory_()  # type: ignore[no-untyped-call]  # torch
    return shared


def classes_in_report(report: DatasetReport) -> Classes:
    """Return the classes of all splits by ascending id, without mere supercategories."""
    return classes_without(report.splits, parents_without_boxes(report.splits))


def annotate(split: Split, classes: Classes, *, masks: bool = False) -> Annotations:
    """Return the usable images of a split, also those without objects, with their boxes except crowds.

    With `masks`, raises DataError if an object has no mask.
    """
    w = split.written
    images = np.flatnonzero(split.usable_images)
    chosen = np.flatnonzero(split.usable & ~w.crowd & np.isin(w.of_category, classes.ids))
    image = w.image_index()[chosen]  # (N,)
    order = np.argsort(image, kind="stable")
    chosen, image = chosen[order], image[order]

    heights, widths = split.sizes[image].T
    x, y, a, b = w.boxes[chosen].T
    boxes = np.stack([x.clip(0, widths), y.clip(0, heights), (x + a).clip(0, widths), (y + b).clip(0, heights)], axis=1)
    rank = np.argsort(classes.ids, kind="stable")
    labels = rank[np.searchsorted(classes.ids, w.of_category[chosen], sorter=rank)]
    texts = w.texts(chosen) if masks else []
    if masks and not all(texts):
        raise DataError(
            f"{w.folder}: {texts.count(b''):,} of {len(texts):,} objects have no mask, first annotation "
            f"{w.annotation_ids[chosen[texts.index(b'')]]}.\nTo train a mask head, every object needs polygons or RLE."
        )
    return Annotations(
        folder=str(w.folder),
        names=SharedTexts([w.files[i].encode("utf-8", "surrogateescape") for i in images.tolist()]),
        image_ids=_shared(w.image_ids[images]),
        sizes=_shared(split.sizes[images].astype(np.int32)),
        turned=_shared(split.turned[images]),
        ends=_shared(np.cumsum(np.bincount(image, minlength=len(w.image_ids))[images], dtype=np.int64)),
        boxes=_shared(boxes.astype(np.float32).reshape(-1, 4)),
        labels=_shared(labels.astype(np.int64)),
        annotation_ids=_shared(w.annotation_ids[chosen]),
        segmentations=SharedTexts(texts) if masks else None,
    )


def image_hashes(annotations: Annotations) -> Tensor:
    """Return a hash of each image file from its length and its middle, (I,) int64; 0 for missing files."""
    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        hashes = list(pool.map(_hash, map(annotations.path, range(len(annotations))), chunksize=64))
    return torch.tensor(hashes, dtype=torch.int64)


def _hash(path: Path) -> int:
    try:
        with path.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            file.seek(max(0, (length - HASHED_BYTES) // 2))
            digest = hashlib.sha256(b"%d " % length + file.read(HASHED_BYTES)).digest()
    except OSError:
        return 0
    return int.from_bytes(digest[:8], signed=True)
