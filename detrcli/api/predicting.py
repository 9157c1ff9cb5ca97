"""Prediction for many images: shared between processes, filtered, drawn, and written as results come."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from detrcli.api.detectors import as_detector
from detrcli.api.options import WEIGHTS, LoadOptions, Weights, load_options
from detrcli.api.predictions import (
    PredictionLines,
    Predictions,
    Threshold,
    image_ids_from,
    write_map,
    write_map_document,
)
from detrcli.checkpoints.coco import UNUSED
from detrcli.data.images import MAX_PIXELS, find_images
from detrcli.errors import DataError, UsageError
from detrcli.evaluation.thresholds import read_thresholds
from detrcli.inference import DEFAULT_THRESHOLD
from detrcli.inference.detector import Detector
from detrcli.inference.stream import ImageResult
from detrcli.messages import argument
from detrcli.render import draw as drawing
from detrcli.reporter import SILENT, Reporter
from detrcli.segmentation.maps import MapKind, MapRequest
from detrcli.structures import Classes
from detrcli.system import distributed
from detrcli.system.devices import find_device
from detrcli.system.files import next_free_folder
from detrcli.system.launch import launch
from detrcli.system.prefetch import prefetch
from detrcli.system.text import normalize_name

OUT = "predictions"  # default folder for annotated images and maps, numbered
JPEG = frozenset({".jpg", ".jpeg", ".jpe", ".jfif"})


@dataclass(frozen=True)
class _Item:
    """An image to predict."""

    index: int
    image_id: int
    path: Path
    drawing: Path  # the annotated image, relative to the output folder
    map: Path  # relative to the folder of maps


_Finished = tuple[_Item, ImageResult, list[dict[str, Any]]]  # with the segments of its map


@dataclass
class _Output:
    """The files of a prediction: annotated images, maps and JSON lines."""

    draw: bool
    maps: MapKind | None
    folder: Path | None  # of images and maps; created when it is needed
    reporter: Reporter

    def check_not_inputs(self, items: Sequence[_Item], ids_from: Path | None) -> None:
        """Raise UsageError if a file would be written over an input."""
        if self.folder is None:
            return
        inputs = {os.path.realpath(path) for path in (*(item.path for item in items), ids_from) if path is not None}
        outputs = [self.folder / item.drawing for item in items] if self.draw else []
        if self.maps:
            outputs += [self.folder / f"{self.maps}.json", *(self.folder / self.maps / item.map for item in items)]
        for path in outputs:
            if os.path.realpath(path) in inputs:
                raise UsageError(f"{path} is an input, and would be overwritten. Choose another {argument('out')}.")

    def create_folder(self) -> Path:
        """Choose a new folder, unless there is one."""
        if self.folder is None:
            self.folder = distributed.broadcast_object(lambda: next_free_folder(OUT))
            self.reporter.note(f"writing to {self.folder}")
        return self.folder

    def write(
        self, items: Sequence[_Item], results: Iterable[ImageResult], classes: Classes, lines: PredictionLines | None
    ) -> tuple[list[_Finished], int]:
        """Write all files of the results. Return the results, of `lines` only those without a prediction, and count
        the objects.
        """
        kept: list[_Finished] = []
        objects = 0
        progress = self.reporter.progress("predicting", len(items))
        with progress as advance, nullcontext() if lines is None else lines.writing():
            for item, result, segments in self._written(items, results, classes):
                objects += len(result.detections or ())
                if lines is not None:
                    lines.add(result)
                if lines is None or result.problem:
                    kept.append((item, result, segments))
                advance(1)
                for note in (*result.notes, *([f"skipped: {result.problem}"] if result.problem else [])):
                    self.reporter.note(f"{item.path}: {note}", alone=True)
        return kept, objects

    def _written(self, items: Sequence[_Item], results: Iterable[ImageResult], classes: Classes) -> Iterator[_Finished]:
        """Write images and maps in threads, while the network computes. Yield the results without these."""

        def finish(work: tuple[_Item, ImageResult]) -> _Finished:
            item, result = work
            image, map_, segments = result.image, result.map, []
            if image is not None and map_ is not None:
                drawing.save(drawing.draw_map(image, map_), self.create_folder() / item.drawing)
            elif image is not None and result.detections is not None:
                drawing.save(drawing.draw_detections(image, result.detections), self.create_folder() / item.drawing)
            if self.maps is not None and map_ is not None:
                segments = write_map(map_, self.create_folder() / self.maps / item.map, classes)
            return item, replace(result, image=None, map=None), segments

        def work() -> Iterator[tuple[_Item, ImageResult]]:
            for item, result in zip(items, results, strict=True):
                if result.image is not None:
                    self.create_folder()
                yield item, result

        with ThreadPoolExecutor(2) as pool:
            yield from prefetch(pool, finish, work(), depth=6)


def predict(
    images: str | Path | Sequence[str | Path],
    weights: Weights | Detector = WEIGHTS,
    *,
    threshold: float | str | Path | None = None,
    classes: Sequence[str] | None = None,
    maps: MapKind | None = None,
    draw: bool = False,
    out: str | Path | None = None,
    save: Path | None = None,
    resume: bool = False,
    polygons: bool = False,
    ids_from: Path | None = None,
    batch_size: int = 1,
    max_pixels: int = MAX_PIXELS,
    device: str = "auto",
    reporter: Reporter = SILENT,
) -> Predictions:
    """Predict images, files, folders (recursively) and glob patterns. Images that cannot be read are skipped.

    - `threshold` is a score, by default 0.7, or a file of thresholds by class that `detr eval` wrote.
    - `classes` keeps only detections of these classes, by name.
    - `maps` writes panoptic or semantic maps in place of detections: a PNG per image, and a JSON document.
    - `draw` writes annotated images. `out` is the folder for these and the maps, by default a new one.
    - `save` writes a JSON line per image to a file, as results come, and `resume` continues such a file.
    - `polygons` adds polygons to the masks in JSON. `ids_from` are COCO annotations with the ids of the images.

    Processes that torchrun or srun started share the images; each returns all results.
    """
    overall, by_class = _thresholds(threshold)
    if maps == "panoptic" and (by_class or classes is not None):
        raise UsageError(f"Panoptic maps need a single {argument('threshold')}, and no {argument('classes')}.")
    if maps == "semantic" and not (threshold is None and classes is None):
        raise UsageError(f"Semantic maps take no {argument('threshold')} and no {argument('classes')}.")
    items = _items([images] if isinstance(images, str | Path) else images, ids_from)
    output = _Output(draw, maps, None if out is None else Path(out), reporter)
    output.check_not_inputs(items, ids_from)
    options = LoadOptions(weights.checkpoint.source) if isinstance(weights, Detector) else load_options(weights, device)
    torch_device = weights.device if isinstance(weights, Detector) else find_device(options.device)
    thresholds: Threshold = {"all": overall, "classes": by_class} if by_class else overall
    settings = {
        "weights": options.weights,
        "text": options.text,
        "threshold": thresholds,
        "classes": None if classes is None else list(classes),
        "size": options.size,
        "max_size": options.max_size,
        "polygons": polygons,
    }
    with distributed.joined(torch_device):
        lines = None if save is None else PredictionLines(Path(save), settings, resume=resume)
        items = [item for item in items if lines is None or str(item.path) not in lines.done]
        mine = items[distributed.rank() :: distributed.world_size()]
        detector = as_detector(weights, device, reporter=reporter).without_model()
        if polygons and not detector.has_masks:
            raise UsageError(f"{options.weights}: {argument('polygons')} needs a model with a mask head.")
        stream = detector.stream(
            (item.path for item in mine),
            min([overall, *by_class.values()]),
            batch_size,
            max_pixels,
            keep_images=draw,
            maps=MapRequest(maps, None if threshold is None else overall) if maps else None,
        )
        minimum = _minimum_scores(detector.classes, overall, by_class, classes)
        if maps or (draw and distributed.world_size() > 1):  # otherwise when an image has been read
            output.create_folder()
        results = (_filtered(result, minimum) for result in stream)
        shares = distributed.gather(output.write(mine, results, detector.classes, lines))
    finished = sorted((each for share, _ in shares for each in share), key=lambda each: each[0].index)
    document = None
    if maps and output.folder is not None and launch().rank == 0:
        entries = [
            (item.image_id, result, {"file_name": item.map.as_posix(), "segments_info": segments})
            for item, result, segments in finished
            if result.problem is None
        ]
        document = write_map_document(output.folder / f"{maps}.json", entries, detector.classes)
    return Predictions(
        weights=options.weights,
        threshold=thresholds,
        results=[result for _, result, _ in finished],
        images=len(items),
        objects=sum(count for _, count in shares),
        image_ids=[item.image_id for item, *_ in finished],
        maps=document,
        polygons=polygons,
    )


def _items(images: Sequence[str | Path], ids_from: Path | None) -> list[_Item]:
    """Return the images behind files, folders and patterns, with distinct names for the files written for them.

    An annotated JPEG stays a JPEG; other formats become PNG, which is lossless.
    """
    paths = list(find_images(map(str, images)))
    if not paths:
        raise DataError("No images were given.")
    names = [relative for _, relative in paths]
    maps = [name.with_suffix(".png") for name in names]
    drawings = [name if name.suffix.lower() in JPEG else name.with_suffix(".png") for name in names]
    ids = range(1, len(paths) + 1) if ids_from is None else image_ids_from(ids_from, [path for path, _ in paths])
    columns = zip(ids, paths, _distinct(drawings), _distinct(maps), strict=True)
    return [_Item(i, image_id, path, *outputs) for i, (image_id, (path, _), *outputs) in enumerate(columns)]


def _distinct(names: Iterable[Path]) -> list[Path]:
    """Append a number to names that occurred before."""
    distinct: dict[Path, None] = {}
    for name in names:
        path, number = name, 1
        while path in distinct:
            number += 1
            path = name.with_name(f"{name.stem}-{number}{name.suffix}")
        distinct[path] = None
    return list(distinct)


def _thresholds(threshold: float | str | Path | None) -> tuple[float, dict[str, float]]:
    """Return the threshold for all classes, and those of single classes by normalized name."""
    if threshold is None:
        return DEFAULT_THRESHOLD, {}
    if isinstance(threshold, str | Path) and os.path.isfile(path := Path(threshold).expanduser()):
        return read_thresholds(path)
    with suppress(ValueError):
        score = float(str(threshold))
        if 0 <= score <= 1:
            return score, {}
    raise UsageError(
        f"{argument('threshold', threshold)}: it must be a score between 0 and 1, or a file of thresholds from "
        "`detr eval`."
    )


def _minimum_scores(
    classes: Classes, overall: float, by_class: Mapping[str, float], names: Sequence[str] | None
) -> Mapping[int, float] | None:
    """Return the minimum score by class id, infinite for unwanted classes; None if there is nothing to filter."""
    if names is None and not by_class:
        return None
    keys = {int(id_): normalize_name(name) for id_, name in zip(classes.ids, classes.names.tolist(), strict=True)}
    minimum = {id_: by_class.get(key, overall) if by_class else 0.0 for id_, key in keys.items()}
    if names is not None:
        wanted = {normalize_name(name): name.strip() for name in names if name.strip()}
        unknown = [name for key, name in wanted.items() if key not in keys.values()]
        if unknown or not wanted:
            known = ", ".join(dict.fromkeys(name for name in classes.names.tolist() if name != UNUSED))
            problem = f"the weights have no class {', '.join(unknown)}" if unknown else "no class is named"
            raise UsageError(f"{argument('classes')}: {problem}. The classes are {known}.")
        minimum = {id_: score if keys[id_] in wanted else inf for id_, score in minimum.items()}
    return minimum


def _filtered(result: ImageResult, minimum: Mapping[int, float] | None) -> ImageResult:
    if minimum is None or result.detections is None:
        return result
    scores = np.array([minimum[id_] for id_ in result.detections.category_ids.tolist()])
    return replace(result, detections=result.detections.part(result.detections.scores >= scores))
