"""A model as one uses it: pictures in, detections out. Behind `load`, `detr predict` and what looks inside."""

import copy
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detrcli.config import Preprocessing
from detrcli.data.batching import collate
from detrcli.data.images import MAX_PIXELS, File, Picture, as_displayed, open_picture
from detrcli.data.preprocessing import prepare
from detrcli.errors import DataError, MachineError, UsageError
from detrcli.inference.postprocess import detections
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.structures import Classes, Detections, Output, Prediction
from detrcli.system.launch import launch
from detrcli.weights.load import load_weights
from detrcli.weights.weights import Weights

Source = str | Path | File | Image.Image | np.ndarray
T = TypeVar("T")
R = TypeVar("R")

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class ImageResult:
    """What became of one picture: what was found in it, or why it could not be looked at."""

    source: Source
    size: tuple[int, int] | None  # height and width as it is displayed
    detections: Detections | None
    image: Image.Image | None = None  # RGB, where it was asked for
    notes: Sequence[str] = ()
    problem: str | None = None


class Detector:
    """A model on a device, with all it takes to go from a picture to detections."""

    def __init__(
        self,
        model: DetectionTransformer,
        classes: Classes,
        preprocessing: Preprocessing,
        device: torch.device,
        precision: str = "fp32",
    ) -> None:
        if precision not in PRECISIONS:
            raise UsageError(f"precision {precision!r}: there is {', '.join(PRECISIONS)}.")
        self.model = model.to(device)
        self.classes = classes
        self.preprocessing = preprocessing
        self.device = device
        self.precision = PRECISIONS[precision]
        # Spent so far. Pictures are read by several threads while the network is at work.
        self.seconds = {"reading": 0.0, "network": 0.0, "postprocessing": 0.0}
        self._lock = threading.Lock()
        if self.precision is torch.bfloat16 and self.device.type == "cpu" and not _cpu_computes_bf16():
            warnings.warn(
                "This CPU does not compute in bf16; it imitates it, slower than fp32.", stacklevel=2
            )

    @classmethod
    def of(cls, weights: Weights, device: str = "auto", precision: str = "fp32") -> Self:
        """A detector with these weights."""
        place = find_device(device)
        return cls(weights.model(), weights.classes, weights.preprocessing, place, precision)

    def naming(self, classes: Classes) -> Self:
        """The same detector with other ids and names of its classes."""
        renamed = copy.copy(self)
        renamed.classes = classes
        return renamed

    @overload
    def predict(self, images: Source, threshold: float = ..., batch_size: int = ...) -> Detections: ...
    @overload
    def predict(
        self, images: list[Source], threshold: float = ..., batch_size: int = ...
    ) -> list[Detections]: ...
    def predict(
        self, images: Source | list[Source], threshold: float = 0.7, batch_size: int = 1
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
        sources: Iterable[Source],
        threshold: float = 0.7,
        batch_size: int = 1,
        max_pixels: int = MAX_PIXELS,
        *,
        keep_images: bool = False,
    ) -> Iterator[ImageResult]:
        """What is seen in each picture, in their order, while the next ones are being read.

        Pictures share a batch only where their input sizes are equal, so nothing is padded and a result does
        not depend on the company.
        """
        if not 0 <= threshold <= 1:
            raise UsageError(f"threshold {threshold}: it is a score between 0 and 1.")
        if batch_size < 1:
            raise UsageError(f"batch size {batch_size}: it is at least 1.")

        def read(source: Source) -> tuple[ImageResult, Tensor | None]:
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
                yield from self._look(chunk, threshold, batch_size)

    def _look(
        self, chunk: list[tuple[ImageResult, Tensor | None]], threshold: float, batch_size: int
    ) -> Iterator[ImageResult]:
        by_size: dict[torch.Size, list[int]] = {}
        for i, (_, pixels) in enumerate(chunk):
            if pixels is not None:
                by_size.setdefault(pixels.shape, []).append(i)

        found: dict[int, Detections] = {}
        for places in by_size.values():
            for start in range(0, len(places), batch_size):
                batch = places[start : start + batch_size]
                sizes = [size for i in batch if (size := chunk[i][0].size)]
                began = time.perf_counter()
                prediction = self.forward([pixels for i in batch if (pixels := chunk[i][1]) is not None])
                if self.device.type == "cuda":  # else the network's time would count as what waits for it
                    torch.cuda.synchronize(self.device)
                began = self._spent("network", began)
                found |= zip(batch, detections(prediction, sizes, self.classes, threshold), strict=True)
                self._spent("postprocessing", began)
        for i, (seen, _) in enumerate(chunk):
            yield replace(seen, detections=found[i]) if i in found else seen

    def _spent(self, stage: str, began: float) -> float:
        """Count the time since then for a stage; what time it is now."""
        now = time.perf_counter()
        with self._lock:
            self.seconds[stage] += now - began
        return now

    def forward(self, pixels: Sequence[Tensor]) -> Prediction:
        """The last layer's prediction for network inputs (3, h, w) of equal size."""
        return self.output(pixels).last

    def output(self, pixels: Sequence[Tensor]) -> Output:
        """What every layer predicts for network inputs (3, h, w) of equal size."""
        batch = collate(pixels).to(self.device)
        half = self.precision is not torch.float32
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, self.precision) if half else nullcontext(),
            exact_float32(),
        ):
            return self.model(batch)


