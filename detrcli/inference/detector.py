"""A model as one uses it: pictures in, detections out. Behind `load`, `detr predict` and what looks inside."""

import copy
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Self, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.data.batching import collate
from detrcli.data.images import MAX_PIXELS, File, OpenedImage, as_displayed, open_image
from detrcli.data.preprocessing import prepare
from detrcli.errors import NOTHING_INSIDE, DataError, UsageError
from detrcli.inference.engines import ENGINES, Engine, EngineName, PlainEngine, fastest
from detrcli.inference.postprocess import detections
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.model.inspectable import Inspectable
from detrcli.segmentation.maps import MapRequest, PanopticMap, Predicted, SemanticMap
from detrcli.structures import Classes, Detections, Output, Prediction, Target
from detrcli.system.devices import check_precision, computing_in, exact_float32, find_device
from detrcli.system.prefetch import prefetch

ImageSource = str | Path | File | Image.Image | np.ndarray


@dataclass(frozen=True)
class ImageResult:
    """What became of one picture: what was found in it, or why it could not be looked at."""

    source: ImageSource
    size: tuple[int, int] | None  # height and width as it is displayed
    detections: Detections | None  # None too where a map was asked for instead
    image: Image.Image | None = None  # RGB, where it was asked for
    notes: Sequence[str] = ()
    problem: str | None = None
    map: PanopticMap | SemanticMap | None = None  # where it was asked for


