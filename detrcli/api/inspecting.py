"""Looking inside: where queries look, how the matching decided, a picture's way through the model."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detrcli.api.detector import Text, as_detector
from detrcli.api.opening import Note, Watch, checked_split, no_note, source_of, unwatched
from detrcli.api.sessions import session_of
from detrcli.data.checks import Exif
from detrcli.data.images import File
from detrcli.data.masks import Mask
from detrcli.data.preprocessing import prepare
from detrcli.data.splits import DataSource
from detrcli.errors import DataError, UsageError
from detrcli.evaluation.class_mapping import ClassMapping
from detrcli.inference.detector import Detector, ImageSource
from detrcli.inspection import report
from detrcli.inspection import usage as using
from detrcli.inspection import walk as walking
from detrcli.inspection.explained import matcher_of
from detrcli.inspection.look import record_picture
from detrcli.inspection.maps import Point
from detrcli.inspection.matching import explain_matching as explain_layers
from detrcli.inspection.mistakes import extra, missed
from detrcli.inspection.session import InspectionSession
from detrcli.inspection.tables import Cell, Table, number
from detrcli.model.inspectable import Shape
from detrcli.render import attention_report
from detrcli.render.attention_report import AttentionReport, Kind
from detrcli.render.explain_page import write_explain_page
from detrcli.render.instability_figure import instability_figure
from detrcli.render.matching_figure import matching_figure
from detrcli.render.usage_figure import usage_figure
from detrcli.render.viewer import inside_of, write_viewer_page
from detrcli.render.views import view_of_matching
from detrcli.structures import Detections, QueryGroup
from detrcli.training.matching_history import read
from detrcli.training.run_folder import read_rows

WORST_OF = 50  # pictures among which the worst is looked for, where none is named


def look(
    picture: ImageSource,
    weights: "str | Path | Detector" = "detr-r50",
    *,
    queries: Sequence[int] | None = None,
    threshold: float = 0.7,
    layers: str | int = "last",
    heads: str | int = "mean",
    kind: Kind = "cross",
    points: Sequence[Point] = (),
    masks: str | Path | Sequence[Mask] | None = None,
    text: Text = None,
    device: str = "auto",
    advance: Callable[[], None] = lambda: None,
) -> AttentionReport:
    """Where a model looks in a picture; see `detr guide attention`."""
    return attention_report.look(
        as_detector(weights, device, text),
        picture,
        queries=queries,
        threshold=threshold,
        layers=layers,
        heads=heads,
        kind=kind,
        points=points,
        masks=masks,
        advance=advance,
    )


class _Drawn:
    """What a notebook shows as its figure."""

    figure: Any

    def _repr_png_(self) -> bytes:
        data = io.BytesIO()
        self.figure.save(data, "PNG")
        return data.getvalue()


@dataclass(frozen=True)
class ImageMatching(_Drawn):
    """How the matching decided on one image."""

    report: report.MatchReport
    picture: Image.Image
    detector: Detector

    @property
    def summary(self) -> Sequence[str]:
        """What the tables are about."""
        return self.report.summary

    @property
    def tables(self) -> Sequence[Table]:
        """All of it for people."""
        return self.report.tables()

    @property
    def document(self) -> dict[str, Any]:
        """All of it for programs."""
        return self.report.document()

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """The numbers by name."""
        return self.report.arrays()

    @cached_property
    def figure(self) -> Image.Image:
        """Ground truth joined to predictions, beside the costs that decided."""
        return matching_figure(self.report, self.picture)

    def page(self, path: Path) -> None:
        """Write a page to walk through layers and queries."""
        found = self.report
        record = record_picture(self.detector, self.picture, found.file)
        queries = found.layers[-1].that_matter(found.threshold)
        write_viewer_page(
            path,
            "How the matching decided",
            f"{found.file}: the ground truth, what each layer predicts, and which query each object is matched to.",
            view_of_matching(found, record.nothing),
            self.picture,
            inside_of(record, queries, found.layers, found.cost_weights),
        )


@dataclass(frozen=True)
class DataMatching(_Drawn):
    """What the queries of a model are used for over a split."""

    usage: using.Usage
    session: InspectionSession

    @property
    def summary(self) -> Sequence[str]:
        """What the tables are about."""
        return self.usage.summary

    @property
    def tables(self) -> Sequence[Table]:
        """All of it for people."""
        return self.usage.tables()

    @property
    def document(self) -> dict[str, Any]:
        """All of it for programs."""
        return self.usage.document()

    @cached_property
    def figure(self) -> Image.Image:
        """A tile for each query, and the objects with the largest losses."""
        return usage_figure(self.usage, self.session.picture)


@dataclass(frozen=True)
class RunMatching(_Drawn):
    """How steady the matching became in a training."""

    run: Path
    images: int
    targets: int
    epochs: Sequence[int]  # of the evaluations from the second on
    moved: np.ndarray  # (E, L), objects with another query than at the evaluation before
    rows: Mapping[int, Mapping[str, float | None]]  # loss and AP by epoch

    @property
    def summary(self) -> Sequence[str]:
        """What the table is about."""
        return [
            f"{self.run}: {self.targets:,} objects in {self.images:,} pictures, matched at {len(self.epochs) + 1} "
            "evaluations; how many have another query than the time before"
        ]

    @property
    def tables(self) -> Sequence[Table]:
        """All of it for people."""
        layers = self.moved.shape[1]
        rows: list[tuple[Cell, ...]] = [
            (
                epoch,
                *(f"{share:.1%}" for share in shares),
                *(number(self.rows.get(epoch, {}).get(name)) for name in ("loss", "AP")),
            )
            for epoch, shares in zip(self.epochs, (self.moved / self.targets).tolist(), strict=True)
        ]
        return [Table("", ("epoch", *(f"layer {layer}" for layer in range(layers)), "loss", "AP"), rows)]

    @property
    def document(self) -> dict[str, Any]:
        """All of it for programs."""
        return {
            "schema": "detr.match-debug-run/1",
            "run": str(self.run),
            "images": self.images,
            "targets": self.targets,
            "evaluations": [
                {
                    "epoch": epoch,
                    "changed": moved,
                    "loss": self.rows.get(epoch, {}).get("loss"),
                    "AP": self.rows.get(epoch, {}).get("AP"),
                }
                for epoch, moved in zip(self.epochs, self.moved.tolist(), strict=True)
            ],
        }

    @cached_property
    def figure(self) -> Image.Image:
        """The shares by layer, loss and AP against epochs."""
        curves = {
            name: [(epoch, value) for epoch, row in self.rows.items() if (value := row.get(name)) is not None]
            for name in ("loss", "AP")
        }
        return instability_figure(self.epochs, self.moved / self.targets, curves)


def explain_matching(
    data: str | Path | DataSource | None = None,
    weights: "str | Path | Detector | Callable[[], Detector]" = "detr-r50",
    *,
    image: str | int | None = None,
    whole_split: bool = False,
    run: str | Path | None = None,
    split: str = "val",
    layers: str | int = "last",
    threshold: float = 0.7,
    other_weights: Mapping[str, float] | None = None,
    most: int = 16,
    exif: Exif = "auto",
    skip_bad: bool = False,
    match_classes_by_id: bool = False,
    device: str = "auto",
    note: Note = no_note,
    mapped: Callable[[ClassMapping], None] = lambda mapping: None,
    watch: Watch = unwatched,
) -> ImageMatching | DataMatching | RunMatching:
    """How the matching decided, and why: on one image, on a `whole_split`, or in a training (`run`).

    See `detr guide matching`. A function as `weights` makes the detector once the data has been found good.
    """
    if run is not None:
        return _matching_of_run(Path(run))
    if data is None:
        raise UsageError("Give data, or a run.")
    checked = checked_split(source_of(data, note), split, exif, note, skip_bad=skip_bad)
    detector = weights() if callable(weights) else as_detector(weights, device)
    session = session_of(
        detector, checked, skip_bad=skip_bad, match_classes_by_id=match_classes_by_id, note=note, mapped=mapped
    )
    matcher_of(session.loss)  # which must be known
    if whole_split:
        with watch(len(session)) as advance:
            return DataMatching(using.usage(session, threshold=threshold, most=most, advance=advance), session)
    place = _worst(session, threshold, note) if image is None else session.find(image)
    found = report.match_report(session, place, layers=layers, threshold=threshold, other_weights=other_weights)
    return ImageMatching(found, session.picture(place), detector)


def _worst(session: InspectionSession, threshold: float, note: Note) -> int:
    """The image in which most went wrong: missed objects and false positives of the first pictures of a split."""
    matcher, worst, place = matcher_of(session.loss), -1, 0
    for looked_at, (i, example, output) in enumerate(session):
        if looked_at == WORST_OF:
            break
        last = QueryGroup("decoder", output.decoder.logits[-1:], output.decoder.boxes[-1:])
        (layer,) = explain_layers(last, example.target, matcher, session.loss.scoring)
        wrong = len(missed([layer], example.target, threshold)) + len(extra(layer, example.target, threshold))
        if wrong > worst:
            worst, place = wrong, i
    among = f"the first {WORST_OF}" if len(session) > WORST_OF else f"{len(session)}"
    note(f"{session.path(place).name}: of {among} pictures, that in which most went wrong; --image names another")
    return place


def _matching_of_run(run: Path) -> RunMatching:
    kept = read(run)
    if len(kept.epochs) < 2:
        raise DataError(f"{run}: its matching was kept once so far; it takes two evaluations to compare.")
    epochs = kept.epochs[1:].tolist()
    rows = {
        int(row["epoch"]): {name: row.get(name) for name in ("loss", "AP")}
        for row in read_rows(run)
        if row["epoch"] >= epochs[0]
    }
    return RunMatching(run, len(kept.image_ids), int(kept.counts.sum()), epochs, kept.moved, rows)


@dataclass(frozen=True)
class Walk:
    """A picture's way through a model."""

    width: int  # of the picture as it is displayed
    height: int
    input_width: int
    input_height: int
    stops: Sequence[walking.Step]
    own_shapes: Sequence[Shape] | None  # without resizing; None where the model cannot take that size
    found: Detections  # of all queries, by falling score
    picture: ImageSource
    detector: Detector

    def page(self, path: str | Path, threshold: float = 0.5) -> None:
        """Write it as a page: what the model makes of the picture at each step."""
        record = record_picture(self.detector, self.picture)
        maps = walking.feature_maps(self.detector, record.pixels)
        write_explain_page(Path(path), record, self.stops, maps, threshold)

    def __str__(self) -> str:
        return "\n".join(f"{stop.name}: {' x '.join(map(str, stop.shape))}: {stop.what}" for stop in self.stops)

    def _repr_html_(self) -> str:
        from html import escape

        rows = "".join(
            f"<tr><td>{escape(stop.name)}</td><td>{' x '.join(map(str, stop.shape))}</td>"
            f"<td>{escape(stop.what)}</td></tr>"
            for stop in self.stops
        )
        return f"<table>{rows}</table>"


def walk(picture: ImageSource, weights: "str | Path | Detector" = "detr-r50", *, device: str = "auto") -> Walk:
    """The stages of a model with their shapes for a picture, and what is found in the end."""
    detector = as_detector(weights, device)
    (seen,) = detector.stream([picture], threshold=0, keep_images=True)
    image, found = seen.image, seen.detections
    if image is None or found is None:
        raise DataError(f"{picture if isinstance(picture, str | Path | File) else 'a picture'}: {seen.problem}.")
    pixels = prepare(image, detector.preprocessing).to(detector.device)  # (3, h, w)
    _, height, width = pixels.shape
    return Walk(
        width=image.width,
        height=image.height,
        input_width=width,
        input_height=height,
        stops=walking.walk(detector, pixels),
        own_shapes=walking.shapes_at(detector, image.height, image.width),
        found=found.part(np.argsort(-found.scores, kind="stable")),
        picture=picture,
        detector=detector,
    )