def load(
    weights: str | Path = "detr-r50",
    device: str = "auto",
    *,
    precision: str = "fp32",
    model: str | None = None,
    sha256: str | None = None,
) -> Detector:
    """A detector from anything that `--weights` takes: a name, a file, a folder, `hf:OWNER/NAME`, a URL."""
    find_device(device)  # before anything is fetched
    return Detector.of(load_weights(str(weights), model=model, sha256=sha256), device, precision)


def prefetch(pool: Executor, work: Callable[[T], R], items: Iterable[T], depth: int) -> Iterator[R]:
    """Like `map` in a pool, but no more than `depth` items are taken before their turn."""
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            # Whoever gets the first result works on it while a second one is made.
            while len(pending) >= depth or (len(pending) > 1 and pending[0].done()):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def find_device(name: str) -> torch.device:
    """A device by name; "auto" is the first there is of cuda, mps, cpu. Each process of several has its own GPU."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, usable in there.items() if usable)
    if name.isdecimal():  # as nvidia-smi counts them
        name = f"cuda:{name}"
    if name == "cuda" and launch().world > 1:
        name = f"cuda:{launch().local}"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in there:
        raise UsageError(f"device {name!r}: there is auto, cpu, cuda, cuda:N (or N) and mps.")
    if not there[device.type] or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        usable = ", ".join(kind for kind, usable in there.items() if usable)
        raise MachineError(f"device {name!r}: there is no such device here. There is {usable}.")
    return device


@contextmanager
def exact_float32() -> Iterator[None]:
    """Float32 that is float32, without the ten bits of TF32 or the eight of bf16, and afterwards as before."""
    cudnn: Any = torch.backends.cudnn
    mkldnn: Any = torch.backends.mkldnn
    switches: tuple[Any, ...] = (
        torch.backends.cuda.matmul,
        cudnn.conv,
        cudnn.rnn,
        mkldnn.matmul,
        mkldnn.conv,
    )
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision


def _cpu_computes_bf16() -> bool:
    # Older versions of torch cannot tell; then nobody is warned.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return not capabilities or any("bf16" in name and has for name, has in capabilities.items())


def _open(source: Source, max_pixels: int) -> Picture:
    if isinstance(source, str | Path):
        source = File(Path(source))
    if isinstance(source, File):
        return open_picture(source.path, max_pixels, turn=source.turn)
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
            raise DataError(
                f"an array of {source.dtype} {source.shape}; it must be uint8, height x width x 3"
            )
        source = Image.fromarray(source)
    if not isinstance(source, Image.Image):
        raise DataError(f"a picture is a path, a Pillow image or an array, not {type(source).__name__}")
    return Picture(as_displayed(source), [])
