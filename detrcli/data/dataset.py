"""A split as examples for training: the network's input and its targets, alone and in batches."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from detrcli.boxes import from_pixels
from detrcli.config import Preprocessing
from detrcli.data.annotations import Annotations
from detrcli.data.augmentation import Augmentation, Sample, augment, make_sample, mask_pixels, mosaic
from detrcli.data.images import open_image
from detrcli.data.preprocessing import collate, prepare
from detrcli.errors import DataError
from detrcli.structures import Batch, Target
from detrcli.system.distributed import mix_seeds

BYTES_PER_PIXEL = 4  # of a decoded image in Pillow's memory
MIN_MOSAIC_SIDE = 8  # pixels


@dataclass(frozen=True)
class Example:
    pixels: Tensor  # (3, h, w), normalized
    target: Target
    image_id: int


class DetectionDataset(Dataset[Example | DataError]):
    """The images of a split, augmented or prepared as for prediction.

    It is indexed by (epoch, i). The augmentation of image i depends on the seed, the epoch and i only, so that the
    same loader processes serve all epochs. The error for an unreadable image is returned, since a loader process
    would add its traceback to the message of an exception.
    """

    def __init__(
        self,
        annotations: Annotations,
        preprocessing: Preprocessing,
        *,
        augmentation: Augmentation,
        seed: int = 0,
        cache_bytes: int = 0,
    ) -> None:
        """Decoded images are cached if all of the split fit into `cache_bytes`."""
        self.annotations = annotations
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.seed = seed
        self._caches = BYTES_PER_PIXEL * int(annotations.sizes.long().prod(1).sum()) <= cache_bytes
        self._cache: dict[int, Image.Image] = {}

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: tuple[int, int]) -> Example | DataError:
        epoch, i = index
        generator = torch.Generator().manual_seed(mix_seeds(self.seed, epoch, i))
        try:
            sample = self._mosaic(i, generator) if self.augmentation == "strong" else self._sample(i)
            sample, preprocessing = augment(sample, self.preprocessing, generator, self.augmentation)
            pixels, target = to_input(sample, preprocessing, exact=self.augmentation == "none")
        except DataError as error:
            return error.with_traceback(None)  # whose frames would keep images in memory
        except ValueError as error:  # in a segmentation
            return DataError(f"{self.annotations.path(i)}: {error}")
        return Example(pixels, target, int(self.annotations.image_ids[i]))

    def _sample(self, i: int) -> Sample:
        a, image = self.annotations, self._cache.get(i)
        if image is None:
            try:
                image = open_image(a.path(i), turn=bool(a.turned[i])).image
            except DataError as error:
                raise DataError(f"{a.path(i)}: {error}") from None
            if (image.height, image.width) != tuple(a.sizes[i].tolist()):
                raise DataError(f"{a.path(i)}: its size has changed since the data was checked")
            if self._caches:
                self._cache[i] = image
        return make_sample(image, a.objects(i), a.masks(i))

    def _mosaic(self, i: int, generator: torch.Generator) -> Sample:
        """Return, with probability 1/2, a mosaic of the image and three others."""
        first = self._sample(i)
        if torch.rand((), generator=generator) < 0.5 or min(first.image.size) < MIN_MOSAIC_SIDE:
            return first
        others = torch.randint(len(self), (3,), generator=generator).tolist()
        return mosaic([first, *map(self._sample, others)], first.image.width, first.image.height, generator)


def to_input(sample: Sample, preprocessing: Preprocessing, *, exact: bool = True) -> tuple[Tensor, Target]:
    """Return the network's input (3, h, w) for a sample, and its targets in that input."""
    height, width = sample.image.height, sample.image.width
    placement = preprocessing.resize.place(height, width)
    boxes = from_pixels(sample.boxes, height, width, placement)
    masks = None
    if sample.masks is not None:
        scale = placement.image_width / width, placement.image_height / height
        placed = [mask.resized(*scale).moved(placement.left, placement.top) for mask in sample.masks]
        masks = mask_pixels(placed, placement.height, placement.width)
    return prepare(sample.image, preprocessing, exact=exact), Target(**{**sample.objects, "boxes": boxes}, masks=masks)


class Examples(NamedTuple):
    """A batch with its targets. torch's DataLoader pins the memory of a tuple's items."""

    batch: Batch
    targets: list[Target]
    image_ids: list[int]


def collate_examples(examples: Sequence[Example | DataError]) -> Examples | DataError:
    readable: list[Example] = []
    for example in examples:
        if isinstance(example, DataError):
            return example
        readable.append(example)
    return Examples(
        collate([example.pixels for example in readable]),
        [example.target for example in readable],
        [example.image_id for example in readable],
    )


def raise_unreadable(batches: Iterable[Examples | DataError]) -> Iterator[Examples]:
    """Yield a loader's batches. Raises DataError for an unreadable image."""
    try:
        for batch in batches:
            if isinstance(batch, DataError):
                raise batch
            yield batch
    except (ConnectionError, EOFError) as error:  # a worker was killed while it sent a batch
        raise RuntimeError(f"DataLoader worker (pid unknown) is killed: {error}") from error
