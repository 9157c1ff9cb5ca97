"""Running a new or resumed training, from its data and settings to a run folder."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import torch

from detrcli.api.options import DataOptions
from detrcli.api.results import Cell, PlainResult, Result, Table
from detrcli.data.examine import DatasetReport, examine, examine_masks
from detrcli.data.source import BUILT_IN, DataSpec
from detrcli.diagnosis.finding import Finding
from detrcli.errors import DataError, UsageError, WeightsError
from detrcli.evaluation.metrics import Evaluator
from detrcli.messages import argument
from detrcli.reporter import SILENT, Reporter
from detrcli.system import distributed
from detrcli.system.devices import find_device
from detrcli.system.files import next_free_folder
from detrcli.system.lock import LOCK, locked
from detrcli.training.interrupts import Interrupts
from detrcli.training.loop import Training, measure
from detrcli.training.progress import NO_LISTENER, TrainingListener
from detrcli.training.run_folder import CURVES, Row, RunFolder
from detrcli.training.run_status import is_unbegun
from detrcli.training.settings import Settings
from detrcli.training.setup import facts_of, initialize, prepare_data, resumed
from detrcli.training.state import load_state

DEFAULT_OUT = "runs/train"


@dataclass(frozen=True)
class TrainingResult(Result):
    """The result of a training run."""

    run: Path
    examined: DatasetReport  # on the data
    epochs: int
    rows: Sequence[Row]  # of metrics.csv
    best: Row | None  # the row of the best epoch
    seconds: float
    stopped: int | None  # the exit code if the training was interrupted
    settings: Settings
    report: Path | None = None  # the page of the report, if there was time for it
    findings: Sequence[Finding] | None = None  # of the report, most likely first
    _repr_html_ = None  # type: ignore[assignment]  # in favor of the curves

    @property
    def content(self) -> Sequence[str | Table]:
        row, seconds = self.best or {}, timedelta(seconds=round(self.seconds))
        names = ["AP", "AP50", *(["mask_AP"] if "mask_AP" in row else [])]
        values = [f"{row[name]:.3f}" if row else "not measured" for name in names]
        epoch = f"{row['epoch']:.0f}" if row else ""
        columns = ("run", "epochs", "best epoch", *(name.replace("_", " ") for name in names), "time")
        return [Table("", columns, [(str(self.run), self.epochs, epoch, *values, str(seconds))])]

    @property
    def document(self) -> dict[str, Any]:
        row = self.best
        metrics = {name: row[name] for name in ("AP", "mask_AP") if name in row} if row else {}
        return {
            "schema": "detr.train/1",
            "run": str(self.run),
            "epochs": self.epochs,
            "best": {"epoch": int(row["epoch"] or 0), **metrics} if row else None,
            "seconds": round(self.seconds, 1),
            "report": None if self.report is None else str(self.report),
            "findings": None if self.findings is None else [finding.document() for finding in self.findings],
        }

    def _repr_png_(self) -> bytes:
        return (self.run / CURVES).read_bytes()


class TrainingPlan(PlainResult):
    """The data and parameters of a training run, and an estimate of its time and memory."""


def _plan(training: Training, examined: DatasetReport) -> TrainingPlan:
    """Time a step, which changes the model."""
    order, epochs, measured = training.order, training.settings.epochs, measure(training)
    summaries = {split: examined.summary(split) for split in examined.splits}
    data = {split: {**summary, "classes": len(summary["classes"])} for split, summary in summaries.items()}
    counts: list[tuple[Cell, ...]] = [(split, *of_split.values()) for split, of_split in data.items()]
    groups = training.groups()  # name, count, learning rate; None if frozen
    rows = [(name, count, "frozen" if lr is None else f"{lr:g}") for name, count, lr in groups]
    memory = "" if measured.memory_mb is None else f", {measured.memory_mb:,.0f} MB of memory"
    total = timedelta(seconds=round(measured.total_seconds))
    return TrainingPlan(
        [
            Table("", ("split", "images", "boxes", "empty images", "most boxes", "classes"), counts),
            Table("", ("parameters of", "count", "learning rate"), rows),
            f"per step: {order.step_size} images, {measured.seconds:.2f} s{memory}",
            f"{order.steps:,} steps per epoch, {epochs} epochs: {total} without evaluations",
        ],
        {
            "schema": "detr.train-plan/1",
            "data": {
                split: {name: row[name] for name in ("images", "boxes", "classes")} for split, row in data.items()
            },
            "parameters": [{"group": name, "parameters": count, "lr": lr} for name, count, lr in groups],
            "steps_per_epoch": order.steps,
            "pictures_per_step": order.step_size,
            "seconds_per_step": round(measured.seconds, 4),
            "seconds_of_training": round(measured.total_seconds),
            "memory_mb": measured.memory_mb,
        },
    )


@dataclass(frozen=True)
class SavedRun:
    """A run to resume, with its last saved state."""

    folder: Path
    state: Mapping[str, Any]

    @classmethod
    def load(cls, folder: Path, reporter: Reporter) -> Self:
        """Load the last intact state."""
        state, notes = load_state(folder)
        for note in notes:
            reporter.note(note)
        return cls(folder, state)

    @contextmanager
    def readable(self) -> Iterator[None]:
        """Turn errors of reading the state into WeightsError: it is intact, so another version wrote it."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            raise WeightsError(
                f"{self.folder}: its state was written by another version of detr ({error!r:.200}).\n"
                f"Start a new run from its weights: {argument('weights', self.folder)}."
            ) from error

    def data(self, given: DataOptions) -> DataSpec:
        """Return the data of the run, or its new location if that is given."""
        spec = DataSpec(**self.state["source"])
        if given.path is not None or any(any(pair) for pair in given.files.values()):
            return DataSpec.of(given.path, given.files, spec.exif, skip_bad=spec.skip_bad)
        if spec.data and spec.data != BUILT_IN and not os.path.exists(spec.data):
            raise DataError(f"{spec.data} no longer exists. Give the new location of the data too.")
        return spec


