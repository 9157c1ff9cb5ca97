"""A training, from data and settings to a run folder."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from detrcli.checkpoints.download import DownloadProgress, no_progress
from detrcli.checkpoints.formats.header import known_variant
from detrcli.data.checks import Exif
from detrcli.data.examine import DatasetReport, examine, masks_examined
from detrcli.data.source import BUILT_IN
from detrcli.data.spec import DataSpec, Files, Note, no_note, tell_problems
from detrcli.doctor.finding import Finding
from detrcli.errors import DataError, DetrError, UsageError, WeightsError
from detrcli.evaluation.evaluator import Evaluator
from detrcli.system import distributed
from detrcli.system.devices import find_device
from detrcli.system.files import next_free_folder
from detrcli.system.lock import LOCK, locked
from detrcli.training.dry_run import Measured, measure
from detrcli.training.interrupts import Interrupts
from detrcli.training.loop import Training
from detrcli.training.progress import Silent, TrainingListener
from detrcli.training.run_folder import Row, RunFolder
from detrcli.training.run_status import is_unbegun
from detrcli.training.settings import Settings, given_settings
from detrcli.training.setup import facts_of, initialize, prepare_data, resumed
from detrcli.training.state import load_state

DEFAULT_OUT = "runs/train"
REPORT = "report"  # its folder in the run
REPORT_SHARE = 0.04  # of the training's time; what cannot be cut short takes up to a hundredth more
LEAST_REPORT = 4.0  # seconds, below which there is none
ANEW = frozenset({"epochs", "workers"})  # the settings that --resume takes


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended, and what it left."""

    run: Path
    report: Path | None  # the page of what went wrong, where there was time for it
    findings: Sequence[Finding] | None  # what is probably wrong, most likely first; likewise
    epochs: int
    rows: Sequence[Row]  # a row per epoch, as in metrics.csv
    best: Row | None  # that of the best epoch
    seconds: float
    stopped: int | None  # the exit code that it was interrupted with
    settings: Settings
    first: bool = True  # of several processes, the one that speaks

    def _repr_png_(self) -> bytes:
        return (self.run / "curves.png").read_bytes()


@dataclass(frozen=True)
class TrainingPlan:
    """What would be trained on what, and what it would take."""

    examined: DatasetReport
    parameters: Sequence[tuple[str, int, float | None]]  # group, how many, learning rate; None where frozen
    settings: Settings
    steps_per_epoch: int
    pictures_per_step: int
    measured: Measured
    first: bool = True


Watch = Callable[[str], AbstractContextManager[Callable[[], None]]]


@dataclass(frozen=True)
class Hooks:
    """Who is told what, while a training prepares itself and runs."""

    note: Note = no_note
    watch: Watch = lambda what: nullcontext(lambda: None)
    download: Callable[[], AbstractContextManager[DownloadProgress]] = lambda: nullcontext(no_progress)
    report: Callable[[torch.device], AbstractContextManager[TrainingListener]] = lambda device: nullcontext(Silent())


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
    hooks: Hooks | None = None,
) -> "TrainingResult | TrainingPlan":
    """Fine-tune a model on a data set, or train one from scratch (`weights="none"`); see `detr guide training`.

    `settings` are any others, by key or as KEY=VALUE. `evaluator` judges each epoch in place of the COCO numbers.
    With `report` the end is a page of what went wrong on the validation split, in at most a twentieth of the
    training's time. With `resume` a run goes on as if it had never stopped. Signals and torch's random state are
    afterwards as they were.
    """
    hooks = hooks or Hooks()
    note = hooks.note
    said = {
        "model": model,
        "weights": None if weights is None else str(weights),
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "size": size,
        "seed": seed,
    }
    # Those that are not given may be in `settings`.
    options = {key: value for key, value in said.items() if value is not None}
    pairs = [] if isinstance(settings, Mapping) else list(settings)
    more = dict(settings) if isinstance(settings, Mapping) else {}
    path = None if data is None else Path(data)
    if resume is None:
        given = given_settings(config, {**more, **options}, pairs)
        spec, state = DataSpec.of(path, files, exif, skip_bad=skip_bad), None
    else:
        asked = given_settings(None, {**more, **options}, pairs)
        named = options.keys()
        refused = [
            f"--{key.replace('_', '-')}" if key in named else f"--set {key}" for key in sorted(asked.keys() - ANEW)
        ]
        refused += [name for name, value in (("--out", out), ("--config", config)) if value is not None]
        refused += [name for name, value in (("--exif", exif != "auto"), ("--skip-bad", skip_bad)) if value]
        state = _state_of(Path(resume), refused, note)
        with _understood(Path(resume)):
            given = {**state["settings"], **asked}
            spec = _data_of_run(state, path, files)
    place = find_device(device)
    with distributed.joined(place), torch.random.fork_rng(devices=[]), ExitStack() as held:

        def look() -> DatasetReport:
            with hooks.watch("looking at pictures") as advance:
                return examine(spec.open(), exif=spec.exif, leave_out_bad=spec.skip_bad, masks=False, advance=advance)

        examined = distributed.broadcast_object(look)
        tell_problems(examined, note)
        taken = prepare_data(spec.name, examined)
        if state is None:
            with hooks.download() as progress:
                initial = initialize(given, taken.classes, facts_of(taken.train), progress)
            architecture = initial.checkpoint.architecture
        else:
            with _understood(Path(str(resume))):
                architecture = known_variant(state["weights"], str(resume))
        if architecture.detector is not None:  # it has a mask head on that
            examined = _with_masks(examined, hooks, leave_out_bad=spec.skip_bad)
            taken = prepare_data(spec.name, examined)
        if state is not None:
            with _understood(Path(str(resume))):
                initial = resumed({**state, "settings": given}, taken)
        for line in initial.notes:
            note(line)
        first = distributed.rank() == 0
        if dry_run:
            return _plan(
                Training(initial, taken, place, None, Silent(lambda text: note(f"warning: {text}"))),
                examined,
                first=first,
            )

        def folder() -> Path:
            where = resume or out
            run = next_free_folder(DEFAULT_OUT) if where is None else Path(where)
            run.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(run))
            begun = any(one.name != LOCK for one in run.iterdir()) and not is_unbegun(run)
            if out is not None and begun:
                # Another training may have been faster.
                raise UsageError(f"{run} exists. Give another place.")
            return run

        with hooks.report(place) as shown:
            training = Training(initial, taken, place, None, shown, asdict(spec), evaluator)
            if state is not None:
                with _understood(Path(str(resume))):
                    training.restore(state)
            run = distributed.broadcast_object(folder)
            if first:
                training.folder = RunFolder(run, tensorboard=initial.settings.tensorboard)
                training.folder.write_config(initial.settings, spec.name)
                training.folder.write_source(asdict(spec))
            training.count_queries()
            note(training.summary(run))
            with Interrupts() as interrupts:
                outcome = training.go(interrupts)
    page, findings = None, None
    if report and first and outcome.stopped is None:
        page, findings = _reported(run, examined, outcome.seconds, str(place), note)
    return TrainingResult(
        run=run,
        report=page,
        findings=findings,
        epochs=outcome.epochs,
        rows=training.rows,
        best=outcome.best,
        seconds=outcome.seconds,
        stopped=outcome.stopped,
        settings=initial.settings,
        first=first,
    )


