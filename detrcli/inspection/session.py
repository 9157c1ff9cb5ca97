"""The images of a split with their ground truth in the weights' classes, and what every layer of a model predicts."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from detrcli.boxes import to_pixels
from detrcli.data.annotations import Annotations, annotate
from detrcli.data.checks import Split
from detrcli.data.dataset import DetectionDataset, Example, UnreadableSample
from detrcli.data.images import open_image
from detrcli.errors import DataError, UsageError
from detrcli.evaluation.class_mapping import ClassMapping
from detrcli.inference.detector import Detector
from detrcli.losses.loss import Loss
from detrcli.resize import Placement
from detrcli.structures import Classes, Output
from detrcli.system.prefetch import prefetch


@dataclass(frozen=True)
class InspectionSession:
    """A split as training would see it, without augmentation; labels are the weights' class indices."""

    detector: Detector
    loss: Loss  # that the weights were trained with
    classes: Classes  # the weights' names, with the data's ids
    annotations: Annotations
    dataset: DetectionDataset
    skip_bad: bool  # whether a picture that cannot be read is left out; else it is an error
    note: Callable[[str], None]  # is told of what is left out
    # By an image's id, the classes of its objects that the weights do not know: nothing is matched to these.
    unknown: Mapping[int, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        detector: Detector,
        split: Split,
        class_mapping: ClassMapping,
        *,
        skip_bad: bool = False,
        note: Callable[[str], None] = lambda text: None,
    ) -> "InspectionSession":
        """The usable images of a split; objects whose class the weights do not know are left out."""
        annotations = _annotate(split, class_mapping.classes, masks=detector.model.has_masks)
        if not len(annotations):
            raise DataError("There are no pictures in this split that can be used.")
        dataset = DetectionDataset(annotations, detector.preprocessing, augmentation="none")
        loss = detector.checkpoint.make_loss()
        return cls(
            detector,
            loss,
            class_mapping.classes,
            annotations,
            dataset,
            skip_bad,
            note,
            _unknown(split, class_mapping.classes),
        )

    def __len__(self) -> int:
        return len(self.annotations)

    def find(self, image: str | int | None = None) -> int:
        """The place of an image by its id or its file; the first one where none is named."""
        if image is None:
            return 0
        image, ids = str(image), self.annotations.image_ids.tolist()
        by_id = ids.index(int(image)) if image.lstrip("-").isdecimal() and int(image) in ids else None
        if by_id is not None and image == str(ids[by_id]):
            return by_id
        named = self._named(image)
        if by_id is not None and not named:  # 000139, where no file is called so
            return by_id
        if len(named) == 1:
            return named[0]
        if named:
            raise UsageError(f"image {image}: {len(named)} pictures end so. Give more of the path, or the id.")
        raise UsageError(f"image {image}: no picture of this split has that id or file.")

    def _named(self, image: str) -> list[int]:
        """The places of the images whose path ends so, or would without the file's ending."""
        paths = [self.path(i) for i in range(len(self))]
        if os.path.exists(image):
            return [i for i, path in enumerate(paths) if path.samefile(image)]
        whole = [i for i, path in enumerate(paths) if path.as_posix().endswith(f"/{image}")]
        return whole or [i for i, path in enumerate(paths) if path.with_suffix("").as_posix().endswith(f"/{image}")]

    def path(self, i: int) -> Path:
        """An image's file."""
        return self.annotations.path(i)

    def file(self, i: int) -> str:
        """The same as the annotations name it."""
        return self.annotations.path(i).relative_to(self.annotations.folder).as_posix()

    def size(self, i: int) -> tuple[int, int]:
        """Height and width of the picture as it is displayed."""
        height, width = self.annotations.sizes[i].tolist()
        return height, width

    def placement(self, i: int) -> Placement:
        """Where the picture lies in the network's input."""
        return self.detector.preprocessing.resize.place(*self.size(i))

    def annotation_ids(self, i: int) -> list[int]:
        """The data's own ids of an image's objects."""
        ends = self.annotations.ends
        return self.annotations.annotation_ids[int(ends[i - 1]) if i else 0 : int(ends[i])].tolist()

    def example(self, i: int) -> Example:
        """The network's input and the objects of an image."""
        example = self.dataset[0, i]
        if isinstance(example, UnreadableSample):
            raise DataError(f"{example.message}.")
        return example

    def output(self, example: Example) -> Output:
        """What every layer says of it, and what queries of training do, who draw the same each time."""
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            return self.detector.output([example.pixels], [example.target])

    def picture(self, i: int) -> Image.Image:
        """The picture as it is displayed."""
        return open_image(self.path(i), turn=bool(self.annotations.turned[i])).image

    def pixels(self, i: int, boxes: torch.Tensor) -> np.ndarray:
        """Boxes (..., 4), cx, cy, w, h in [0, 1] of the network's input, to corners in pixels of the picture."""
        moved: np.ndarray = to_pixels(boxes.float(), *self.size(i), self.placement(i)).cpu().numpy()
        return moved

    def __iter__(self) -> Iterator[tuple[int, Example, Output]]:
        """All images with what is said of them, while the next ones are being read."""
        places = [(0, i) for i in range(len(self))]
        with ThreadPoolExecutor(max(2, min(8, os.cpu_count() or 2))) as pool:
            for i, example in enumerate(prefetch(pool, self.dataset.__getitem__, places, depth=16)):
                if isinstance(example, Example):
                    yield i, example, self.detector.output([example.pixels])
                elif self.skip_bad:
                    self.note(f"left out: {example.message}")
                else:
                    raise DataError(f"{example.message}.\n--skip-bad leaves out what cannot be read.")


def _annotate(split: Split, classes: Classes, *, masks: bool) -> Annotations:
    """The truth, with masks where the model has them and all objects do."""
    if masks:
        with suppress(DataError):
            return annotate(split, classes, masks=True)
    return annotate(split, classes)


def _unknown(split: Split, classes: Classes) -> Mapping[int, Sequence[str]]:
    w = split.written
    names = dict(zip(w.category_ids.tolist(), w.names, strict=True))
    left_out = split.usable & ~w.crowd & ~np.isin(w.of_category, classes.ids)
    found: dict[int, list[str]] = {}
    for image, category in zip(w.of_image[left_out].tolist(), w.of_category[left_out].tolist(), strict=True):
        found.setdefault(image, []).append(names[category])
    return found
