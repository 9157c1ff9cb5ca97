"""The truth that training learns from, held so that loader processes share it."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detrcli.data.checks import Split, classes_without, parents_without_boxes
from detrcli.data.examine import DatasetReport
from detrcli.data.placed_masks import PlacedMasks
from detrcli.errors import DataError
from detrcli.structures import Classes


@dataclass(frozen=True)
class Annotations:
    """I images with N boxes, in flat tensors in shared memory.

    However large the data, a loader process gets handles of these few tensors, not a copy; and as there are no
    Python objects per image, no page is copied by counting references.
    """

    folder: str
    names: Tensor  # uint8, all file names one after the other
    name_ends: Tensor  # (I,) int64
    image_ids: Tensor  # (I,) int64, the data's own
    sizes: Tensor  # (I, 2) int32, height and width
    turned: Tensor  # (I,) bool, whether EXIF orientation is applied
    ends: Tensor  # (I,) int64; the boxes of image i are ends[i - 1]:ends[i]
    boxes: Tensor  # (N, 4) float32, x0, y0, x1, y1 in pixels, clipped to the picture
    labels: Tensor  # (N,) int64, contiguous class indices
    annotation_ids: Tensor  # (N,) int64, the data's own
    outlines: Tensor | None = None  # uint8, those of all boxes one after the other, where masks are asked for
    outline_ends: Tensor | None = None  # (N,) int64

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def counts(self) -> Tensor:
        """How many boxes each image has, (I,)."""
        return torch.diff(self.ends, prepend=self.ends.new_zeros(1))

    def path(self, i: int) -> Path:
        """The picture's file."""
        start = int(self.name_ends[i - 1]) if i else 0
        return Path(
            self.folder, bytes(self.names[start : int(self.name_ends[i])].numpy()).decode("utf-8", "surrogateescape")
        )

    def objects(self, i: int) -> dict[str, Tensor]:
        """What is known of the objects of an image, a row each: boxes (n, 4) and labels (n,)."""
        part = slice(*self._rows(i))
        return {"boxes": self.boxes[part], "labels": self.labels[part]}

    def masks(self, i: int) -> PlacedMasks | None:
        """The masks of the objects of an image, where they were asked for."""
        if self.outlines is None or self.outline_ends is None:
            return None
        first, last = self._rows(i)
        ends = [int(self.outline_ends[first - 1]) if first else 0, *self.outline_ends[first:last].tolist()]
        texts = [bytes(self.outlines[start:end].numpy()) for start, end in pairwise(ends)]
        height, width = self.sizes[i].tolist()
        return PlacedMasks.of(texts, height, width)

    def _rows(self, i: int) -> tuple[int, int]:
        return int(self.ends[i - 1]) if i else 0, int(self.ends[i])


def classes_in_report(examined: DatasetReport) -> Classes:
    """The classes of all splits by rising id, without those that only stand above others."""
    return classes_without(examined.splits, parents_without_boxes(examined.splits))


def annotate(split: Split, classes: Classes, *, masks: bool = False) -> Annotations:
    """What a split teaches: usable images, the empty ones too, and their boxes without crowds, perhaps with masks.

    With masks every object must have one, else it is a DataError.
    """
    w = split.written
    images = np.flatnonzero(split.usable_images)
    by_id = np.argsort(w.image_ids[images], kind="stable")
    taught = split.usable & ~w.crowd & np.isin(w.of_image, w.image_ids[images]) & np.isin(w.of_category, classes.ids)
    place = by_id[np.searchsorted(w.image_ids[images], w.of_image[taught], sorter=by_id)]  # (N,)
    order = np.argsort(place, kind="stable")

    heights, widths = split.sizes[images][place[order]].T
    x, y, a, b = w.boxes[taught][order].T
    boxes = np.stack([x.clip(0, widths), y.clip(0, heights), (x + a).clip(0, widths), (y + b).clip(0, heights)], axis=1)
    rank = np.argsort(classes.ids, kind="stable")
    labels = rank[np.searchsorted(classes.ids, w.of_category[taught][order], sorter=rank)]
    names = [w.files[i].encode("utf-8", "surrogateescape") for i in images.tolist()]
    return Annotations(
        folder=str(w.folder),
        names=_shared(np.frombuffer(b"".join(names), dtype=np.uint8)),
        name_ends=_shared(np.cumsum([len(name) for name in names], dtype=np.int64)),
        image_ids=_shared(w.image_ids[images]),
        sizes=_shared(split.sizes[images].astype(np.int32)),
        turned=_shared(split.turned[images]),
        ends=_shared(np.cumsum(np.bincount(place, minlength=len(images)), dtype=np.int64)),
        boxes=_shared(boxes.astype(np.float32).reshape(-1, 4)),
        labels=_shared(labels.astype(np.int64)),
        annotation_ids=_shared(w.annotation_ids[taught][order]),
        **(_outlines(split, np.flatnonzero(taught)[order]) if masks else {}),
    )


def _outlines(split: Split, objects: np.ndarray) -> dict[str, Tensor]:
    """The outlines of some annotations, by their places."""
    w = split.written
    texts = [b""] * len(objects) if w.outlines is None else w.outlines.part(objects).texts()
    without = [place for place, text in zip(objects.tolist(), texts, strict=True) if not text]
    if without:
        raise DataError(
            f"{w.folder}: {len(without):,} of {len(objects):,} objects have no mask, the first of them is "
            f"annotation {w.annotation_ids[without[0]]}.\n"
            "A model with a mask head learns from data in which every object has a polygon or RLE."
        )
    return {
        "outlines": _shared(np.frombuffer(b"".join(texts), dtype=np.uint8)),
        "outline_ends": _shared(np.cumsum([len(text) for text in texts], dtype=np.int64)),
    }


def _shared(array: np.ndarray) -> Tensor:
    shared: Tensor = torch.from_numpy(array.copy()).share_memory_()  # type: ignore[no-untyped-call]  # torch says nothing of it
    return shared
