"""`detr train`: fine-tune a model on a folder of pictures."""

import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from detrcli.cli.options import (
    DATA,
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


def _known_or_none(value: str | None) -> str | None:
    return value if value in (None, "none") else known_weights(value)


def train(
    data: Annotated[Path | None, typer.Argument(help=DATA)] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model; its published weights are the start. [detr-r50]")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="W|none",
            callback=_known_or_none,
            help="What to start from, as in `detr predict`; none for scratch.",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", help="How often each picture is seen. [50]")] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Pictures at a time, of each process. [2]")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(metavar="X", help="Learning rate; the backbone's is a tenth. [0.0001]")
    ] = None,
    size: Annotated[int | None, typer.Option(metavar="N", help="Shorter side of the input.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="Run folder, else runs/train, numbered.")] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", file_okay=False, help="Go on with a run; the latest if none is named.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Of everything that is random. [0]")] = None,
    device: Device = "auto",
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A TOML file of settings, as runs hold one.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting that `detr guide training` lists; repeatable."),
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
    no_report: Annotated[
        bool, typer.Option("--no-report", help="Do not end with a page of what went wrong on val.")
    ] = False,
    json: Json = False,
) -> None:
    """Fine-tune a model on your data."""
    if hasattr(signal, "SIGUSR1"):
        # Until there is something to save, a scheduler's warning is as its SIGTERM.
        signal.signal(signal.SIGUSR1, signal.getsignal(signal.SIGTERM))
    from detrcli.cli.outputs import check_free, check_not_in_data
    from detrcli.training.run_status import is_unbegun

    if resume is None and out is not None:
        if not is_unbegun(out):
            check_free(out, folder=True)
        check_not_in_data(out, data, train_images, val_images)
    files = {"train": (train_ann, train_images), "val": (val_ann, val_images)}
    from detrcli.api.training import TrainingPlan
    from detrcli.api.training import train as run_training
    from detrcli.cli.console import warn
    from detrcli.cli.training import hooks, show_outcome, show_plan

    result = run_training(
        data,
        weights=weights,
        model=model,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        size=size,
        seed=seed,
        out=out,
        resume=resume,
        device=device,
        config=config,
        settings=set_ or [],
        files=files,
        exif=exif,
        skip_bad=skip_bad,
        dry_run=dry_run,
        report=not no_report,
        hooks=hooks(),
    )
    if isinstance(result, TrainingPlan):
        if result.first:
            show_plan(result, json=json)
        return
    if result.first:
        show_outcome(result, json=json)
    if result.stopped is None and result.epochs < result.settings.epochs:
        warn(f"ended after {result.epochs} epochs: patience = {result.settings.patience}")
    if result.stopped is not None:
        warn(f"stopped and saved; go on with: detr train --resume {shlex.quote(str(result.run))}")
        sys.exit(result.stopped)
