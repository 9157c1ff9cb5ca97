"""A model on a device: from images to detections."""

import copy
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Self, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detrcli.boxes import clip_boxes, to_pixels
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.config import Preprocessing
from detrcli.data.images import MAX_PIXELS
from detrcli.data.preprocessing import collate, prepare
from detrcli.errors import EXPORT_ONLY_PREDICTS, NOT_FINITE, DataError, DivergedError, UsageError
from detrcli.inference import DEFAULT_THRESHOLD, EngineName
from detrcli.inference.auto import MIN_IMAGES, AutoEngine, has_openvino
from detrcli.inference.engines import ENGINES, Engine, PlainEngine, fastest
from detrcli.inference.export import RUNTIMES, cached_export
from detrcli.inference.merging import JOINED_SCORE, merge
from detrcli.inference.stream import ImageResult, ImageSource, View, decode, name_of, stream
from detrcli.inference.tiles import Tile, Tiling
from detrcli.losses.scoring import Scoring
from detrcli.messages import argument
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.model.inspectable import Inspectable
from detrcli.reporter import SILENT, Reporter
from detrcli.segmentation.maps import ImagePrediction, MapRequest, Segmentation
from detrcli.structures import Classes, Detections, Output, Prediction, Target
from detrcli.system.devices import check_precision, computing_in, exact_float32, find_device


