"""Prediction for many images: shared between processes, filtered, drawn, and written as results come."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from detrcli.api.detectors import as_detector
from detrcli.api.label_files import LABELS, LabelFormat
from detrcli.api.options import WEIGHTS, LoadOptions, Weights, load_options
from detrcli.api.prediction_files import Crops, Destination, Drawings, Item, Maps, Writer, check_names, distinct
from detrcli.api.predictions import Counts, PredictionLines, Predictions, Threshold, image_ids_from
from detrcli.api.selection import Selection
from detrcli.data.images import MAX_PIXELS, find_images
from detrcli.errors import DataError, UsageError
from detrcli.inference.detector import Detector
from detrcli.inference.stream import ImageResult
from detrcli.messages import argument
from detrcli.render.draw import DEFAULT_STYLE, DrawingStyle
from detrcli.reporter import SILENT, Reporter
from detrcli.segmentation.maps import MapKind, MapRequest
from detrcli.system import distributed
from detrcli.system.devices import find_device
from detrcli.system.files import next_free_folder
from detrcli.system.launch import launch
from detrcli.system.prefetch import prefetch

OUT = "predictions"  # default output folder, numbered

_Finished = tuple[Item, ImageResult, list[Any]]  # with the entry of each writer


@dataclass(frozen=True)
class _Output:
    """The files of a prediction."""

    writers: Sequence[Writer]
    lines: PredictionLines | None
    folder: Path | None  # None for a new one, which is created when it is needed
    detector: Detector
    weights: str
    reporter: Reporter

    @property
    def has_document(self) -> bool:
        return any(writer.has_document for writer in self.writers)

    @cached_property
    def destination(self) -> Destination:
        folder = self.folder
        if folder is None:
            folder = distributed.broadcast_object(lambda: next_free_folder(OUT))
            self.reporter.note(f"writing to {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        return Destination(folder, self.detector.classes, self.weights)

    def write(self, items: Sequence[Item], results: Iterable[ImageResult]) -> tuple[list[_Finished], Counts]:
        """Write the files of each image. Return the results that are needed later, without detections in lines, and
        count all.
        """
        finished: list[_Finished] = []
        counts, lines = Counts(), self.lines
        keep_all = lines is None or self.has_document
        progress = self.reporter.progress("predicting", len(items))
        with progress as advance, nullcontext() if lines is None else lines.writing():
            for item, result, entries in self._written(items, results):
                counts.add(result)
                if lines is not None:
                    lines.add(result)
                    result = replace(result, detections=None)
                if keep_all or result.problem:
                    finished.append((item, result, entries))
                advance(1)
                for note in (*result.notes, *([f"skipped: {result.problem}"] if result.problem else [])):
                    self.reporter.note(f"{item.path}: {note}", alone=True)
        return finished, counts

    def _written(self, items: Sequence[Item], results: Iterable[ImageResult]) -> Iterator[_Finished]:
        """Write files in threads, while the network computes. Yield the results without images and maps."""

        def finish(work: tuple[Item, ImageResult]) -> _Finished:
            item, result = work
            writers = self.writers if result.problem is None else ()
            entries = [writer.write(self.destination, item, result) for writer in writers]
            return item, replace(result, image=None, map=None), entries

        def work() -> Iterator[tuple[Item, ImageResult]]:
            for item, result in zip(items, results, strict=True):
                if self.writers and result.problem is None:
                    _ = self.destination  # created in this thread
                yield item, result

        with ThreadPoolExecutor(2) as pool:
            yield from prefetch(pool, finish, work(), depth=6)

    def finish(self, finished: Sequence[_Finished]) -> dict[str, Any] | None:
        """Write the files about all images, and return the document of maps."""
        entries = [entries for _, result, entries in finished if result.problem is None]
        document = None
        for i, writer in enumerate(self.writers):
            document = writer.finish(self.destination, [each[i] for each in entries]) or document
        return document


def predict(
    images: str | Path | Sequence[str | Path],
    weights: Weights | Detector = WEIGHTS,
    *,
    threshold: float | str | Path | None = None,
    classes: Sequence[str] | None = None,
    one_label: bool = False,
    max_detections: int | None = None,
    clip: bool = False,
    maps: MapKind | None = None,
    labels: LabelFormat | None = None,
    confidences: bool = False,
    copy_images: bool = True,
    crops: bool = False,
    draw: bool | DrawingStyle = False,
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
    - `classes` keeps only detections of these classes, by name, `one_label` only the best class of each query, and
      `max_detections` only the best of each image. `clip` clips boxes to the image, and leaves out those outside.
    - `maps` writes panoptic or semantic maps in place of detections: a PNG per image, and a JSON document.
    - `labels` writes a dataset for another tool: yolo, voc, labelstudio or fiftyone, with copies of the images unless
      `copy_images` is False. `confidences` adds scores to the labels of yolo and voc.
    - `crops` writes the image in each box, and `draw` annotated images, with a style if it is a DrawingStyle.
    - `out` is the folder for all these files, by default a new one.
    - `save` writes a JSON line per image to a file, as results come, and `resume` continues such a file.
    - `polygons` adds polygons to the masks in JSON. `ids_from` are COCO annotations with the ids of the images.

    Processes that torchrun or srun started share the images; each returns all results.
    """
    selection = Selection(threshold, classes, one_label, max_detections, clip)
    overall, by_class = selection.thresholds()
    if maps == "panoptic" and (by_class or classes is not None):
        raise UsageError(f"Panoptic maps need a single {argument('threshold')}, and no {argument('classes')}.")
    if maps == "semantic" and not (threshold is None and classes is None):
        raise UsageError(f"Semantic maps take no {argument('threshold')} and no {argument('classes')}.")
    kept = {"one_label": one_label, "max_detections": max_detections, "clip": clip}
    needed = [name for name, value in (kept | {"labels": labels, "crops": crops}).items() if value]
    if maps and needed:
        raise UsageError(f"{argument(needed[0])} needs detections, which {maps} maps replace.")
    writers: list[Writer] = [] if maps is None else [Maps(maps)]
    if labels is not None:
        if labels not in LABELS:
            raise UsageError(f"{argument('labels', labels)}: it must be {', '.join(LABELS)}.")
        writers.append(LABELS[labels](confidences, copy_images))
    if crops:
        writers.append(Crops())
    if resume and writers and (out is None or any(writer.has_document for writer in writers)):
        raise UsageError(
            f"{argument('resume')} needs {argument('out')}, the folder of the interrupted prediction."
            if out is None
            else f"{argument('resume')} continues only files of single images. {labels or maps} has a file about all."
        )
    if draw:
        style = draw if isinstance(draw, DrawingStyle) else DEFAULT_STYLE
        writers.append(Drawings(style, "annotated" if labels or crops else ""))  # apart from a dataset's images
    items = _items([images] if isinstance(images, str | Path) else images, ids_from)
    options = LoadOptions(weights.checkpoint.source) if isinstance(weights, Detector) else load_options(weights, device)
    folder = None if out is None else Path(out)
    inputs: list[str | Path] = [item.path for item in items]
    inputs += [path for path in (ids_from, threshold, options.weights) if isinstance(path, str | Path)]
    check_names(writers, items, folder, inputs, [] if save is None else [save])
    torch_device = weights.device if isinstance(weights, Detector) else find_device(options.device)
    tiling = weights.tiling if isinstance(weights, Detector) else options.tiling
    thresholds: Threshold = {"all": overall, "classes": by_class} if by_class else overall
    settings = {
        "weights": options.weights,
        "text": options.text,
        "threshold": thresholds,
        "classes": None if classes is None else list(classes),
        **kept,
        "size": options.size,
        "max_size": options.max_size,
        "polygons": polygons,
        **tiling.facts,
    }
    with distributed.joined(torch_device):
        lines = None if save is None else PredictionLines(Path(save), settings, resume=resume)
        count = len(items)  # with those done before, so that a resumed prediction uses the same engine
        items = [item for item in items if lines is None or str(item.path) not in lines.done]
        mine = items[distributed.rank() :: distributed.world_size()]
        detector = as_detector(weights, device, reporter=reporter, images=count).without_model()
        if polygons and not detector.has_masks:
            raise UsageError(f"{options.weights}: {argument('polygons')} needs a model with a mask head.")
        stream = detector.stream(
            (item.path for item in mine),
            min([overall, *by_class.values()]),
            batch_size,
            max_pixels,
            keep_images=bool(draw) or crops,
            maps=MapRequest(maps, None if threshold is None else overall) if maps else None,
        )
        minimum = selection.minimum_scores(detector.classes, overall, by_class)
        output = _Output(writers, lines, folder, detector, options.weights, reporter)
        several = distributed.world_size() > 1
        if writers and (several or output.has_document):  # else when an image has been read
            _ = output.destination
        results = (_selected(result, selection, minimum) for result in stream)
        shares = distributed.gather(output.write(mine, results))
    finished = sorted((each for share, _ in shares for each in share), key=lambda each: each[0].index)
    counts = sum((share for _, share in shares), Counts())
    used = bool(writers) and (counts.images > counts.skipped or output.has_document)
    document = output.finish(finished) if used and launch().rank == 0 else None
    returned = [(item, result) for item, result, _ in finished if lines is None or result.problem]
    return Predictions(
        weights=options.weights,
        threshold=thresholds,
        results=[result for _, result in returned],
        image_ids=[item.image_id for item, _ in returned],
        counts=counts,
        written=[*([output.destination.folder] if used else []), *([] if save is None else [Path(save)])],
        maps=document,
        polygons=polygons,
    )


def _items(images: Sequence[str | Path], ids_from: Path | None) -> list[Item]:
    """Return the images behind files, folders and patterns, with distinct names for the files written for them."""
    paths = list(find_images(map(str, images)))
    if not paths:
        raise DataError("No images were given.")
    names = distinct(relative.parent / relative.stem for _, relative in paths)
    flat = distinct(Path("_".join(name.parts)) for name in names)
    ids = range(1, len(paths) + 1) if ids_from is None else image_ids_from(ids_from, [path for path, _ in paths])
    columns = enumerate(zip(ids, paths, names, flat, strict=True))
    return [Item(i, image_id, path, name, str(flat_name)) for i, (image_id, (path, _), name, flat_name) in columns]


def _selected(result: ImageResult, selection: Selection, minimum: Mapping[int, float] | None) -> ImageResult:
    if result.detections is None or result.size is None:
        return result
    return replace(result, detections=selection.apply(result.detections, result.size, minimum))
