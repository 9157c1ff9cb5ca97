"""Reports on failures: why a model fails on a split, how models compare, and what is probably wrong."""

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from detrcli.api.datasets import checked_split, open_dataset
from detrcli.api.detectors import as_detector
from detrcli.api.evaluating import Comparison
from detrcli.api.inspecting import session_of
from detrcli.api.options import WEIGHTS, Data, DataOptions, Weights, data_options
from detrcli.api.results import PlainResult, Result, Table
from detrcli.api.runs import run_training
from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.checks import Split
from detrcli.data.examine import DatasetReport, examine, examine_headers
from detrcli.data.layouts.coco import coco_document
from detrcli.data.source import DataSpec, Files, open_source
from detrcli.data.splits import DataSource, images_of
from detrcli.diagnosis.data_rules import data_findings
from detrcli.diagnosis.failure_rules import failure_findings
from detrcli.diagnosis.finding import Finding
from detrcli.diagnosis.run_rules import RunFacts, run_findings
from detrcli.errors import DataError, DetrError, UsageError
from detrcli.evaluation.comparison import compared
from detrcli.evaluation.outcomes import FALSE_POSITIVES, MISSED
from detrcli.evaluation.thresholds import write_thresholds
from detrcli.inference.detector import Detector
from detrcli.inspection.failures import Failures, failures_of
from detrcli.inspection.suspects import SUSPECT_KINDS, Suspect
from detrcli.messages import Wording, argument, word
from detrcli.render.comparison_page import write_comparison
from detrcli.render.report_page import DEFAULT_IMAGES, write_report
from detrcli.render.report_sections import Advice, Instability
from detrcli.reporter import SILENT, Reporter
from detrcli.system.files import next_free_folder
from detrcli.training import matching_history
from detrcli.training.run_folder import DIVERGED, data_of, read_rows
from detrcli.training.run_status import CONFIG, is_run
from detrcli.training.settings import given_settings, make_settings
from detrcli.training.setup import prepare_data

FOLDER, THRESHOLDS = "report", "thresholds.json"
DOCTOR_IMAGES = 120  # on how many images of each split `doctor` runs the model


@dataclass(frozen=True)
class Report(Result):
    """The failures of a model on a split, their causes, and annotations that are probably wrong."""

    failures: Failures
    instability: Instability | None  # how stable the matching became; None without a run
    examples: Mapping[int, int] | None  # category id to the number of objects in the training split

    @property
    def content(self) -> Sequence[str | Table]:
        failures, outcomes, metrics = self.failures, self.failures.outcomes, self.failures.metrics
        source, images = failures.session.detector.checkpoint.source, len(failures.truth.images)
        interval = "" if failures.interval is None else f" ({metrics['AP_low']:.3f} to {metrics['AP_high']:.3f})"
        rows = [("missed", count, MISSED[kind]) for kind, count in outcomes.missed_by_kind.items()]
        rows += [
            ("false positive", count, FALSE_POSITIVES[kind]) for kind, count in outcomes.false_positives_by_kind.items()
        ]
        rows += [(kind.replace("_", " "), len(each), SUSPECT_KINDS[kind]) for kind, each in failures.suspects.items()]
        rows = [("detected", outcomes.found, ""), *(row for row in rows if row[1])]
        return [
            f"{source} on {failures.split}: {images:,} images, {outcomes.objects:,} objects",
            f"AP {metrics['AP']:.3f}{interval}, AP50 {metrics['AP50']:.3f}, AR {metrics['AR100']:.3f}",
            f"Detections: scores of {outcomes.threshold:.2f} or more.",
            Table("", ("", "count", "reason"), rows),
        ]

    @property
    def document(self) -> dict[str, Any]:
        return self.failures.document()

    def page(
        self,
        folder: str | Path | None = None,
        *,
        advice: Sequence[Advice] | None = None,
        images: int = DEFAULT_IMAGES,
        seconds: float | None = None,
    ) -> Path:
        """Write a page with at most `images` images into a folder, by default a new one. Return its path."""
        folder = next_free_folder(FOLDER) if folder is None else Path(folder)
        page = write_report(
            folder,
            self.failures,
            advice=advice,
            instability=self.instability,
            examples=self.examples,
            limit=images,
            seconds=seconds,
        )
        write_thresholds(self.failures.thresholds, folder / THRESHOLDS)
        return page