class Detector:
    """A model on a device, with its classes and preprocessing."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device | str = "auto",
        precision: str = "fp32",
        model: DetectionTransformer | None = None,
        engine: EngineName | Engine | None = None,
        images: int | None = None,
        reporter: Reporter = SILENT,
    ) -> None:
        """Create the network of a checkpoint, or use `model`, which has these weights already.

        `engine` is the name of an engine, by default the fastest for the device, or an Engine, for which no model is
        created. `images` is the number of images to come, by which the engine `auto` decides.
        """
        self.device = find_device(device) if isinstance(device, str) else device
        check_precision(precision, self.device)
        self.checkpoint = checkpoint
        self._model: DetectionTransformer | None = None
        self.parameters: int | None = None  # number of parameters; None for an exported model
        if not callable(engine):
            self._model = (checkpoint.model() if model is None else model).to(self.device)
            self.parameters = sum(p.numel() for p in self._model.parameters())
            # The model's own tensors, so that no weight is held twice.
            self.checkpoint = replace(checkpoint, tensors=self._model.state_dict())
        # Exports compute the masks of all queries, other engines those of detections.
        faster = checkpoint.segmentation is None and precision != "fp16" and has_openvino()
        choice = self.device.type == "cpu" and faster
        if engine is None or (engine == "auto" and not (choice and (images is None or images >= MIN_IMAGES))):
            engine = fastest(self.device, precision)
        self._engine = engine
        self._images = images
        self._reporter = reporter
        self.precision = precision
        self.scoring, self.segmentation = checkpoint.scoring, checkpoint.segmentation
        self.classes, self.preprocessing = checkpoint.classes, checkpoint.preprocessing
        self.clips_boxes = checkpoint.clips_boxes
        self.tiling = Tiling()
        # Total time by stage. Images are read by several threads while the network computes.
        self.seconds = {"reading": 0.0, "network": 0.0, "postprocessing": 0.0}
        self._lock = threading.Lock()

    @property
    def model(self) -> DetectionTransformer:
        """The plain network. Raises UsageError for an exported model."""
        if self._model is None:
            raise UsageError(EXPORT_ONLY_PREDICTS.format(self.checkpoint.source))
        return self._model

    @property
    def has_masks(self) -> bool:
        """Whether detections have masks."""
        return self.segmentation is not None

    @cached_property
    def engine(self) -> Engine:
        """The engine that computes the network, prepared when it is first used."""
        if not isinstance(self._engine, str):
            return self._engine
        if self._engine == "auto":
            return AutoEngine(self.checkpoint, self.model, self.precision, self._images, self._reporter)
        if self._engine in ENGINES:
            return ENGINES[self._engine](self.model, self.device, self.precision)
        if self.device.type != "cpu":
            raise UsageError(
                f"{argument('engine', self._engine)} computes on the CPU. Use it with {argument('device', 'cpu')}."
            )
        runtime = RUNTIMES[self._engine]
        path = cached_export(self.checkpoint, runtime, self.precision, self._reporter)
        return runtime.open(path, self.precision)

    def without_model(self) -> Self:
        """Return the detector with only its engine, so that the plain model can be freed unless the engine uses it."""
        engine = self.engine
        if isinstance(engine, PlainEngine) and engine.model is self._model:
            return self
        alone = copy.copy(self)
        alone._model, alone._engine = None, engine
        alone.checkpoint = replace(self.checkpoint, tensors={})
        return alone

    def with_classes(self, classes: Classes) -> Self:
        """Return the detector with other ids and names for its classes."""
        renamed = copy.copy(self)
        renamed.classes = classes
        return renamed

    def with_tiling(self, tiling: Tiling) -> Self:
        """Return the detector with other tiles and another suppression of duplicates in `predict` and `stream`."""
        tiled = copy.copy(self)
        tiled.tiling = tiling
        return tiled

    def inspect(self) -> Inspectable:
        """Return the interface to the stages and the attention of the plain model."""
        return self.checkpoint.inspect(self.model)

    def detections(self, output: Output, size: tuple[int, int], layer: int = -1) -> Detections:
        """Return the detections of a decoder layer for a single image of this (height, width)."""
        prediction = output.decoder.layer(layer)
        # Only the last layer has masks.
        segmentation = None if prediction.masks is None else self.segmentation
        return self._detections(prediction, [size], 0.0, segmentation)[0]

    def _detections(
        self,
        prediction: Prediction,
        sizes: Sequence[tuple[int, int]],
        threshold: float,
        segmentation: Segmentation | None,
    ) -> list[Detections]:
        return detections(
            prediction,
            sizes,
            self.classes,
            self.scoring,
            self.preprocessing,
            threshold,
            segmentation,
            clip=self.clips_boxes,
        )

    @overload
    def predict(self, images: ImageSource, threshold: float = ..., batch_size: int = ...) -> Detections: ...
    @overload
    def predict(self, images: list[ImageSource], threshold: float = ..., batch_size: int = ...) -> list[Detections]: ...
    def predict(
        self, images: ImageSource | list[ImageSource], threshold: float = DEFAULT_THRESHOLD, batch_size: int = 1
    ) -> Detections | list[Detections]:
        """Return the detections with score >= threshold of an image, or of each image of a list.

        An image is a path, a Pillow image or an H x W x 3 array of uint8. Raises DataError for an image that cannot be
        read; `stream` skips it instead.
        """
        sources = images if isinstance(images, list | tuple) else [images]
        results = []
        for result in self.stream(sources, threshold, batch_size):
            if result.detections is None:
                raise DataError(f"{name_of(result.source)}: {result.problem}")
            results.append(result.detections)
        return results if sources is images else results[0]

    def stream(
        self,
        sources: Iterable[ImageSource],
        threshold: float = DEFAULT_THRESHOLD,
        batch_size: int = 1,
        max_pixels: int = MAX_PIXELS,
        *,
        keep_images: bool = False,
        maps: MapRequest | None = None,
    ) -> Iterator[ImageResult]:
        """Yield the result of each image in the order of the sources, while the next images are being read.

        Only images and tiles of equal input size share a batch, so a result does not depend on the other images,
        except for rounding in another batch size. With `maps` each result has a map, and detections only if `maps`
        requests both.
        """
        if maps is not None:
            self._check_maps(maps)
        if not 0 <= threshold <= 1:
            raise UsageError(f"{argument('threshold', threshold)}: a score is between 0 and 1.")
        if batch_size < 1:
            raise UsageError(f"{argument('batch_size', batch_size)}: it must be at least 1.")

        def read(source: ImageSource) -> Sequence[Callable[[], View]]:
            start = time.perf_counter()
            try:
                opened = decode(source, max_pixels)
                image = opened.image
                tiles = self.tiling.of(image.height, image.width)
            except DataError as error:
                unread = View(ImageResult(source, None, None, problem=str(error)), None)
                return [lambda: unread]
            kept = image if keep_images else None
            result = ImageResult(source, (image.height, image.width), None, kept, opened.notes)
            whole = View(result, prepare(image, self.preprocessing), last=not tiles)
            self._add_time("reading", start)
            return [lambda: whole, *(partial(cut, whole.image, image, tile, tile is tiles[-1]) for tile in tiles)]

        def cut(result: ImageResult, image: Image.Image, tile: Tile, last: bool) -> View:
            start = time.perf_counter()
            pixels = prepare(image.crop(tile), self.preprocessing)
            self._add_time("reading", start)
            return View(result, pixels, tile, last)

        tiled = self.tiling.tiles is not None
        lowest = threshold * JOINED_SCORE if tiled else threshold  # parts with such scores are joined to better ones
        return stream(
            sources,
            read,
            lambda batch: self._predict_batch(batch, lowest, maps),
            lambda views: self._merged(views, threshold),
            batch_size,
            tiled=tiled,
        )

    def _check_maps(self, maps: MapRequest) -> None:
        """Raise UsageError if the model cannot compute the maps."""
        if self.segmentation is None:
            raise UsageError(f"{self.checkpoint.source}: {maps.kind} maps need a model with a mask head.")
        self.segmentation.check(maps, self.checkpoint.source)
        if self.tiling.tiles is not None:
            raise UsageError(
                f"{argument('tiles')} is for detections: {maps.kind} maps of tiles cannot be merged to a map of the "
                "image, because each tile has its own segments."
            )
        if self.tiling.nms is not None and not maps.with_detections:
            raise UsageError(f"{argument('nms')} is for detections: {maps.kind} maps have no duplicates.")

    def _merged(self, views: Sequence[tuple[View, ImageResult]], threshold: float) -> ImageResult:
        """Merge the results of an image and its tiles."""
        (_, result), *others = views
        if result.detections is None or result.size is None or not self.tiling.merges:
            return result
        start = time.perf_counter()
        tiles = [(v.tile, part.detections) for v, part in others if v.tile is not None and part.detections is not None]
        merged = merge(result.detections, tiles, result.size, self.checkpoint.config.queries, self.tiling.nms)
        if threshold > 0:
            merged = merged.part(merged.scores >= threshold)
            merged = merged.part(np.argsort(-merged.scores, kind="stable"))
        self._add_time("postprocessing", start)
        return replace(result, detections=merged)

    def _predict_batch(self, batch: list[View], threshold: float, maps: MapRequest | None) -> list[ImageResult]:
        results = [view.image for view in batch]
        sizes = [view.size for view in batch]
        start = time.perf_counter()
        prediction = self.engine(collate([view.pixels for view in batch if view.pixels is not None]))
        if self.device.type == "cuda":  # otherwise the network's time would count as postprocessing
            torch.cuda.synchronize(self.device)
        start = self._add_time("network", start)
        with exact_float32():  # masks are computed only now
            if maps is not None and self.segmentation is not None:
                for i, size in enumerate(sizes):
                    image = ImagePrediction(prediction, i, size, self.preprocessing.resize.place(*size))
                    map_ = self.segmentation.map_of(image, self.classes, self.scoring, maps)
                    results[i] = replace(results[i], map=map_)
            if maps is None or maps.with_detections:
                batch_detections = self._detections(prediction, sizes, threshold, self.segmentation)
                results = [replace(result, detections=d) for result, d in zip(results, batch_detections, strict=True)]
        self._add_time("postprocessing", start)
        return results

    def _add_time(self, stage: str, start: float) -> float:
        """Add the time since `start` to a stage, and return the current time."""
        now = time.perf_counter()
        with self._lock:
            self.seconds[stage] += now - start
        return now

    def output(self, pixels: Sequence[Tensor], targets: Sequence[Target] | None = None) -> Output:
        """Return the output of all layers of the plain model for network inputs (3, h, w) of equal size.

        With targets, it contains the query groups that training makes from targets, such as denoising queries.
        """
        with torch.inference_mode(), computing_in(self.precision, self.device):
            if targets is not None:
                targets = [target.to(self.device) for target in targets]
            return self.model(collate(pixels).to(self.device), targets)


@torch.no_grad()
def detections(
    prediction: Prediction,
    sizes: Sequence[tuple[int, int]],
    classes: Classes,
    scoring: Scoring,
    preprocessing: Preprocessing,
    threshold: float = 0.0,
    segmentation: Segmentation | None = None,
    *,
    clip: bool = False,
) -> list[Detections]:
    """Return the detections of each image with score >= threshold, by descending score.

    `sizes` are the (height, width) of the images in pixels. With a threshold of 0, everything that the scoring selects
    is returned, in its order. Detections have masks if a segmentation is given. With `clip` boxes are clipped to the
    image.
    """
    selection = scoring.select(prediction.logits)
    results = []
    for i, (height, width) in enumerate(sizes):
        queries, labels = selection.queries[i].cpu().numpy(), selection.labels[i].cpu().numpy()  # (D,)
        scores = selection.scores[i].float().cpu().numpy()
        placement = preprocessing.resize.place(height, width)
        pixels = to_pixels(prediction.boxes[i].float(), height, width, placement)  # (Q, 4), xyxy
        boxes = (clip_boxes(pixels, height, width) if clip else pixels).cpu().numpy()
        if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
            raise DivergedError(NOT_FINITE)
        kept = np.flatnonzero(scores >= threshold)
        result = Detections(
            boxes=boxes[queries[kept]],
            scores=scores[kept],
            category_ids=classes.ids[labels[kept]],
            queries=queries[kept],
            labels=classes.names[labels[kept]],
        )
        if segmentation is not None:
            predicted = ImagePrediction(prediction, i, (height, width), placement)
            result = segmentation.with_masks(result, predicted, threshold)
        if threshold > 0:
            result = result.part(np.argsort(-result.scores, kind="stable"))
        results.append(result)
    return results