def run_training(
    spec: DataSpec,
    settings: Mapping[str, Any],
    device: str = "auto",
    *,
    out: str | Path | None = None,
    saved: SavedRun | None = None,
    dry_run: bool = False,
    evaluator: Evaluator | None = None,
    listener: TrainingListener = NO_LISTENER,
    reporter: Reporter = SILENT,
) -> TrainingResult | TrainingPlan:
    """Train a model, or with `dry_run` measure a step; resume a `saved` run."""
    torch_device = find_device(device)
    with distributed.joined(torch_device), torch.random.fork_rng(devices=[]), ExitStack() as stack:
        examined = distributed.broadcast_object(
            lambda: examine(spec.open(), exif=spec.exif, skip_bad=spec.skip_bad, masks=False, reporter=reporter)
        )
        examined.check(reporter)
        data = prepare_data(spec.name, examined)
        if saved is None:
            initial = initialize(settings, data.classes, facts_of(data.train), reporter)
        else:
            with saved.readable():
                initial = resumed({**saved.state, "settings": settings})
        if initial.checkpoint.segmentation is not None:  # it has masks
            examined = _with_masks(examined, spec, reporter)
            data = prepare_data(spec.name, examined).with_masks()
        if saved is not None:
            with saved.readable():
                data.check_same(saved.state["fingerprint"], saved.state["marks"])
        for note in initial.notes:
            reporter.note(note)
        training = Training(
            initial, data, torch_device, source=asdict(spec), evaluator=evaluator, listener=listener, reporter=reporter
        )
        training.check_queries()
        if dry_run:
            return _plan(training, examined)
        if saved is not None:
            with saved.readable():
                training.state.restore(saved.state)
        run = distributed.broadcast_object(lambda: _locked_folder(saved, out, stack))
        if distributed.rank() == 0:
            training.folder = RunFolder(run, tensorboard=initial.settings.tensorboard)
            training.folder.write_config(initial.settings, spec.name)
            training.folder.write_source(asdict(spec))
        reporter.note(training.summary(run))
        with Interrupts() as interrupts:
            outcome = training.run(interrupts)
    rows = training.state.rows
    return TrainingResult(
        run, examined, outcome.epochs, rows, outcome.best, outcome.seconds, outcome.stopped, initial.settings
    )


def _locked_folder(saved: SavedRun | None, out: str | Path | None, stack: ExitStack) -> Path:
    """Return the run folder, created and locked until the stack is closed."""
    run = saved.folder if saved else next_free_folder(DEFAULT_OUT) if out is None else Path(out)
    run.mkdir(parents=True, exist_ok=True)
    stack.enter_context(locked(run))
    # Checked after locking, since another training may have started in the meantime.
    if saved is None and any(path.name != LOCK for path in run.iterdir()) and not is_unbegun(run):
        raise UsageError(f"{run} exists. Give another folder.")
    return run


def _with_masks(examined: DatasetReport, spec: DataSpec, reporter: Reporter) -> DatasetReport:
    """Examine the masks too. Bad masks are reported, and skipped if requested.

    If they are skipped, all masks are examined however long it takes, so that a resumed run has the same data.
    """
    with_masks = distributed.broadcast_object(
        lambda: examine_masks(examined, full=spec.skip_bad, skip_bad=spec.skip_bad, reporter=reporter)
    )
    new_problems = with_masks.problems[len(examined.problems) :]
    replace(with_masks, problems=new_problems).check(reporter)
    return with_masks
