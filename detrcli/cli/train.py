"""`detr train`: fine-tune a model on a folder of pictures."""

import os
import shlex
import signal
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from detrcli.cli.inputs import check_folder
from detrcli.cli.options import (
    DATA,
    Debug,
    Device,
    Exif,
    Json,
    SkipBad,
    TrainAnn,
    TrainImages,
    ValAnn,
    ValImages,
    known_weights,
)
from detrcli.cli.outputs import check_free, check_not_in_data
from detrcli.errors import DataError, UsageError, WeightsError

if TYPE_CHECKING:
    from detrcli.data.examine import DatasetReport
    from detrcli.training.settings import Settings

DEFAULT_OUT = "runs/train"


def _known_or_none(value: str | None) -> str | None:
    return value if value in (None, "none") else known_weights(value)


def train(
    data: Annotated[Path | None, typer.Argument(help=DATA)] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The model; its published weights are the start. [detr-r50]"),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="W|none",
            callback=_known_or_none,
            help="What to start from, as in `detr predict`; none for scratch.",
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(metavar="N", help="How often each picture is seen. [50]")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Pictures at a time, of each process. [2]")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(metavar="X", help="Learning rate; the backbone's is a tenth. [0.0001]")
    ] = None,
    size: Annotated[int | None, typer.Option(metavar="N", help="Shorter side of the input.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Run folder, else runs/train, numbered.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with a run; the latest if none is named.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Of everything that is random. [0]")] = None,
    device: Device = "auto",
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A TOML file of settings, as runs hold one.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any setting that `detr guide training` lists; repeatable."
        ),
    ] = None,
    train_ann: TrainAnn = None,
    train_images: TrainImages = None,
    val_ann: ValAnn = None,
    val_images: ValImages = None,
    exif: Exif = "auto",
    skip_bad: SkipBad = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure one step, say what it would take, and stop.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Fine-tune a model on your data."""
    if hasattr(signal, "SIGUSR1"):
        # Until there is something to save, a scheduler's warning is as its SIGTERM.
        signal.signal(signal.SIGUSR1, signal.getsignal(signal.SIGTERM))
    options = {
        "model": model,
        "weights": weights,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "size": size,
        "seed": seed,
    }
    files = {"train": (train_ann, train_images), "val": (val_ann, val_images)}
    if resume is None:
        from detrcli.training.settings import settings

        chosen, state = settings(config, options, set_ or []), None
        where = Where.of(data, files, exif, skip_bad=skip_bad)
        if out is not None:
            check_free(out, folder=True)
            check_not_in_data(out, data, train_images, val_images)
    else:
        check_folder("--resume", resume, WeightsError)
        given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
        given += [name for name, value in (("--out", out), ("--config", config)) if value is not None]
        given += [name for name, value in (("--exif", exif != "auto"), ("--skip-bad", skip_bad)) if value]
        chosen, state = _resumed(resume, [name for name in given if name != "--epochs"], epochs, set_ or [])
        from detrcli.data.source import BUILT_IN

        where = Where(**state["source"])
        if data is None and where.data and where.data != BUILT_IN and not os.path.exists(where.data):
            raise DataError(f"{where.data} is no longer there. Give DATA too, where it lies now.")
        if data is not None or any(any(pair) for pair in files.values()):  # it lies elsewhere now
            where = Where.of(data, files, where.exif, skip_bad=where.skip_bad)

    from detrcli.cli.console import DownloadStatus, Status, warn
    from detrcli.cli.outputs import next_free_folder
    from detrcli.cli.sources import open_source, tell_problems
    from detrcli.cli.training import Display, show_outcome, show_plan
    from detrcli.data.examine import examine
    from detrcli.inference.detector import find_device
    from detrcli.system import distributed
    from detrcli.system.lock import locked
    from detrcli.training.interrupts import Interrupts
    from detrcli.training.loop import Training
    from detrcli.training.machine import Neighbours
    from detrcli.training.run_folder import RunFolder
    from detrcli.training.setup import begin, resumed, take

    place = find_device(device)
    with distributed.joined(place):

        def look() -> "DatasetReport":
            with Status("looking at pictures") as status:
                return examine(
                    open_source(*where.opened),
                    exif=where.exif,
                    leave_out_bad=where.skip_bad,
                    advance=status.advance,
                )

        examined = distributed.from_first(look)
        tell_problems(examined)
        taken = take(where.name, examined)
        if state is None:
            with DownloadStatus() as progress:
                begun = begin(chosen, taken.classes, len(taken.train), progress)
        else:
            begun = resumed(state, taken)
        for line in begun.said:
            warn(line)
        if dry_run:
            from detrcli.training.dry_run import measure

            display = Display(quiet=distributed.rank() > 0)
            training = Training(begun, taken, chosen, place, None, display)
            training.count_queries()
            measured = measure(training)
            if distributed.rank() == 0:
                show_plan(examined, training, measured, json=json)
            return

        def folder() -> Path:
            path = resume or out
            if path is None:
                path = next_free_folder(DEFAULT_OUT)
            path.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(path))
            if path == out:
                check_free(path, folder=True)  # another training may have been faster
            return path

        neighbours = Neighbours() if place.type == "cpu" else None
        with Display(quiet=distributed.rank() > 0, neighbours=neighbours) as display, ExitStack() as held:
            training = Training(begun, taken, chosen, place, None, display, asdict(where))
            if state is not None:
                training.restore(state)
            run = distributed.from_first(folder)
            if distributed.rank() == 0:
                training.folder = RunFolder(run, tensorboard=chosen.tensorboard)
                training.folder.write_config(chosen, where.name)
            training.count_queries()
            warn(training.summary(run))
            with Interrupts() as interrupts:
                outcome = training.go(interrupts)
        if distributed.rank() == 0:
            show_outcome(run, outcome, json=json)
    if outcome.stopped is None and outcome.epochs < chosen.epochs:
        warn(f"ended after {outcome.epochs} epochs: patience = {chosen.patience}")
    if outcome.stopped is not None:
        warn(f"stopped and saved; go on with: detr train --resume {shlex.quote(str(run))}")
        sys.exit(outcome.stopped)


@dataclass(frozen=True)
class Where:
    """Which data is meant, in plain values, as a run remembers it."""

    data: str | None
    files: dict[str, list[str | None]]  # split -> annotations, pictures
    exif: Literal["auto", "apply", "ignore"]
    skip_bad: bool

    @classmethod
    def of(
        cls,
        data: Path | None,
        files: dict[str, tuple[Path | None, Path | None]],
        exif: Literal["auto", "apply", "ignore"],
        *,
        skip_bad: bool,
    ) -> "Where":
        """Paths made absolute: a run may be resumed from elsewhere."""
        from detrcli.data.source import BUILT_IN

        def absolute(path: Path | None) -> str | None:
            return None if path is None else os.path.abspath(path)

        named = None if data is None else (str(data) if str(data) == BUILT_IN else absolute(data))
        return cls(named, {split: [*map(absolute, pair)] for split, pair in files.items()}, exif, skip_bad)

    @property
    def opened(self) -> tuple[Path | None, dict[str, tuple[Path | None, Path | None]]]:
        """As it was given."""

        def path(name: str | None) -> Path | None:
            return None if name is None else Path(name)

        return path(self.data), {split: (path(a), path(b)) for split, (a, b) in self.files.items()}

    @property
    def name(self) -> str:
        """What to call it."""
        return self.data or str(self.files["train"][0])


def _resumed(
    run: Path, given: list[str], epochs: int | None, pairs: list[str]
) -> tuple["Settings", dict[str, Any]]:
    """A run's settings and state; only what does not change its steps is taken anew."""
    from detrcli.cli.console import warn
    from detrcli.training.settings import of, settings
    from detrcli.training.state import load_state

    anew = {pair.partition("=")[0].strip() for pair in pairs}
    given += [f"--set {key}" for key in sorted(anew - {"epochs", "workers"})]
    if given:
        raise UsageError(
            f"--resume goes on with the settings of {run}: {', '.join(given)} cannot be given.\n"
            "Only --epochs, --device and --set workers=N can."
        )
    state, notes = load_state(run)
    for note in notes:
        warn(note)
    asked = asdict(settings(None, {"epochs": epochs}, pairs))
    if epochs is not None:
        anew.add("epochs")
    return of(state["settings"] | {key: asked[key] for key in anew}), state
