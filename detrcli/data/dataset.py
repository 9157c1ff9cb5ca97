"""A split as the network's input: pictures and targets, one by one and in batches."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from detrcli.boxes import from_pixels
from detrcli.config import Preprocessing
from detrcli.data.annotations import Annotations
from detrcli.data.augmentation import Augmentation, Sample, augment, mosaic, sample
from detrcli.data.batching import collate
from detrcli.data.images import open_picture
from detrcli.data.preprocessing import prepare
from detrcli.errors import DataError
from detrcli.structures import Batch, Target
from detrcli.system.distributed import mix_seeds

BYTES_PER_PIXEL = 4  # of a decoded picture in Pillow's memory
LEAST_MOSAIC = 8  # pixels of a side, below which there is nothing to put together


@dataclass(frozen=True)
class Example:
    """A picture for the network, with what is to be found in it."""

    pixels: Tensor  # (3, h, w), normalised
    target: Target
    image_id: int


@dataclass(frozen=True)
class UnreadableSample:
    """A picture that could not be read, on its way from a loader's process to one where it can be told."""

    message: str


class DetectionDataset(Dataset[Example | UnreadableSample]):
    """The pictures of a split: as `detr predict` sees them, or augmented.

    What is asked for is (epoch, i). What augmentation does to picture i depends on the seed, the epoch and i
    alone, and not on who loads it when; so one set of loader processes serves all epochs.
    """

    def __init__(
        self,
        annotations: Annotations,
        preprocessing: Preprocessing,
        *,
        augmentation: Augmentation,
        seed: int = 0,
        keep: int = 0,
    ) -> None:
        """With `keep`, decoded pictures stay in memory where all of the split fit into so many bytes."""
        self.annotations = annotations
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.seed = seed
        needed = BYTES_PER_PIXEL * int(annotations.sizes.long().prod(1).sum())
        self._keeps = needed <= keep
        self._kept: dict[int, Image.Image] = {}

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, place: tuple[int, int]) -> Example | UnreadableSample:
        epoch, i = place
        chance = torch.Generator().manual_seed(mix_seeds(self.seed, epoch, i))
        try:
            seen = self._mosaic(i, chance) if self.augmentation == "strong" else self._sample(i)
        except DataError as error:
            return UnreadableSample(str(error))
        seen, preprocessing = augment(seen, self.preprocessing, chance, self.augmentation)
        exact = self.augmentation == "none"
        try:
            pixels, target = to_input(seen, preprocessing, exact=exact)
        except ValueError as error:  # of an outline
            return UnreadableSample(f"{self.annotations.path(i)}: {error}")
        return Example(pixels, target, int(self.annotations.image_ids[i]))

    def _sample(self, i: int) -> Sample:
        image = self._kept.get(i) or self._open(i)
        if self._keeps:
            self._kept[i] = image
        return sample(image, self.annotations.objects(i), self.annotations.masks(i))

    def _open(self, i: int) -> Image.Image:
        a, path = self.annotations, self.annotations.path(i)
        try:
            image = open_picture(path, turn=bool(a.turned[i])).image
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        if (image.height, image.width) != tuple(a.sizes[i].tolist()):
            raise DataError(f"{path}: its size has changed since the data was checked")
        return image

    def _mosaic(self, i: int, chance: torch.Generator) -> Sample:
        """Every second time a picture with three others around it."""
        first = self._sample(i)
        if torch.rand((), generator=chance) < 0.5 or min(first.image.size) < LEAST_MOSAIC:
            return first
        others = torch.randint(len(self), (3,), generator=chance).tolist()
        return mosaic([first, *map(self._sample, others)], first.image.width, first.image.height, chance)


def to_input(seen: Sample, preprocessing: Preprocessing, *, exact: bool = True) -> tuple[Tensor, Target]:
    """A picture as the network's input (3, h, w), and its objects, with boxes in [0, 1] of that input."""
    height, width = seen.image.height, seen.image.width
    placement = preprocessing.resize.place(height, width)
    boxes = from_pixels(seen.boxes, height, width, placement)
    masks = seen.masks
    if masks is not None:
        resized = masks.resized(placement.picture_width / width, placement.picture_height / height)
        masks = resized.moved(placement.left, placement.top)
    return prepare(seen.image, preprocessing, exact=exact), Target(
        **{**seen.objects, "boxes": boxes},
        masks=None if masks is None else masks.pixels(placement.height, placement.width),
    )


@dataclass(frozen=True)
class Examples:
    """A batch with its targets."""

    batch: Batch
    targets: list[Target]
    image_ids: list[int]

    def pin_memory(self) -> "Examples":
        """The same in memory that a GPU reads by itself; a loader asks for it by this name."""
        targets = [target.pin_memory() for target in self.targets]
        return Examples(self.batch.pin_memory(), targets, self.image_ids)


def collate_examples(examples: Sequence[Example | UnreadableSample]) -> Examples | UnreadableSample:
    """The collate function of a loader."""
    whole = [example for example in examples if isinstance(example, Example)]
    if len(whole) < len(examples):
        return next(example for example in examples if isinstance(example, UnreadableSample))
    return Examples(
        collate([example.pixels for example in whole]),
        [example.target for example in whole],
        [example.image_id for example in whole],
    )


def unbroken(batches: Iterable[Examples | UnreadableSample]) -> Iterator[Examples]:
    """A loader's batches; a broken picture is an error here, with its file's name and no loader's traceback."""
    for batch in batches:
        if isinstance(batch, UnreadableSample):
            raise DataError(batch.message)
        yield batch
