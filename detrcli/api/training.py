"""Training a model, from data and settings to a run folder with a report."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from detrcli.data.checks import Exif
from detrcli.data.examine import DatasetReport, examine, examine_masks
from detrcli.data.source import BUILT_IN, DataSpec, Files
from detrcli.diagnosis.finding import Finding
from detrcli.errors import DataError, DetrError, UsageError, WeightsError
from detrcli.evaluation.metrics import Evaluator
from detrcli.messages import argument
from detrcli.reporter import SILENT, Reporter
from detrcli.system import distributed
from detrcli.system.devices import find_device
from detrcli.system.files import next_free_folder
from detrcli.system.lock import LOCK, locked
from detrcli.training.interrupts import Interrupts
from detrcli.training.loop import Measured, Training, measure
from detrcli.training.progress import NO_LISTENER, TrainingListener
from detrcli.training.run_folder import CURVES, Row, RunFolder
from detrcli.training.run_status import is_unbegun
from detrcli.training.settings import Settings, given_settings
from detrcli.training.setup import facts_of, initialize, prepare_data, resumed
from detrcli.training.state import load_state

DEFAULT_OUT = "runs/train"
REPORT = "report"  # folder in the run
REPORT_SHARE = 0.04  # of the training's time; parts that cannot be shortened take up to another hundredth
MIN_REPORT_SECONDS = 4.0
RESUMABLE = frozenset({"epochs", "workers"})  # settings that a resumed training may change


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training."""

    run: Path
    report: Path | None  # the page of the report, if there was time for it
    findings: Sequence[Finding] | None  # of the report, most likely first
    epochs: int
    rows: Sequence[Row]  # of metrics.csv
    best: Row | None  # the row of the best epoch
    seconds: float
    stopped: int | None  # exit code, if it was interrupted
    settings: Settings

    def _repr_png_(self) -> bytes:
        return (self.run / CURVES).read_bytes()


@dataclass(frozen=True)
class TrainingPlan:
    """What a training would train, and how long it would take."""

    examined: DatasetReport
    parameters: Sequence[tuple[str, int, float | None]]  # group, count, learning rate; None if frozen
    settings: Settings
    steps_per_epoch: int
    images_per_step: int
    measured: Measured


def train(
    data: str | Path | None = None,
    *,
    weights: str | Path | None = None,
    model: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    size: int | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    device: str = "auto",
    config: Path | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    files: Files | None = None,
    exif: Exif = "auto",
    skip_bad: bool = False,
    dry_run: bool = False,
    report: bool = True,
    evaluator: Evaluator | None = None,
    listener: TrainingListener = NO_LISTENER,
    reporter: Reporter = SILENT,
) -> TrainingResult | TrainingPlan:
    """Fine-tune a model on a dataset, or train it from scratch (`weights="none"`); see `detr guide training`.

    `settings` are further settings, by name or as KEY=VALUE. `evaluator` replaces the COCO metrics of each epoch.
    `report` writes a report on the validation split, in at most a twentieth of the training's time. `resume` continues
    a run as if it had never stopped. With `dry_run`, only a step is measured. Signal handlers and torch's random state
    are restored.
    """
    options = {
        "model": model, "weights": None if weights is None else str(weights), "epochs": epochs,
        "batch_size": batch_size, "lr": lr, "size": size, "seed": seed,
    }  # fmt: skip
    pairs: Sequence[str] = () if isinstance(settings, Mapping) else settings
    options = {key: value for key, value in options.items() if value is not None}
    options = {**settings, **options} if isinstance(settings, Mapping) else options
    path = None if data is None else Path(data)
    if resume is None:
        given = given_settings(config, options, pairs)
        spec, state = DataSpec.of(path, files, exif, skip_bad=skip_bad), None
    else:
        changed = given_settings(None, options, pairs)
        fixed = {"out": out is not None, "config": config is not None, "exif": exif != "auto", "skip_bad": skip_bad}
        state = _state_of(
            Path(resume), [*sorted(changed.keys() - RESUMABLE), *(key for key, is_given in fixed.items() if is_given)],
            reporter,
        )  # fmt: skip
        with _readable(resume):
            given = {**state["settings"], **changed}
            spec = _data_of_run(state, path, files)
    place = find_device(device)
    with distributed.joined(place), torch.random.fork_rng(devices=[]), ExitStack() as stack:
        examined = distributed.broadcast_object(
            lambda: examine(spec.open(), exif=spec.exif, skip_bad=spec.skip_bad, masks=False, reporter=reporter)
        )
        examined.check(reporter)
        training_data = prepare_data(spec.name, examined)
        if state is None:
            initial = initialize(given, training_data.classes, facts_of(training_data.train), reporter)
        else:
            with _readable(resume):
                initial = resumed({**state, "settings": given})
        if initial.checkpoint.architecture.detector is not None:  # it has a mask head
            examined = _with_masks(examined, spec, reporter)
            training_data = prepare_data(spec.name, examined).with_masks()
        if state is not None:
            with _readable(resume):
                training_data.check_same(state["fingerprint"], state["marks"])
        for note in initial.notes:
            reporter.note(note)
        training = Training(
            initial, training_data, place, source=asdict(spec), evaluator=evaluator, listener=listener,
            reporter=reporter,
        )  # fmt: skip
        training.check_queries()
        if dry_run:
            order = training.order
            return TrainingPlan(
                examined, training.groups(), initial.settings, order.steps, order.step_size, measure(training)
            )
        if state is not None:
            with _readable(resume):
                training.state.restore(state)
        run = distributed.broadcast_object(lambda: _locked_folder(resume or out, stack, is_new=resume is None))
        if distributed.rank() == 0:
            training.folder = RunFolder(run, tensorboard=initial.settings.tensorboard)
            training.folder.write_config(initial.settings, spec.name)
            training.folder.write_source(asdict(spec))
        reporter.note(training.summary(run))
        with Interrupts() as interrupts:
            outcome = training.run(interrupts)
        write_report = report and distributed.rank() == 0 and outcome.stopped is None
    page, findings = None, None
    if write_report:
        page, findings = _report(run, examined, outcome.seconds, str(place), reporter)
    return TrainingResult(
        run, page, findings, outcome.epochs, training.state.rows, outcome.best, outcome.seconds, outcome.stopped,
        initial.settings,
    )  # fmt: skip