def report(
    subject: Data,
    weights: Weights | Detector | None = None,
    *,
    split: str = "val",
    threshold: float | None = None,
    folds: int = 0,
    limit: int | None = None,
    seconds: float | None = None,
    match_classes_by_id: bool = False,
    class_names: Sequence[str] = (),
    device: str = "auto",
    reporter: Reporter = SILENT,
) -> Report:
    """Report why a model fails on a split.

    `subject` is a run, whose best weights are evaluated on its own data, or a dataset on which to evaluate `weights`.
    Detections are predictions whose score reaches `threshold`, by default the one with the highest F1. `folds` models
    are trained to find wrong annotations in the training split of a run; each judges annotations that it was not
    trained on. The report covers at most `limit` images, and as many as `seconds` allow. Open-vocabulary models detect
    `class_names`.
    """
    options = data_options(subject)
    run = None if options.path is None or not is_run(options.path) else options.path
    if folds and (run is None or split != "train"):
        raise UsageError(f"{argument('folds')} needs a run, and {argument('split', 'train')}.")
    exif, skip_bad = options.exif, options.skip_bad
    if run is None:
        source = open_dataset(options, reporter)
    else:  # read the images as the training did
        spec = DataSpec(**data_of(run))
        source, skip_bad = spec.open(), skip_bad or spec.skip_bad
        exif = spec.exif if exif == "auto" else exif
    examined = examine_headers(source, [split], exif, skip_bad=skip_bad)
    examined.check(reporter)
    checked = examined.splits[split]
    detector = as_detector(weights or run or WEIGHTS, device, class_names, reporter)
    session = session_of(detector, checked, skip_bad=skip_bad, by_id=match_classes_by_id, reporter=reporter)
    learned = split == "train" and not folds  # the model was trained on these labels
    failures = failures_of(session, checked, split, learned=learned, threshold=threshold, limit=limit, seconds=seconds)
    if folds and run is not None:
        settings = given_settings(run / CONFIG)
        failures = replace(failures, suspects=_suspects_by_folds(checked, folds, settings, device, reporter))
    return Report(failures, None if run is None else _instability(run), _examples(source, split))


def _suspects_by_folds(
    split: Split, folds: int, settings: Mapping[str, Any], device: str, reporter: Reporter
) -> dict[str, list[Suspect]]:
    """Train `folds` models, each without a part of the images, and return the suspects in that part.

    A model memorizes the wrong labels that it is trained on, and does not find them.
    """
    usable = np.flatnonzero(split.usable_images)
    if len(usable) < 2 * folds:
        raise UsageError(f"{argument('folds', folds)}: too many for {len(usable)} images.")
    fold_of = np.full(len(split.usable_images), -1)
    fold_of[usable] = np.random.default_rng(0).permutation(len(usable)) % folds
    suspects: dict[str, list[Suspect]] = {kind: [] for kind in SUSPECT_KINDS}
    with tempfile.TemporaryDirectory() as folder:
        for fold in range(folds):
            reporter.note(f"fold {fold + 1} of {folds}: training without the images of this fold")
            files: Files = {
                name: (_write_annotations(split, chosen, Path(folder, f"{name}-{fold}.json")), split.written.folder)
                for name, chosen in (("train", (fold_of != fold) & (fold_of >= 0)), ("val", fold_of == fold))
            }
            run = Path(folder, f"run-{fold}")
            run_training(DataSpec.of(None, files, skip_bad=True), settings, device, out=run)
            held_out = checked_split(DataOptions(None, files, skip_bad=True), "val")
            session = session_of(as_detector(run, device), held_out, skip_bad=True, reporter=reporter)
            for kind, members in failures_of(session, held_out, "val").suspects.items():
                suspects[kind] += members
    return {kind: sorted(members, key=lambda suspect: -suspect.suspicion) for kind, members in suspects.items()}


def _write_annotations(split: Split, images: np.ndarray, path: Path) -> Path:
    """Write a COCO file with the annotations of some images, (I,) bool."""
    written = replace(split.written, sizes=split.sizes)
    path.write_text(json.dumps(coco_document(images_of(written, images))), encoding="utf-8")
    return path


def _instability(run: Path) -> Instability | None:
    """Return the share of objects matched to another query at each evaluation; None without a matching history."""
    try:
        history = matching_history.read(run)
    except DataError:
        return None
    return history.epochs[1:].tolist(), history.shares


