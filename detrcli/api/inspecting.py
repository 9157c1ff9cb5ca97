"""Inspection: where queries look, how they are matched, and what each step of a model computes."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from detrcli.api.datasets import Data, checked_split, note_class_mapping, open_dataset
from detrcli.api.loading import WEIGHTS, Weights, as_detector
from detrcli.api.predictions import rows
from detrcli.api.results import Cell, Result, Table, box_table
from detrcli.boxes import from_pixels
from detrcli.data.checks import Exif, Split
from detrcli.data.layouts.coco import Mask
from detrcli.data.preprocessing import prepare
from detrcli.data.source import Files
from detrcli.errors import DataError
from detrcli.evaluation.class_mapping import map_classes
from detrcli.evaluation.truth import classes_in_split
from detrcli.inference import DEFAULT_THRESHOLD
from detrcli.inference.detector import Detector
from detrcli.inference.stream import ImageSource, name_of, read_image
from detrcli.inspection import look as looking
from detrcli.inspection import usage as using
from detrcli.inspection import walk as walking
from detrcli.inspection.look import Kind
from detrcli.inspection.match_report import MatchReport, match_report
from detrcli.inspection.matching import GroupMatching, explain_group, false_positives, matcher_of, missed_objects
from detrcli.inspection.record import ImageRecord, Point, check_points, record_image
from detrcli.inspection.session import InspectionSession
from detrcli.inspection.tables import number
from detrcli.messages import argument
from detrcli.model.inspectable import Shape
from detrcli.render.attention_report import AttentionReport
from detrcli.render.explain_page import write_explain_page
from detrcli.render.matching_figure import matching_figure
from detrcli.render.usage_figure import instability_figure, usage_figure
from detrcli.render.viewer import attention_and_costs, view_of_matching, write_viewer_page
from detrcli.reporter import SILENT, Reporter
from detrcli.structures import Detections, QueryGroup, Target
from detrcli.system.text import normalize_name
from detrcli.training.matching_history import read
from detrcli.training.run_folder import read_rows

SEARCHED = 50  # images among which the worst is chosen, if none is named
BEST = 5  # detections that a walk lists
ROW = ("loss", "AP")  # of a training, beside its matching
WORST = 16  # cases that are listed for a split


def look(
    image: ImageSource,
    weights: Weights | Detector = WEIGHTS,
    *,
    queries: Sequence[int] | None = None,
    threshold: float = DEFAULT_THRESHOLD,
    layers: str | int = "last",
    heads: str | int = "mean",
    kind: Kind = "cross",
    points: Sequence[Point] = (),
    masks: str | Path | Sequence[Mask] | None = None,
    device: str = "auto",
    reporter: Reporter = SILENT,
) -> AttentionReport:
    """Show where a model looks in an image, by its queries or by points; see `detr guide attention`."""
    opened = read_image(image)  # before weights are downloaded
    for note in opened.notes:
        reporter.note(f"{name_of(image)}: {note}")
    check_points(points, opened.image.width, opened.image.height)
    findings = looking.look(
        as_detector(weights, device, reporter=reporter),
        image,
        queries=queries,
        threshold=threshold,
        layers=layers,
        heads=heads,
        kind=kind,
        points=points,
        masks=masks,
        reporter=reporter,
    )
    return AttentionReport(findings)


def match(
    image: ImageSource,
    boxes: Any,
    labels: Sequence[str | int],
    weights: Weights | Detector = WEIGHTS,
    *,
    device: str = "auto",
    reporter: Reporter = SILENT,
) -> GroupMatching:
    """Match the queries of a model with objects in an image: boxes xyxy in pixels, labels as names or indices."""
    detector = as_detector(weights, device, reporter=reporter)
    record = record_image(detector, image)
    known = {normalize_name(str(name)): i for i, name in enumerate(detector.classes.names)}
    indices = []
    for label in labels:
        index = known.get(normalize_name(label)) if isinstance(label, str) else int(label)
        if index is None or not 0 <= index < len(detector.classes):
            raise DataError(f"Unknown class {label!r}. The classes are {', '.join(detector.classes.names.tolist())}.")
        indices.append(index)
    xyxy = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    target = Target(torch.tensor(indices, dtype=torch.long), from_pixels(xyxy, *record.size, record.placement))
    output = record.forward.output.decoder
    return explain_group(output, target.to(detector.device), detector.checkpoint.make_loss())


def session_of(
    detector: Detector,
    split: Split,
    *,
    skip_bad: bool = False,
    match_classes_by_id: bool = False,
    reporter: Reporter = SILENT,
) -> InspectionSession:
    """Return the images of a split for inspection by a detector, with their classes matched."""
    mapping = map_classes(detector.classes, classes_in_split(split), match_classes_by_id=match_classes_by_id)
    note_class_mapping(mapping, reporter)
    return InspectionSession(detector, split, mapping, skip_bad=skip_bad, reporter=reporter)


@dataclass(frozen=True)
class RunReport:
    """How many objects changed their query between the evaluations of a training."""

    run: Path
    images: int
    targets: int
    epochs: Sequence[int]  # of the evaluations from the second on
    moved: np.ndarray  # (E, L), objects with another query than at the evaluation before
    rows: Mapping[int, Mapping[str, float | None]]  # loss and AP by epoch

    @property
    def summary(self) -> Sequence[str]:
        return [
            f"{self.run}: {self.targets:,} objects in {self.images:,} images, matched at {len(self.epochs) + 1} "
            "evaluations; the share of objects with another query than at the evaluation before"
        ]

    def tables(self) -> Sequence[Table]:
        layers = (f"layer {layer}" for layer in range(self.moved.shape[1]))
        rows: list[tuple[Cell, ...]] = [
            (epoch, *(f"{share:.1%}" for share in shares), *map(number, self.rows[epoch].values()))
            for epoch, shares in zip(self.epochs, (self.moved / self.targets).tolist(), strict=True)
        ]
        return [Table("", ("epoch", *layers, *ROW), rows)]

    def document(self) -> dict[str, Any]:
        evaluations = [
            {"epoch": epoch, "changed": moved, **self.rows[epoch]}
            for epoch, moved in zip(self.epochs, self.moved.tolist(), strict=True)
        ]
        counts = {"run": str(self.run), "images": self.images, "targets": self.targets}
        return {"schema": "detr.match-debug-run/1", **counts, "evaluations": evaluations}

    def figure(self) -> Image.Image:
        """Draw the shares by layer, loss and AP over the epochs."""
        rows = self.rows.items()
        curves = {name: [(epoch, value) for epoch, row in rows if (value := row[name]) is not None] for name in ROW}
        return instability_figure(self.epochs, self.moved / self.targets, curves)


@dataclass(frozen=True)
class Matching(Result):
    """How queries are matched in an image, a split or a training, with a figure, which notebooks show."""

    report: MatchReport | using.Usage | RunReport
    draw: Callable[[], Image.Image]  # the figure
    record: Callable[[], ImageRecord] | None = None  # makes a record of the image, for the page
    _repr_html_ = None  # type: ignore[assignment]  # in favor of the figure

    @property
    def content(self) -> Sequence[str | Table]:
        return [*self.report.summary, *self.report.tables()]

    @property
    def document(self) -> dict[str, Any]:
        return self.report.document()

    @cached_property
    def figure(self) -> Image.Image:
        """Predictions and costs of an image, a tile for each query of a split, or curves of a training."""
        return self.draw()

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """The numbers of an image by name."""
        assert isinstance(self.report, MatchReport)
        return self.report.arrays()

    def page(self, path: Path) -> None:
        """Write a page to move through the layers and queries of an image."""
        assert isinstance(self.report, MatchReport)
        assert self.record is not None
        report, record = self.report, self.record()
        queries = report.layers[-1].relevant_queries(report.threshold)
        write_viewer_page(
            path,
            "How queries are matched",
            f"{report.file}: the ground truth, what each layer predicts, and which query each object is matched to.",
            report.classes.names.tolist(),
            view_of_matching(report),
            record.image,
            attention_and_costs(record, queries, report.layers, report.cost_weights),
        )

    def _repr_png_(self) -> bytes:
        data = io.BytesIO()
        self.figure.save(data, "PNG")
        return data.getvalue()


def explain_matching(
    data: Data = None,
    weights: Weights | Detector = WEIGHTS,
    *,
    files: Files | None = None,
    image: str | int | None = None,
    whole_split: bool = False,
    run: str | Path | None = None,
    split: str = "val",
    layers: str | int = "last",
    threshold: float = DEFAULT_THRESHOLD,
    other_weights: Mapping[str, float] | None = None,
    worst: int = WORST,
    exif: Exif = "auto",
    skip_bad: bool = False,
    match_classes_by_id: bool = False,
    device: str = "auto",
    reporter: Reporter = SILENT,
) -> Matching:
    """Explain which query is matched to which object: in an image, in a `whole_split`, or during a training (`run`).

    Without `image` it is the worst of the first images. `other_weights` of the costs show which pairs they would
    change. For a split, `worst` cases are listed. See `detr guide matching`.
    """
    if run is not None:
        return _matching_of_run(Path(run))
    source = open_dataset(data, files, reporter)
    checked = checked_split(source, split, exif, skip_bad=skip_bad, reporter=reporter)
    detector = as_detector(weights, device, reporter=reporter)
    session = session_of(
        detector, checked, skip_bad=skip_bad, match_classes_by_id=match_classes_by_id, reporter=reporter
    )
    matcher_of(session.loss)  # raises UsageError if the model does not have one
    if whole_split:
        usage = using.usage(session, threshold=threshold, examples=worst)
        return Matching(usage, lambda: usage_figure(usage, session.image))
    index = _worst_image(session, threshold, reporter) if image is None else session.find(image)
    report = match_report(session, index, layers=layers, threshold=threshold, other_weights=other_weights)
    image_ = session.image(index)
    return Matching(
        report, lambda: matching_figure(report, image_), lambda: record_image(detector, image_, report.file)
    )


def _worst_image(session: InspectionSession, threshold: float, reporter: Reporter) -> int:
    """Return the image with the most missed objects and false positives among the first of a split."""
    most, worst = -1, 0
    for count, (i, example, output) in enumerate(session):
        if count == SEARCHED:
            break
        last = QueryGroup("decoder", output.decoder.logits[-1:], output.decoder.boxes[-1:])
        (layer,) = explain_group(last, example.target, session.loss, normalized=False).layers
        missed = missed_objects([layer], example.target, threshold)
        errors = len(missed) + len(false_positives(layer, example.target, threshold))
        if errors > most:
            most, worst = errors, i
    searched = f"the first {SEARCHED}" if len(session) > SEARCHED else f"{len(session)}"
    name = session.path(worst).name
    reporter.note(f"{name}: the image with most errors of {searched}; choose another with {argument('image')}")
    return worst


def _matching_of_run(run: Path) -> Matching:
    history = read(run)
    if len(history.epochs) < 2:
        raise DataError(f"{run}: matched at only one evaluation so far; a comparison needs two.")
    epochs = history.epochs[1:].tolist()
    rows: dict[int, dict[str, float | None]] = {epoch: dict.fromkeys(ROW) for epoch in epochs}
    for row in read_rows(run):
        if row["epoch"] >= epochs[0]:
            rows[int(row["epoch"])] = {name: row.get(name) for name in ROW}
    rows = dict(sorted(rows.items()))
    targets = int(history.counts.sum())
    report = RunReport(run, len(history.image_ids), targets, epochs, history.moved, rows)
    return Matching(report, report.figure)


@dataclass(frozen=True)
class Walk(Result):
    """The steps of a model for an image."""

    image: ImageSource
    detector: Detector
    width: int  # of the image as displayed
    height: int
    input_width: int
    input_height: int
    steps: Sequence[walking.Step]
    own_shapes: Sequence[Shape] | None  # without resizing; None if the model does not support that size
    detections: Detections  # of all queries, by falling score

    def page(self, path: str | Path, threshold: float = 0.5) -> None:
        """Write a page that shows the output of each step."""
        record = record_image(self.detector, self.image)
        maps = walking.feature_maps(self.detector, record.pixels)
        write_explain_page(Path(path), record, self.steps, maps, threshold)

    @property
    def best(self) -> list[dict[str, Any]]:
        """The best detections, as in JSON."""
        return list(rows(self.detections.part(np.arange(min(BEST, len(self.detections))))))

    @property
    def content(self) -> Sequence[str | Table]:
        resized = (self.input_width, self.input_height) != (self.width, self.height)
        to = f"resized to {self.input_width} x {self.input_height}" if resized else "not resized"
        own = self.own_shapes or [()] * len(self.steps)
        steps = [(s.name, _shape(s.shape), _shape(shape), s.what) for s, shape in zip(self.steps, own, strict=True)]
        count = int((self.detections.scores >= DEFAULT_THRESHOLD).sum())
        return [
            f"{name_of(self.image)}: {self.width} x {self.height} pixels, {to} for {self.detector.checkpoint.source}",
            Table("", ("step", "shape", "without resizing", "meaning"), steps),
            box_table(self.best),
            f"Boxes are in pixels from the top left. {count} of {len(self.detections)} predictions have a score of "
            f"{DEFAULT_THRESHOLD} or more, and are detections for `detr predict`.",
        ]

    @property
    def document(self) -> dict[str, Any]:
        steps = [
            {
                "step": step.name,
                "shape": list(step.shape),
                "shape_at_own_size": None if self.own_shapes is None else list(self.own_shapes[i]),
                "what": step.what,
            }
            for i, step in enumerate(self.steps)
        ]
        facts = {"file": name_of(self.image), "weights": self.detector.checkpoint.source}
        size = {"width": self.width, "height": self.height}
        return {"schema": "detr.explain/1", **facts, **size, "steps": steps, "best": self.best}


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def walk(
    image: ImageSource, weights: Weights | Detector = WEIGHTS, *, device: str = "auto", reporter: Reporter = SILENT
) -> Walk:
    """Return the steps of a model with their shapes for an image, and its detections."""
    opened = read_image(image).image  # before weights are downloaded
    detector = as_detector(weights, device, reporter=reporter)
    detections = detector.predict(opened, threshold=0)
    pixels = prepare(opened, detector.preprocessing).to(detector.device)  # (3, h, w)
    _, height, width = pixels.shape
    return Walk(
        image=image,
        detector=detector,
        width=opened.width,
        height=opened.height,
        input_width=width,
        input_height=height,
        steps=walking.walk(detector, pixels),
        own_shapes=walking.shapes_at(detector, opened.height, opened.width),
        detections=detections.part(np.argsort(-detections.scores, kind="stable")),
    )
