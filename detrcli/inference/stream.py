"""Prediction for a stream of images, which threads read ahead and which are batched by size."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from detrcli.data.images import MAX_PIXELS, File, OpenedImage, as_displayed, open_image
from detrcli.errors import DataError
from detrcli.inference.tiles import Tile
from detrcli.segmentation.maps import PanopticMap, SemanticMap
from detrcli.structures import Detections
from detrcli.system.prefetch import prefetch

ImageSource = str | Path | File | Image.Image | np.ndarray


@dataclass(frozen=True)
class ImageResult:
    """The result for one image: its detections, or the reason it was skipped."""

    source: ImageSource
    size: tuple[int, int] | None  # height and width of the image as displayed
    detections: Detections | None  # None if the image was skipped or only a map was requested
    image: Image.Image | None = None  # RGB, if requested
    notes: Sequence[str] = ()
    problem: str | None = None
    map: PanopticMap | SemanticMap | None = None  # if requested


@dataclass(frozen=True)
class View:
    """An image, or a tile of it, as the network's input."""

    image: ImageResult  # without detections
    pixels: Tensor | None  # (3, h, w); None if the image could not be read
    tile: Tile | None = None  # None for the whole image
    last: bool = True  # whether it is the image's last

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of the image."""
        if self.tile is not None:
            return self.tile.bottom - self.tile.top, self.tile.right - self.tile.left
        assert self.image.size is not None
        return self.image.size


def name_of(source: ImageSource) -> str:
    """Return the path of an image, or "image" if it has none."""
    return str(source) if isinstance(source, str | Path | File) else "image"


def read_image(source: ImageSource) -> OpenedImage:
    """Decode an image. Raises DataError if that fails; the message contains the path."""
    try:
        return decode(source)
    except DataError as error:
        raise DataError(f"{name_of(source)}: {error.message}.") from None


def decode(source: ImageSource, max_pixels: int = MAX_PIXELS) -> OpenedImage:
    """Decode an image. Raises DataError if that fails; the message does not contain the path."""
    if isinstance(source, str | Path):
        source = File(Path(source))
    if isinstance(source, File):
        return open_image(source.path, max_pixels, turn=source.turn)
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
            raise DataError(f"an array of {source.dtype} {source.shape}; it must be uint8, height x width x 3")
        source = Image.fromarray(source)
    if not isinstance(source, Image.Image):
        raise DataError(f"an image is a path, a Pillow image or an array, not {type(source).__name__}")
    return OpenedImage(as_displayed(source), [])


def stream(
    sources: Iterable[ImageSource],
    read: Callable[[ImageSource], Sequence[Callable[[], View]]],
    predict: Callable[[list[View]], list[ImageResult]],
    merge: Callable[[list[tuple[View, ImageResult]]], ImageResult],
    batch_size: int,
    *,
    tiled: bool,
) -> Iterator[ImageResult]:
    """Yield the results in the order of the sources, while the next images are being read.

    `read` decodes an image, and returns functions that make the views of it. `predict` gets views of equal input size,
    so that nothing is padded. They are collected from a window of 2 * batch_size views. `merge` gets the results of all
    views of an image.
    """
    window = 1 if batch_size == 1 else 2 * batch_size
    with ThreadPoolExecutor(max(2, min(8, os.cpu_count() or 2))) as pool:
        # Images that will be divided are kept until their last tile is made, so only few are read ahead.
        images = prefetch(pool, read, sources, depth=2 if tiled else window + 2)
        makers = chain.from_iterable(images)
        views = prefetch(pool, _call, makers, depth=window + 2) if tiled else map(_call, makers)
        of_image: list[tuple[View, ImageResult]] = []
        while chunk := list(islice(views, window)):
            for view, result in zip(chunk, _predict_by_size(chunk, predict, batch_size), strict=True):
                of_image.append((view, result))
                if view.last:
                    yield merge(of_image)
                    of_image = []


def _call(make: Callable[[], View]) -> View:
    return make()


def _predict_by_size(
    views: Sequence[View], predict: Callable[[list[View]], list[ImageResult]], batch_size: int
) -> list[ImageResult]:
    by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, view in enumerate(views):
        if view.pixels is not None:
            by_size[tuple(view.pixels.shape)].append(i)
    results = [view.image for view in views]
    for indices in by_size.values():
        for start in range(0, len(indices), batch_size):
            batch = indices[start : start + batch_size]
            for i, result in zip(batch, predict([views[i] for i in batch]), strict=True):
                results[i] = result
    return results
