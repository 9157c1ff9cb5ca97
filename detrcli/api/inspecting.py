"""Inspection: where queries look, how they are matched, and what each step of a model computes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from detrcli.api.datasets import checked_split, match_classes
from detrcli.api.detectors import as_detector
from detrcli.api.options import WEIGHTS, Data, Weights, data_options
from detrcli.api.predictions import rows
from detrcli.api.results import PlainResult, Table, box_table
from detrcli.boxes import from_pixels
from detrcli.data.checks import Split
from detrcli.data.layouts.coco import Mask
from detrcli.data.preprocessing import prepare
from detrcli.data.source import open_data
from detrcli.errors import DataError
from detrcli.inference import DEFAULT_THRESHOLD
from detrcli.inference.detector import Detector
from detrcli.inference.stream import ImageSource, name_of, read_image
from detrcli.inference.tiles import Tiling
from detrcli.inspection.look import Kind, inspect_attention
from detrcli.inspection.match_report import MatchReport, match_report
from detrcli.inspection.matching import GroupMatching, explain_group, false_positives, matcher_of, missed_objects
from detrcli.inspection.record import ImageRecord, Point, check_points, record_image
from detrcli.inspection.session import InspectionSession
from detrcli.inspection.tables import number
from detrcli.inspection.usage import query_usage
from detrcli.inspection.walk import Step, feature_maps, shapes_at, trace_steps
from detrcli.messages import argument
from detrcli.model.inspectable import Shape
from detrcli.render.attention_report import AttentionReport
from detrcli.render.data_figures import ground_truth_figure
from detrcli.render.draw import png, save
from detrcli.render.explain_page import write_explain_page
from detrcli.render.matching_figures import instability_figure, matching_figure, usage_figure
from detrcli.render.viewer import attention_and_costs, view_of_matching, write_viewer_page
from detrcli.reporter import SILENT, Reporter
from detrcli.structures import Detections, QueryGroup, Target
from detrcli.system.text import normalize_name
from detrcli.training.matching_history import read
from detrcli.training.run_folder import read_rows

SEARCHED_IMAGES = 50  # among which the worst is shown if none is given
LISTED_DETECTIONS = 5  # by `detr explain`
RUN_COLUMNS = ("loss", "AP")  # of metrics.csv, shown beside the matching of a training run
WORST_CASES = 16  # of a split, listed by default


def show_data(
    data: str | Path,
    out: str | Path,
    split: str = "train",
    *,
    images: int = 16,
    augmented_size: int | None = None,
    masks: bool = False,
    seed: int = 0,
) -> None:
    """Draw random images of a split with their boxes, or masks, augmented for training at `augmented_size`."""
    save(ground_truth_figure(open_data(Path(data)), split, images, seed, augmented_size, masks=masks), Path(out))


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
    findings = inspect_attention(
        as_detector(weights, device, reporter=reporter), image, queries=queries, threshold=threshold, layers=layers,
        heads=heads, kind=kind, points=points, masks=masks, reporter=reporter,
    )  # fmt: skip
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
    detector: Detector, split: Split, *, skip_bad: bool = False, by_id: bool = False, reporter: Reporter = SILENT
) -> InspectionSession:
    """Open a split for inspection with a detector, with its classes mapped to those of the weights."""
    mapping = match_classes(detector.classes, split, by_id=by_id, reporter=reporter)
    return InspectionSession(detector, split, mapping, skip_bad=skip_bad, reporter=reporter)


@dataclass(frozen=True, kw_only=True)
class Matching(PlainResult):
    """How queries are matched in an image, a split or a training run, with a figure, which notebooks show."""

    draw: Callable[[], Image.Image]  # the figure
    report: MatchReport | None = None  # of an image
    record: Callable[[], ImageRecord] | None = None  # runs the model again, for the page
    _repr_html_ = None  # type: ignore[assignment]  # in favor of the figure

    @cached_property
    def figure(self) -> Image.Image:
        """Predictions and costs of an image, a tile for each query of a split, or curves of a training run."""
        return self.draw()

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """The numbers of an image by name."""
        assert self.report is not None
        return self.report.arrays()

    def page(self, path: Path) -> None:
        """Write a page to move through the layers and queries of an image."""
        assert self.report is not None
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
        return png(self.figure)


def explain_matching(
    data: Data | None = None,
    weights: Weights | Detector = WEIGHTS,
    *,
    image: str | int | None = None,
    whole_split: bool = False,
    run: str | Path | None = None,
    split: str = "val",
    layers: str | int = "last",
    threshold: float = DEFAULT_THRESHOLD,
    other_weights: Mapping[str, float] | None = None,
    worst: int = WORST_CASES,
    match_classes_by_id: bool = False,
    device: str = "auto",
    reporter: Reporter = SILENT,
) -> Matching:
    """Explain which query is matched to which object: in an image, in a `whole_split`, or during training (`run`).

    Without `image`, the one with the most errors among the first images is shown. The result tells which pairs
    `other_weights` of the costs would change. For a split, `worst` cases are listed. See `detr guide matching`.
    """
    if run is not None:
        return _matching_of_run(Path(run))
    options = data_options(data)
    checked = checked_split(options, split, reporter=reporter)
    detector = as_detector(weights, device, reporter=reporter)
    session = session_of(detector, checked, skip_bad=options.skip_bad, by_id=match_classes_by_id, reporter=reporter)
    matcher_of(session.loss)  # raises UsageError if the model has no matcher
    if whole_split:
        usage = query_usage(session, threshold=threshold, examples=worst)
        content: Sequence[str | Table] = [*usage.summary, *usage.tables()]
        return Matching(content, usage.document(), draw=lambda: usage_figure(usage, session.image))
    index = _worst_image(session, threshold, reporter) if image is None else session.find(image)
    report = match_report(session, index, layers=layers, threshold=threshold, other_weights=other_weights)
    image_ = session.image(index)
    return Matching(
        [*report.summary, *report.tables()],
        report.document(),
        draw=lambda: matching_figure(report, image_),
        report=report,
        record=lambda: record_image(detector, image_, report.file),
    )


def _worst_image(session: InspectionSession, threshold: float, reporter: Reporter) -> int:
    """Return the image with the most missed objects and false positives among the first of a split."""
    most_errors, worst = -1, 0
    for count, (i, example, output) in enumerate(session):
        if count == SEARCHED_IMAGES:
            break
        last = QueryGroup("decoder", output.decoder.logits[-1:], output.decoder.boxes[-1:])
        (layer,) = explain_group(last, example.target, session.loss, normalized=False).layers
        missed = missed_objects([layer], example.target, threshold)
        errors = len(missed) + len(false_positives(layer, example.target, threshold))
        if errors > most_errors:
            most_errors, worst = errors, i
    searched = f"the first {SEARCHED_IMAGES}" if len(session) > SEARCHED_IMAGES else f"{len(session)}"
    name = session.path(worst).name
    reporter.note(f"{name}: the image with the most errors of {searched}; choose another with {argument('image')}")
    return worst


def _matching_of_run(run: Path) -> Matching:
    """Return how many objects were matched to another query at each evaluation of a run than at the one before."""
    history = read(run)
    if len(history.epochs) < 2:
        raise DataError(f"{run}: matched at only one evaluation so far; a comparison needs two.")
    epochs, targets, images = history.epochs[1:].tolist(), int(history.counts.sum()), len(history.image_ids)
    rows_by_epoch: dict[int, dict[str, float | None]] = {epoch: dict.fromkeys(RUN_COLUMNS) for epoch in epochs}
    for row in read_rows(run):
        if row["epoch"] >= epochs[0]:
            rows_by_epoch[int(row["epoch"])] = {name: row.get(name) for name in RUN_COLUMNS}
    rows_by_epoch = dict(sorted(rows_by_epoch.items()))
    shares = history.moved / targets  # (E, L)
    curves = {
        name: [(epoch, value) for epoch, row in rows_by_epoch.items() if (value := row[name]) is not None]
        for name in RUN_COLUMNS
    }
    table = [
        (epoch, *(f"{share:.1%}" for share in of_layers), *map(number, rows_by_epoch[epoch].values()))
        for epoch, of_layers in zip(epochs, shares.tolist(), strict=True)
    ]
    evaluations = [
        {"epoch": epoch, "changed": moved, **rows_by_epoch[epoch]}
        for epoch, moved in zip(epochs, history.moved.tolist(), strict=True)
    ]
    return Matching(
        [
            f"{run}: {targets:,} objects in {images:,} images, matched at {len(epochs) + 1} evaluations; the share of "
            "objects with another query than at the previous evaluation",
            Table("", ("epoch", *(f"layer {layer}" for layer in range(shares.shape[1])), *RUN_COLUMNS), table),
        ],
        {
            "schema": "detr.match-debug-run/1",
            "run": str(run),
            "images": images,
            "targets": targets,
            "evaluations": evaluations,
        },
        draw=lambda: instability_figure(epochs, shares, curves),
    )


@dataclass(frozen=True, kw_only=True)
class Walk(PlainResult):
    """The steps of a model for an image."""

    image: ImageSource
    detector: Detector
    steps: Sequence[Step]
    own_shapes: Sequence[Shape] | None  # without resizing the image; None if the model does not support its size
    detections: Detections  # of all queries, by descending score

    def page(self, path: str | Path, threshold: float = 0.5) -> None:
        """Write a page that shows the output of each step."""
        record = record_image(self.detector, self.image)
        maps = feature_maps(self.detector, record.pixels)
        write_explain_page(Path(path), record, self.steps, maps, threshold)


def walk(
    image: ImageSource, weights: Weights | Detector = WEIGHTS, *, device: str = "auto", reporter: Reporter = SILENT
) -> Walk:
    """Return the steps of a model with their shapes for an image, and its detections."""
    opened = read_image(image).image  # before weights are downloaded
    detector = as_detector(weights, device, reporter=reporter)
    detections = detector.with_tiling(Tiling()).predict(opened, threshold=0)
    detections = detections.part(np.argsort(-detections.scores, kind="stable"))
    pixels = prepare(opened, detector.preprocessing).to(detector.device)  # (3, H, W)
    steps, shapes = trace_steps(detector, pixels), shapes_at(detector, opened.height, opened.width)
    name, source, (_, height, width) = name_of(image), detector.checkpoint.source, pixels.shape
    resized = "not resized" if (width, height) == opened.size else f"resized to {width} x {height}"
    best = list(rows(detections.part(np.arange(min(LISTED_DETECTIONS, len(detections))))))
    count = int((detections.scores >= DEFAULT_THRESHOLD).sum())
    table = [
        (step.name, _shape(step.shape), _shape(own), step.meaning)
        for step, own in zip(steps, shapes or [()] * len(steps), strict=True)
    ]
    entries = [
        {
            "step": step.name,
            "shape": list(step.shape),
            "shape_at_own_size": None if shapes is None else list(shapes[i]),
            "what": step.meaning,
        }
        for i, step in enumerate(steps)
    ]
    facts = {"file": name, "weights": source, "width": opened.width, "height": opened.height}
    return Walk(
        [
            f"{name}: {opened.width} x {opened.height} pixels, {resized} for {source}",
            Table("", ("step", "shape", "without resizing", "meaning"), table),
            box_table(best),
            f"Boxes are in pixels from the top left. {count} of {len(detections)} predictions have a score of "
            f"{DEFAULT_THRESHOLD} or more, and are detections for `detr predict`.",
        ],
        {"schema": "detr.explain/1", **facts, "steps": entries, "best": best},
        image=image,
        detector=detector,
        steps=steps,
        own_shapes=shapes,
        detections=detections,
    )


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
