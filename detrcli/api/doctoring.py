"""What is probably wrong with data or a training, most likely first."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detrcli.api.detector import as_detector
from detrcli.api.opening import Callbacks, Note, no_note
from detrcli.api.reporting import Report, report
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.examine import DatasetReport, examine
from detrcli.data.source import DataSpec, open_source
from detrcli.diagnosis.data_rules import of_data
from detrcli.diagnosis.failure_rules import of_failures
from detrcli.diagnosis.finding import Finding, likeliest_first
from detrcli.diagnosis.run_rules import RunFacts, of_run
from detrcli.errors import DetrError
from detrcli.inspection.failures import Failures
from detrcli.messages import word
from detrcli.render.report_sections import Advice
from detrcli.training.matching_history import read
from detrcli.training.run_folder import DIVERGED, data_of, is_run, read_rows
from detrcli.training.run_status import CONFIG
from detrcli.training.settings import given_settings, make_settings
from detrcli.training.setup import prepare_data

SCHEMA = "detr.doctor/1"
LOOKED_AT = 120  # pictures of train


@dataclass(frozen=True)
class Diagnosis:
    """What is probably wrong with a run or data, most likely first."""

    subject: str
    findings: Sequence[Finding]

    @property
    def document(self) -> dict[str, Any]:
        """All of it for programs."""
        return {"schema": SCHEMA, "subject": self.subject, "findings": [one.document() for one in self.findings]}

    def __str__(self) -> str:
        if not self.findings:
            return f"{self.subject}: nothing stands out."
        return "\n".join(f"{i}. {one}" for i, one in enumerate(self.findings, 1))


def doctor(
    subject: str | Path, *, device: str = "auto", note: Note = no_note, advance: Callable[[], None] = lambda: None
) -> Diagnosis:
    """What is probably wrong with a run (its data, settings, curves and mistakes) or with data alone."""
    path = Path(subject)
    if not is_run(path):
        found = examine(open_source(path), reporter=Callbacks(note, advance))
        return _diagnosis(str(subject), list(of_data(found)))
    spec = DataSpec(**data_of(path))
    examined = examine(spec.open(), exif=spec.exif, skip_bad=spec.skip_bad, reporter=Callbacks(note, advance))
    findings = list(of_data(examined))
    if examined.ok and "train" in examined.splits:
        findings += _of_run(path, examined, device, note)
    return _diagnosis(str(subject), findings)


def end_of_run(
    run: Path, examined: DatasetReport, *, device: str, seconds: float, folder: Path
) -> tuple[Path, Diagnosis]:
    """The page of a training that has just ended, and what it shows of its data and settings, in so many seconds."""
    began = time.monotonic()
    # The figures that follow from the pictures, and the page beside its attention, take time too.
    found = report(run, device=device, seconds=seconds / 3)
    facts = _facts(run, examined)
    findings = [*of_data(examined), *of_failures(found.failures, None)]
    findings += [] if facts is None else of_run(facts)
    diagnosis = _diagnosis(str(run), findings)
    advice = [Advice(one.finding, one.evidence, one.remedy) for one in diagnosis.findings]
    left = max(0.0, seconds - (time.monotonic() - began))
    return found.page(folder, advice=advice, seconds=left / 2), diagnosis


def _diagnosis(subject: str, findings: list[Finding]) -> Diagnosis:
    def worded(finding: Finding) -> Finding:
        what, evidence, remedy = map(word, finding.document().values())
        return Finding(what, evidence, remedy, finding.weight)

    return Diagnosis(subject, [worded(finding) for finding in likeliest_first(findings)])


def _of_run(run: Path, examined: DatasetReport, device: str, note: Note) -> list[Finding]:
    facts = _facts(run, examined)
    if facts is None:
        return []
    findings = list(of_run(facts))
    detector = as_detector(run, device)
    failures: dict[str, Failures] = {}
    for split in ("val", "train"):
        try:
            found: Report = report(run, detector, split=split, seconds=None, limit=LOOKED_AT, device=device)
        except DetrError as error:
            note(f"{split} is not looked at: {error}")
            continue
        failures[split] = found.failures
    if "val" in failures:
        findings += of_failures(failures["val"], failures.get("train"))
    return findings


def _facts(run: Path, examined: DatasetReport) -> RunFacts | None:
    """What is known of a run; nothing where it left no weights."""
    weights = _weights_of(run)
    if weights is None:
        return None
    return RunFacts(
        settings=make_settings(given_settings(run / CONFIG)),
        checkpoint=weights,
        data=prepare_data(DataSpec(**data_of(run)).name, examined),
        rows=read_rows(run),
        moved=_moved(run),
        diverged=(run / DIVERGED).exists(),
    )


def _weights_of(run: Path) -> Checkpoint | None:
    try:
        return load_checkpoint(str(run))
    except DetrError:
        return None


def _moved(run: Path) -> np.ndarray:
    try:
        kept = read(run)
    except DetrError:
        return np.zeros(0)
    return kept.shares[:, -1]