def _examples(source: DataSource, split: str) -> dict[int, int] | None:
    """Count the objects of each category in the training split, if the report is on another split."""
    if split == "train" or "train" not in source.splits:
        return None
    try:
        train = source.read("train")
    except (DataError, UsageError):
        return None
    ids, counts = np.unique(train.of_category[~train.crowd], return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


@dataclass(frozen=True)
class ReportComparison(Comparison):
    """Reports on several models for the same images, and the differences from the first."""

    reports: Sequence[Report]

    def page(self, folder: str | Path | None = None, *, images: int = DEFAULT_IMAGES) -> Path:
        """Write a page that compares the models, and the page of each report into a folder of it."""
        folder = next_free_folder(FOLDER) if folder is None else Path(folder)
        for i, report in enumerate(self.reports):
            report.page(folder / str(i), images=images)
        failures = [report.failures for report in self.reports]
        shown = [[image.image_id for image in each.worst_first()[:images]] for each in failures]
        return write_comparison(folder, self.names, failures, self.differences, shown)


def compare_reports(reports: Mapping[str, Report]) -> ReportComparison:
    """Compare reports on the same images, by name: which model is better, or may be so by chance."""
    failures = [report.failures for report in reports.values()]
    truth, outcomes = failures[0].truth, [each.outcomes for each in failures]
    if any(not np.array_equal(each.truth.image_ids, truth.image_ids) for each in failures):
        raise UsageError("Only reports on the same images can be compared.")
    return ReportComparison(
        schema="detr.report-compare/1",
        names=list(reports),
        metrics=[each.metrics for each in failures],
        counts={
            "detected": [each.found for each in outcomes],
            "false positives": [each.false_positives for each in outcomes],
        },
        documents=[{"name": name, **report.document} for name, report in reports.items()],
        differences=compared(truth, [(name, report.failures.results) for name, report in reports.items()]),
        reports=list(reports.values()),
    )


@dataclass(frozen=True, kw_only=True)
class Diagnosis(PlainResult):
    """Probable problems of a run or a dataset, most likely first."""

    findings: Sequence[Finding]


def doctor(subject: str | Path, *, device: str = "auto", reporter: Reporter = SILENT) -> Diagnosis:
    """Diagnose a run (its data, settings, curves and failures) or a dataset: what is probably wrong."""
    path = Path(subject)
    run = path if is_run(path) else None
    spec = DataSpec(None, {}) if run is None else DataSpec(**data_of(run))
    source = open_source(path) if run is None else spec.open()
    examined = examine(source, exif=spec.exif, skip_bad=spec.skip_bad, reporter=reporter)
    findings = list(data_findings(examined))
    facts = _facts(run, examined) if run is not None and examined.ok and "train" in examined.splits else None
    if run is not None and facts is not None:
        findings += run_findings(facts)
        detector = as_detector(run, device)
        failures: dict[str, Failures] = {}
        for split in ("val", "train"):
            try:
                failures[split] = report(run, detector, split=split, limit=DOCTOR_IMAGES, device=device).failures
            except DetrError as error:
                reporter.note(f"{split} is left out: {error.message}")
        if "val" in failures:
            findings += failure_findings(failures["val"], failures.get("train"))
    return _diagnosis(str(subject), findings, reporter.wording)


def end_of_run(
    run: Path, examined: DatasetReport, *, device: str, seconds: float, folder: Path, wording: Wording
) -> tuple[Path, Diagnosis]:
    """Write the report of a finished training in about `seconds`. Return its page, and what is probably wrong."""
    start = time.monotonic()
    # Inference gets a third of the time, and the page half of the rest: statistics take time too.
    run_report = report(run, device=device, seconds=seconds / 3)
    findings = [*data_findings(examined), *failure_findings(run_report.failures, None)]
    if (facts := _facts(run, examined)) is not None:
        findings += run_findings(facts)
    diagnosis = _diagnosis(str(run), findings, wording)
    advice = [(finding.finding, finding.evidence, finding.remedy) for finding in diagnosis.findings]
    left = max(0.0, seconds - (time.monotonic() - start))
    return run_report.page(folder, advice=advice, seconds=left / 2), diagnosis


def _diagnosis(subject: str, findings: Sequence[Finding], wording: Wording) -> Diagnosis:
    def with_arguments_worded(finding: Finding) -> Finding:
        what, evidence, remedy = (word(text, wording) for text in finding.document().values())
        return Finding(what, evidence, remedy, finding.weight)

    findings = [with_arguments_worded(finding) for finding in sorted(findings, key=lambda finding: -finding.weight)]
    lines = [f"{i}. {finding}" for i, finding in enumerate(findings, 1)]
    document = {"schema": "detr.doctor/1", "subject": subject, "findings": [finding.document() for finding in findings]}
    return Diagnosis(lines or [f"{subject}: nothing stands out."], document, findings=findings)


def _facts(run: Path, examined: DatasetReport) -> RunFacts | None:
    """Collect what the rules need to know about a run; None if it has no weights."""
    try:
        checkpoint = load_checkpoint(str(run))
    except DetrError:
        return None
    try:
        moved = matching_history.read(run).shares[:, -1]  # (E - 1,), of the last layer
    except DetrError:
        moved = np.zeros(0)
    return RunFacts(
        settings=make_settings(given_settings(run / CONFIG)),
        checkpoint=checkpoint,
        data=prepare_data(DataSpec(**data_of(run)).name, examined),
        rows=read_rows(run),
        moved=moved,
        diverged=(run / DIVERGED).exists(),
    )