def _locked_folder(where: str | Path | None, stack: ExitStack, *, is_new: bool) -> Path:
    """Create the run folder and lock it until the stack is closed."""
    run = next_free_folder(DEFAULT_OUT) if where is None else Path(where)
    run.mkdir(parents=True, exist_ok=True)
    stack.enter_context(locked(run))
    # Checked with the lock, since another training may have started in the meantime.
    if where is not None and is_new and any(path.name != LOCK for path in run.iterdir()) and not is_unbegun(run):
        raise UsageError(f"{run} exists. Give another folder.")
    return run


def _with_masks(examined: DatasetReport, spec: DataSpec, reporter: Reporter) -> DatasetReport:
    """Examine the masks too. Bad masks are reported, and skipped if requested.

    If they are skipped, all masks are examined whatever the time, so that a resumed run has the same data.
    """
    with_masks = distributed.broadcast_object(
        lambda: examine_masks(examined, full=spec.skip_bad, skip_bad=spec.skip_bad, reporter=reporter)
    )
    replace(with_masks, problems=with_masks.problems[len(examined.problems) :]).check(reporter)
    return with_masks


def _report(
    run: Path, examined: DatasetReport, seconds: float, device: str, reporter: Reporter
) -> tuple[Path, Sequence[Finding]] | tuple[None, None]:
    """Write the report if there is time for it. Its errors are reported: the training is complete without it."""
    seconds *= REPORT_SHARE
    if seconds < MIN_REPORT_SECONDS:
        return None, None
    from detrcli.api.reporting import end_of_run

    folder = next_free_folder(str(run / REPORT))
    try:
        page, diagnosis = end_of_run(run, examined, device=device, seconds=seconds, folder=folder)
    except (DetrError, OSError) as error:
        reporter.note(f"no report: {error}")
        return None, None
    return page, diagnosis.findings


def _state_of(run: Path, refused: Sequence[str], reporter: Reporter) -> dict[str, Any]:
    """Load the last state of a run. Raises UsageError for settings that cannot be changed."""
    if refused:
        raise UsageError(
            f"{run}: a resumed run keeps its settings. {', '.join(map(argument, refused))} cannot be changed.\n"
            f"Only {argument('epochs')}, {argument('device')} and {argument('workers')} can."
        )
    state, notes = load_state(run)
    for note in notes:
        reporter.note(note)
    return state


@contextmanager
def _readable(run: str | Path | None) -> Iterator[None]:
    """Raise WeightsError for an intact state whose contents are not as expected."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise WeightsError(
            f"{run}: its state was written by another version of detr ({error!r:.200}).\n"
            f"Start a new run from its weights: {argument('weights', run)}."
        ) from error


def _data_of_run(state: Mapping[str, Any], data: Path | None, files: Files | None) -> DataSpec:
    """Return the data of a run, or where it is now."""
    spec = DataSpec(**state["source"])
    if data is not None or any(any(pair) for pair in (files or {}).values()):
        return DataSpec.of(data, files, spec.exif, skip_bad=spec.skip_bad)
    if spec.data and spec.data != BUILT_IN and not os.path.exists(spec.data):
        raise DataError(f"{spec.data} no longer exists. Give the new location of the data too.")
    return spec