class Detector:
    """A model on a device, with all it takes to go from a picture to detections."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        precision: str = "fp32",
        model: DetectionTransformer | None = None,
        engine: EngineName | Engine | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """With the network of these weights, or with one that has them already.

        `engine` says how it is computed; one that is there already computes it without a model.
        """
        check_precision(precision, device)
        self.checkpoint, self._model = checkpoint, None
        self._parameters: int | None = None  # where there is no model any more
        if engine is None or isinstance(engine, str):
            self._model = (checkpoint.model() if model is None else model).to(device)
            # The model's own tensors: nothing is held twice.
            self.checkpoint = replace(checkpoint, tensors=self._model.state_dict())
        self._engine = engine or fastest(device, precision)
        self._note = note
        self.precision = precision
        self.device = device
        self.scoring = checkpoint.scoring
        self.segmentation = checkpoint.segmentation
        self.classes = checkpoint.classes
        self.preprocessing = checkpoint.preprocessing
        # Spent so far. Pictures are read by several threads while the network is at work.
        self.seconds = {"reading": 0.0, "network": 0.0, "postprocessing": 0.0}
        self._lock = threading.Lock()

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        device: str = "auto",
        precision: str = "fp32",
        engine: EngineName | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> Self:
        """A detector with these weights on a device by name."""
        return cls(checkpoint, find_device(device), precision, engine=engine, note=note)

    @property
    def model(self) -> DetectionTransformer:
        """The plain network."""
        if self._model is None:
            raise UsageError(NOTHING_INSIDE.format(self.checkpoint.source))
        return self._model

    @property
    def has_masks(self) -> bool:
        """Whether its queries have masks; those of exports have none."""
        return self.segmentation is not None

    @property
    def parameters(self) -> int | None:
        """How many numbers were learned; None where an export does not say."""
        if self._model is None:
            return self._parameters
        return sum(p.numel() for p in self._model.parameters())

    @cached_property
    def engine(self) -> Engine:
        """What computes the network, made ready for its first picture and then the same."""
        if not isinstance(self._engine, str):
            return self._engine
        if (make := ENGINES.get(self._engine)) is not None:
            return make(self.model, self.device, self.precision)
        from detrcli.inference.export import RUNTIMES, cached_export

        runtime = RUNTIMES[self._engine]
        if self.device.type != "cpu":
            raise UsageError(f"--engine {runtime.name} computes on the CPU: give --device cpu.")
        path = cached_export(self.checkpoint, runtime, self.precision, self._note)
        engine: Engine = runtime.code().engine(path, self.precision)
        return engine

    def without_model(self) -> Self:
        """The same detector for those who do not look inside: its engine alone, which has weights of its own."""
        engine = self.engine
        if isinstance(engine, PlainEngine) and engine.model is self._model:
            return self
        alone = copy.copy(self)
        alone._parameters, alone._model, alone._engine = self.parameters, None, engine
        alone.checkpoint = replace(self.checkpoint, tensors={})
        return alone

    def with_classes(self, classes: Classes) -> Self:
        """The same detector with other ids and names of its classes."""
        renamed = copy.copy(self)
        renamed.classes = classes
        return renamed

    def inspect(self) -> Inspectable:
        """How to look into its model."""
        return self.checkpoint.inspect(self.model)

    def detections(self, output: Output, size: tuple[int, int], layer: int = -1) -> Detections:
        """What a decoder layer says of a single picture of this (height, width)."""
        one = output.decoder.layer(layer)
        # A layer before the last has no masks.
        segmentation = None if one.masks is None else self.segmentation
        return detections(one, [size], self.classes, self.scoring, self.preprocessing, segmentation=segmentation)[0]

    @overload
    def predict(self, images: ImageSource, threshold: float = ..., batch_size: int = ...) -> Detections: ...
    @overload
    def predict(self, images: list[ImageSource], threshold: float = ..., batch_size: int = ...) -> list[Detections]: ...
    def predict(
        self, images: ImageSource | list[ImageSource], threshold: float = 0.7, batch_size: int = 1
    ) -> Detections | list[Detections]:
        """Detections with score >= threshold: of one picture, or of a list, in its order.

        A picture is a path, a Pillow image or an H x W x 3 array of uint8. One that cannot be read is a
        DataError; `stream` goes on after it.
        """
        several = images if isinstance(images, list | tuple) else [images]
        found = []
        for seen in self.stream(several, threshold, batch_size):
            if seen.detections is None:
                name = f"{seen.source}: " if isinstance(seen.source, str | Path | File) else "a picture: "
                raise DataError(name + (seen.problem or ""))
            found.append(seen.detections)
        return found if isinstance(images, list | tuple) else found[0]

    def stream(
        self,
        sources: Iterable[ImageSource],
        threshold: float = 0.7,
        batch_size: int = 1,
        max_pixels: int = MAX_PIXELS,
        *,
        keep_images: bool = False,
        maps: MapRequest | None = None,
    ) -> Iterator[ImageResult]:
        """What is seen in each picture, in their order, while the next ones are being read.

        Pictures share a batch only where their input sizes are equal, so nothing is padded and a result does
        not depend on the company, but for the rounding of another batch size. Where maps are asked for each has
        one, and detections only if they are wanted beside it.
        """
        if maps is not None:
            if self.segmentation is None:
                raise UsageError(
                    f"{self.checkpoint.source}: this model has no mask head; --format {maps.kind} needs one."
                )
            self.segmentation.check(maps, self.checkpoint.source)
        if not 0 <= threshold <= 1:
            raise UsageError(f"threshold {threshold}: it is a score between 0 and 1.")
        if batch_size < 1:
            raise UsageError(f"batch size {batch_size}: it is at least 1.")

        def read(source: ImageSource) -> tuple[ImageResult, Tensor | None]:
            began = time.perf_counter()
            try:
                picture = _open(source, max_pixels)
            except DataError as error:
                return ImageResult(source, None, None, problem=str(error)), None
            image = picture.image
            kept = image if keep_images else None
            seen = ImageResult(source, (image.height, image.width), None, kept, picture.notes)
            pixels = prepare(image, self.preprocessing)  # (3, h, w)
            self._spent("reading", began)
            return seen, pixels

        # Equal sizes are looked for among this many pictures.
        window = 1 if batch_size == 1 else 2 * batch_size
        with ThreadPoolExecutor(max(2, min(8, os.cpu_count() or 2))) as pool:
            ready = prefetch(pool, read, sources, depth=window + 2)
            while chunk := list(islice(ready, window)):
                yield from self._look(chunk, threshold, batch_size, maps)

    def _look(
        self,
        chunk: list[tuple[ImageResult, Tensor | None]],
        threshold: float,
        batch_size: int,
        asked: MapRequest | None,
    ) -> Iterator[ImageResult]:
        by_size: dict[torch.Size, list[int]] = {}
        for i, (_, pixels) in enumerate(chunk):
            if pixels is not None:
                by_size.setdefault(pixels.shape, []).append(i)

        found: dict[int, Detections] = {}
        maps: dict[int, PanopticMap | SemanticMap] = {}
        for places in by_size.values():
            for start in range(0, len(places), batch_size):
                batch = places[start : start + batch_size]
                sizes = [size for i in batch if (size := chunk[i][0].size)]
                began = time.perf_counter()
                inputs = [pixels for i in batch if (pixels := chunk[i][1]) is not None]
                prediction = self.engine(collate(inputs))
                if self.device.type == "cuda":  # else the network's time would count as what waits for it
                    torch.cuda.synchronize(self.device)
                began = self._spent("network", began)
                with exact_float32():  # masks are computed only now
                    if asked is not None:
                        maps |= zip(batch, self._maps(prediction, sizes, asked), strict=True)
                    if asked is None or asked.beside:
                        seen_in = detections(
                            prediction, sizes, self.classes, self.scoring, self.preprocessing, threshold,
                            self.segmentation,
                        )  # fmt: skip
                        found |= zip(batch, seen_in, strict=True)
                self._spent("postprocessing", began)
        for i, (seen, _) in enumerate(chunk):
            yield replace(seen, detections=found.get(i), map=maps.get(i))

    def _maps(
        self, prediction: Prediction, sizes: Sequence[tuple[int, int]], asked: MapRequest
    ) -> list[PanopticMap | SemanticMap]:
        assert self.segmentation is not None
        seen = [Predicted(prediction, i, size, self.preprocessing.resize.place(*size)) for i, size in enumerate(sizes)]
        return [self.segmentation.map_of(one, self.classes, self.scoring, asked) for one in seen]

    def _spent(self, stage: str, began: float) -> float:
        """Count the time since then for a stage; what time it is now."""
        now = time.perf_counter()
        with self._lock:
            self.seconds[stage] += now - began
        return now

    def output(self, pixels: Sequence[Tensor], targets: Sequence[Target] | None = None) -> Output:
        """What every layer of the plain model predicts for network inputs (3, h, w) of equal size.

        With their targets, what the model makes of those in training stands beside it.
        """
        with torch.inference_mode(), computing_in(self.precision, self.device):
            own = None if targets is None else [target.to(self.device) for target in targets]
            return self.model(collate(pixels).to(self.device), own)


def _open(source: ImageSource, max_pixels: int) -> OpenedImage:
    if isinstance(source, str | Path):
        source = File(Path(source))
    if isinstance(source, File):
        return open_image(source.path, max_pixels, turn=source.turn)
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
            raise DataError(f"an array of {source.dtype} {source.shape}; it must be uint8, height x width x 3")
        source = Image.fromarray(source)
    if not isinstance(source, Image.Image):
        raise DataError(f"a picture is a path, a Pillow image or an array, not {type(source).__name__}")
    return OpenedImage(as_displayed(source), [])
