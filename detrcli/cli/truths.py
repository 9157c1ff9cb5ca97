"""The images of a split with their truth in the weights' classes, and what every layer of a model says of them."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from detrcli.cli.console import warn
from detrcli.config import LossConfig, MatchingConfig
from detrcli.data.annotations import Annotations, annotate
from detrcli.data.checks import Split
from detrcli.data.dataset import DetectionDataset, Example, UnreadableSample
from detrcli.data.images import open_picture
from detrcli.errors import DataError, UsageError
from detrcli.evaluation.class_mapping import ClassMapping
from detrcli.inference.detector import Detector, prefetch
from detrcli.structures import Classes, Output
from detrcli.training.run_folder import CONFIG
from detrcli.training.settings import settings
from detrcli.weights.load import BEST


@dataclass(frozen=True)
class InspectionSession:
    """A split as training would see it, without augmentation; labels are the weights' class indices."""

    detector: Detector
    classes: Classes  # the weights' names, with the data's ids
    annotations: Annotations
    dataset: DetectionDataset
    skip_bad: bool  # whether a picture that cannot be read ends it all

    @classmethod
    def of(
        cls, detector: Detector, split: Split, pairing: ClassMapping, *, skip_bad: bool
    ) -> "InspectionSession":
        """The usable images of a split; objects whose class the weights do not know are left out."""
        annotations = annotate(split, pairing.classes)
        if not len(annotations):
            raise DataError("There are no pictures in this split that can be used.")
        return cls(
            detector,
            pairing.classes,
            annotations,
            DetectionDataset(annotations, detector.preprocessing, augmentation="none"),
            skip_bad,
        )

    def find(self, image: str | None) -> int:
        """The place of an image by its id or its file; the first one where none is named."""
        if image is None:
            return 0
        ids = self.annotations.image_ids.tolist()
        by_id = ids.index(int(image)) if image.lstrip("-").isdecimal() and int(image) in ids else None
        if by_id is not None and image == str(ids[by_id]):
            return by_id
        named = self._named(image)
        if len(named) == 1:
            return named[0]
        if named:
            raise UsageError(
                f"--image {image}: {len(named)} pictures end so. Give more of the path, or the id."
            )
        if by_id is not None:  # 000139, where no file is called so
            return by_id
        raise UsageError(f"--image {image}: no picture of this split has that id or file.")

    def _named(self, image: str) -> list[int]:
        """The places of the images whose path ends so, or would without the file's ending."""
        paths = [self.annotations.path(i) for i in range(len(self.annotations))]
        if os.path.exists(image):
            return [i for i, path in enumerate(paths) if path.samefile(image)]
        whole, bare = (
            [i for i, path in enumerate(paths) if name(path).as_posix().endswith(f"/{image}")]
            for name in (Path, lambda path: path.with_suffix(""))
        )
        return whole or bare

    def example(self, i: int) -> Example:
        """The network's input and the objects of an image."""
        example = self.dataset[0, i]
        if isinstance(example, UnreadableSample):
            raise DataError(f"{example.message}.")
        return example

    def output(self, example: Example) -> Output:
        """What every layer says of it."""
        return self.detector.output([example.pixels])

    def picture(self, i: int) -> Image.Image:
        """The picture as it is displayed."""
        return open_picture(self.annotations.path(i), turn=bool(self.annotations.turned[i])).image

    def __iter__(self) -> Iterator[tuple[int, Example, Output]]:
        """All images with what is said of them, while the next ones are being read."""
        places = [(0, i) for i in range(len(self.annotations))]
        with ThreadPoolExecutor(max(2, min(8, os.cpu_count() or 2))) as pool:
            for i, example in enumerate(prefetch(pool, self.dataset.__getitem__, places, depth=16)):
                if isinstance(example, Example):
                    yield i, example, self.output(example)
                elif self.skip_bad:
                    warn(f"left out: {example.message}")
                else:
                    raise DataError(f"{example.message}.\n--skip-bad leaves out what cannot be read.")


def trained_with(weights: str) -> tuple[MatchingConfig, LossConfig]:
    """How a run of ours matched and charged; as published, where the weights are of no such run."""
    path = Path(weights).expanduser()
    run = path if path.is_dir() else path.parent
    if (run / CONFIG).is_file() and (run / BEST).is_file():
        chosen = settings(run / CONFIG)
        return chosen.matching_config, chosen.loss_config
    return MatchingConfig(), LossConfig()
