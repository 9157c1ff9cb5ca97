"""A split with a detector: images, ground truth in the classes of the weights, and the output of every layer."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from detrcli.boxes import to_pixels
from detrcli.data.annotations import annotate
from detrcli.data.checks import Split
from detrcli.data.dataset import DetectionDataset, Example
from detrcli.data.images import open_image
from detrcli.errors import DataError, UsageError
from detrcli.evaluation.class_mapping import ClassMapping
from detrcli.inference.detector import Detector
from detrcli.losses.criterion import Loss
from detrcli.messages import argument
from detrcli.reporter import SILENT, Reporter
from detrcli.resize import Placement
from detrcli.structures import Output
from detrcli.system.prefetch import prefetch


class InspectionSession:
    """A detector and the usable images of a split, read as in training but without augmentation.

    Labels are class indices of the weights. With `skip_bad`, unreadable images are skipped instead of raising an error.
    """

    def __init__(
        self,
        detector: Detector,
        split: Split,
        class_mapping: ClassMapping,
        *,
        skip_bad: bool = False,
        reporter: Reporter = SILENT,
    ) -> None:
        self.detector, self.reporter = detector, reporter
        self.loss: Loss = detector.checkpoint.make_loss()
        self.classes = class_mapping.classes  # the names of the weights, with the ids of the data
        self.annotations = annotate(split, self.classes)
        if detector.model.has_masks:
            with suppress(DataError):  # unless all objects have masks
                self.annotations = annotate(split, self.classes, masks=True)
        if not len(self.annotations):
            raise DataError("The split has no usable images.")
        # By image id, the classes of objects that the weights do not have. These objects are left out.
        self.unknown: dict[int, list[str]] = {}
        written = split.written
        names = dict(zip(written.category_ids.tolist(), written.names, strict=True))
        left_out = split.usable & ~written.crowd & ~np.isin(written.of_category, self.classes.ids)
        for image, category in np.stack([written.of_image, written.of_category])[:, left_out].T.tolist():
            self.unknown.setdefault(image, []).append(names[category])
        self._dataset = DetectionDataset(self.annotations, detector.preprocessing, augmentation="none")
        self._skip_bad = skip_bad

    def __len__(self) -> int:
        return len(self.annotations)

    def __iter__(self) -> Iterator[tuple[int, Example, Output]]:
        """Yield index, example and output of each readable image, while the next images are being read."""
        keys = [(0, i) for i in range(len(self))]  # epoch, which only augmentation uses, and index
        with ThreadPoolExecutor(max(2, min(8, os.cpu_count() or 2))) as pool:
            for i, example in enumerate(prefetch(pool, self._dataset.__getitem__, keys, depth=16)):
                if isinstance(example, Example):
                    yield i, example, self.detector.output([example.pixels])
                elif self._skip_bad:
                    self.reporter.note(f"left out: {example.message}")
                else:
                    raise DataError(f"{example.message}.\n{argument('skip_bad')} skips unreadable images.")

    def find(self, image: str | int) -> int:
        """Return the index of the image with this id or file name."""
        image, image_ids = str(image), self.annotations.image_ids
        by_id = [i for i, image_id in enumerate(image_ids.tolist()) if image == str(image_id)]
        by_number = np.flatnonzero(image_ids == int(image)).tolist() if image.removeprefix("-").isdecimal() else []
        matches = by_id or self._find_file(image) or by_number  # 000139 is image 139 only if no file has this name
        if len(matches) == 1:
            return matches[0]
        problem = "no image of the split has this id or file."
        if matches:
            problem = f"{len(matches)} images match. Give more of the path, or the id."
        raise UsageError(f"{argument('image', image)}: {problem}")

    def _find_file(self, image: str) -> list[int]:
        """Return the indices of the images whose path, with or without suffix, ends with this name."""
        paths = [self.path(i) for i in range(len(self))]
        if os.path.exists(image):
            return [i for i, path in enumerate(paths) if path.samefile(image)]
        whole = [i for i, path in enumerate(paths) if path.as_posix().endswith(f"/{image}")]
        return whole or [i for i, path in enumerate(paths) if path.with_suffix("").as_posix().endswith(f"/{image}")]

    def path(self, i: int) -> Path:
        return self.annotations.path(i)

    def file(self, i: int) -> str:
        return self.path(i).relative_to(self.annotations.folder).as_posix()

    def size(self, i: int) -> tuple[int, int]:
        """Return height and width of an image, EXIF orientation applied."""
        height, width = self.annotations.sizes[i].tolist()
        return height, width

    def placement(self, i: int) -> Placement:
        return self.detector.preprocessing.resize.place(*self.size(i))

    def annotation_ids(self, i: int) -> list[int]:  # of the image's objects
        ends = self.annotations.ends
        return self.annotations.annotation_ids[int(ends[i - 1]) if i else 0 : int(ends[i])].tolist()

    def example(self, i: int) -> Example:
        example = self._dataset[0, i]
        if isinstance(example, DataError):
            raise DataError(f"{example.message}.")
        return example

    def output(self, example: Example) -> Output:
        """Return the output of every layer, and of denoising queries, with the same random numbers each time."""
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            return self.detector.output([example.pixels], [example.target])

    def image(self, i: int) -> Image.Image:
        return open_image(self.path(i), turn=bool(self.annotations.turned[i])).image

    def boxes_in_pixels(self, i: int, boxes: torch.Tensor) -> np.ndarray:
        """Convert boxes (..., 4), cxcywh in [0, 1] of the network's input, to xyxy in pixels of an image."""
        pixels: np.ndarray = to_pixels(boxes.float(), *self.size(i), self.placement(i)).cpu().numpy()
        return pixels