def _with_masks(examined: DatasetReport, hooks: Hooks, *, leave_out_bad: bool) -> DatasetReport:
    """The same without masks that cannot be read, which are told.

    Where they are left out all are looked at, however long it takes: so a run goes on with what it was begun with.
    """

    def look() -> DatasetReport:
        with hooks.watch("looking at masks") as advance:
            return masks_examined(examined, full=leave_out_bad, leave_out_bad=leave_out_bad, advance=advance)

    found = distributed.broadcast_object(look)
    tell_problems(replace(found, problems=found.problems[len(examined.problems) :]), hooks.note)
    return found


def _reported(
    run: Path, examined: DatasetReport, spent: float, device: str, note: Note
) -> tuple[Path, Sequence[Finding]] | tuple[None, None]:
    """The page of what went wrong, if there is time for it; a training that is done does not fail by it."""
    seconds = REPORT_SHARE * spent
    if seconds < LEAST_REPORT:
        return None, None
    from detrcli.api.reporting import end_of_run

    folder = next_free_folder(str(run / REPORT))
    try:
        page, diagnosis = end_of_run(run, examined, device=device, seconds=seconds, folder=folder)
    except (DetrError, OSError) as error:
        note(f"no report: {error}")
        return None, None
    return page, diagnosis.findings


def _plan(training: Training, examined: DatasetReport, *, first: bool) -> TrainingPlan:
    training.count_queries()
    parameters = training.groups()
    return TrainingPlan(
        examined=examined,
        parameters=parameters,
        settings=training.settings,
        steps_per_epoch=training.order.steps,
        pictures_per_step=training.order.step_size,
        measured=measure(training),
        first=first,
    )


def _state_of(run: Path, refused: Sequence[str], note: Callable[[str], None]) -> dict[str, Any]:
    """A run's newest state; only what does not change its steps is taken anew."""
    if refused:
        raise UsageError(
            f"--resume goes on with the settings of {run}: {', '.join(refused)} cannot be given.\n"
            "Only --epochs, --device and --set workers=N can."
        )
    state, notes = load_state(run)
    for line in notes:
        note(line)
    return state


@contextmanager
def _understood(run: Path) -> Iterator[None]:
    """A state is whole and says all the same what this version does not understand."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise WeightsError(
            f"{run}: its state was written by another version of detr ({error!r:.200}).\n"
            f"Start a new run from its weights: --weights {run}."
        ) from error


def _data_of_run(state: Mapping[str, Any], data: Path | None, files: Files | None) -> DataSpec:
    """The data that a run was begun with, where it lies now."""
    spec = DataSpec(**state["source"])
    if data is not None or any(any(pair) for pair in (files or {}).values()):  # it lies elsewhere now
        return DataSpec.of(data, files, spec.exif, skip_bad=spec.skip_bad)
    if spec.data and spec.data != BUILT_IN and not os.path.exists(spec.data):
        raise DataError(f"{spec.data} is no longer there. Give DATA too, where it lies now.")
    return spec
