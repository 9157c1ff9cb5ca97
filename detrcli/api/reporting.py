"""Why a model fails on somebody's data, and what to fix."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from detrcli.api.detector import as_detector
from detrcli.api.folds import suspects_by_folds
from detrcli.api.opening import Note, Watch, checked_split, no_note, source_of, unwatched
from detrcli.api.sessions import session_of
from detrcli.data.checks import Exif
from detrcli.data.source import DataSpec
from detrcli.data.splits import DataSource
from detrcli.errors import DataError, UsageError
from detrcli.evaluation.class_mapping import ClassMapping
from detrcli.evaluation.comparison import Difference, compared
from detrcli.evaluation.thresholds import write_thresholds
from detrcli.inference.detector import Detector
from detrcli.inspection.failures import Failures, failures_of
from detrcli.render.comparison_page import write_comparison
from detrcli.render.report_page import DEFAULT_IMAGES, write_report
from detrcli.render.report_sections import Advice, Steadiness
from detrcli.reporter import Reporter
from detrcli.training.matching_history import read
from detrcli.training.run_folder import data_of, is_run
from detrcli.training.run_status import CONFIG
from detrcli.training.settings import given_settings

THRESHOLDS = "thresholds.json"


@dataclass(frozen=True)
class Report:
    """What a model finds, misses and invents on a split, why, and which annotations are probably wrong."""

    failures: Failures
    steadiness: Steadiness | None  # of the matching, where a run was asked about
    examples: Mapping[int, int] | None  # objects of each category in the training split

    @property
    def document(self) -> dict[str, Any]:
        """All of it for programs."""
        return self.failures.document()

    def page(
        self,
        folder: str | Path,
        *,
        advice: Sequence[Advice] | None = None,
        images: int = DEFAULT_IMAGES,
        seconds: float | None = None,
    ) -> Path:
        """Write it as a page with its pictures into a folder; give the page's file."""
        folder = Path(folder)
        page = write_report(
            folder,
            self.failures,
            advice=advice,
            steadiness=self.steadiness,
            examples=self.examples,
            limit=images,
            seconds=seconds,
        )
        write_thresholds(self.failures.thresholds, folder / THRESHOLDS)
        return page

    def __str__(self) -> str:
        outcomes = self.failures.outcomes
        return (
            f"AP {self.failures.metrics['AP']:.3f}: {outcomes.found:,} of {outcomes.objects:,} objects found, "
            f"{outcomes.false_alarms:,} false alarms"
        )

    def _repr_html_(self) -> str:
        outcomes = self.failures.outcomes
        rows = {"found": outcomes.found, **{f"missed: {k}": n for k, n in outcomes.missed_by_kind.items()}} | {
            f"false alarm: {kind}": count for kind, count in outcomes.false_alarms_by_kind.items()
        }
        cells = "".join(f"<tr><th>{name}</th><td>{count:,}</td></tr>" for name, count in rows.items())
        return f"<p>{self}</p><table>{cells}</table>"


def report(
    subject: str | Path | DataSource,
    weights: "str | Path | Detector | Callable[[], Detector] | None" = None,
    *,
    split: str = "val",
    threshold: float | None = None,
    folds: int = 0,
    limit: int | None = None,
    seconds: float | None = None,
    exif: Exif | None = None,
    skip_bad: bool | None = None,
    match_classes_by_id: bool = False,
    device: str = "auto",
    note: Note = no_note,
    mapped: Callable[[ClassMapping], None] = lambda mapping: None,
    watch: Watch = unwatched,
) -> Report:
    """Why a model fails on a split: of a run (its best weights and its data), or of data and `weights`.

    Detections are what reaches `threshold`, else the score of the best F1. With `folds` the annotations of a run's
    training split are suspected by models that have not seen them, which are trained for that. It is about at most
    `limit` pictures, and as many as `seconds` allow.
    """
    run = None if isinstance(subject, DataSource) or not is_run(Path(subject)) else Path(subject)
    if folds and (run is None or split != "train"):
        raise UsageError("Folds are for the training split of a run, whose settings they are trained with.")
    spec = None if run is None else DataSpec(**data_of(run))
    source = source_of(subject, note) if spec is None else spec.open()
    # A run's pictures are read as its training read them.
    exif = exif or ("auto" if spec is None else spec.exif)
    if skip_bad is None:
        skip_bad = False if spec is None else spec.skip_bad
    checked = checked_split(source, split, exif, note, skip_bad=skip_bad)
    detector = weights() if callable(weights) else as_detector(weights or run or "detr-r50", device)
    session = session_of(
        detector,
        checked,
        skip_bad=skip_bad,
        match_classes_by_id=match_classes_by_id,
        note=note,
        mapped=mapped,
        watch=watch,
    )
    failures = failures_of(
        session,
        checked,
        split,
        learned=split == "train" and not folds,
        threshold=threshold,
        limit=limit,
        seconds=seconds,
    )
    if folds and run is not None:
        reporter = Reporter()
        reporter.show = note  # type: ignore[method-assign, assignment]
        suspects = suspects_by_folds(
            checked, folds, given_settings(run / CONFIG), load=lambda made: as_detector(made, device),
            device=device, reporter=reporter,
        )  # fmt: skip
        failures = replace(failures, suspects=suspects)
    return Report(failures, None if run is None else _steadiness(run), _examples(source, split))


@dataclass(frozen=True)
class Comparison:
    """Several models on the same split, each beside the first."""

    names: Sequence[str]
    reports: Sequence[Report]
    differences: Sequence[Difference]

    @property
    def document(self) -> dict[str, Any]:
        """All of it for programs."""
        return {
            "schema": "detr.report-compare/1",
            "models": [{"name": name, **one.document} for name, one in zip(self.names, self.reports, strict=True)],
            "differences": [one.document(self.names[0]) for one in self.differences],
        }

    def page(self, folder: str | Path, *, images: int = DEFAULT_IMAGES) -> Path:
        """Write them side by side, and the page of each in a folder of it."""
        folder = Path(folder)
        failures = [one.failures for one in self.reports]
        places = []
        for i, one in enumerate(self.reports):
            one.page(folder / str(i), images=images)
            places.append([image.image_id for image in one.failures.worst_first()[:images]])
        return write_comparison(folder, self.names, failures, self.differences, places)

    def __str__(self) -> str:
        return " ".join(one.verdict for one in self.differences)


def compare(named: Sequence[tuple[str, Report]]) -> Comparison:
    """Reports of several models on the same split, by name: better, or lucky."""
    names, reports = [name for name, _ in named], [one for _, one in named]
    truths = [one.failures.truth for one in reports]
    if any(not np.array_equal(one.image_ids, truths[0].image_ids) for one in truths):
        raise UsageError("Only reports on the same pictures can be compared.")
    found = compared(truths[0], [(name, one.failures.results) for name, one in named])
    return Comparison(names, reports, found)


def _steadiness(run: Path) -> Steadiness | None:
    """How steady the matching of a run became, where it was kept."""
    try:
        kept = read(run)
    except DataError:
        return None
    return Steadiness(kept.epochs[1:].tolist(), kept.shares)


def _examples(source: DataSource, split: str) -> dict[int, int] | None:
    """How many objects of each category the training split has, where another one is looked at."""
    if split == "train" or "train" not in source.splits:
        return None
    try:
        train = source.read("train")
    except (DataError, UsageError):
        return None
    ids, counts = np.unique(train.of_category[~train.crowd], return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))
