"""`detr train`: fine-tune a model on a dataset."""

import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated

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
from detrcli.errors import WeightsError


def _known_or_none(value: str | None) -> str | None:
    return value if value in (None, "none") else known_weights(value)


def train(
    data: Annotated[Path | None, typer.Argument(help=DATA)] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model; starts from its published weights. [detr-r50]")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="W|none", callback=_known_or_none, help="Weights to start from, as in `detr predict`, or none."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", help="Number of epochs. [50]")] = None,
    batch_size: Annotated[int | None, typer.Option(metavar="N", help="Images per batch and process. [2]")] = None,
    lr: Annotated[
        float | None, typer.Option(metavar="X", help="Learning rate; a tenth of it for the backbone. [0.0001]")
    ] = None,
    size: Annotated[int | None, typer.Option(metavar="N", help="Shorter side of the input.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="Run folder. [runs/train, numbered]")] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Resume a run; the latest run if none is given.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Random seed. [0]")] = None,
    device: Device = "auto",
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file of settings, as in run folders.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting listed in `detr guide training`; repeatable."),
    ] = None,
    train_ann: TrainAnn = None,
    train_images: TrainImages = None,
    val_ann: ValAnn = None,
    val_images: ValImages = None,
    exif: Exif = "auto",
    skip_bad: SkipBad = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure a step, print the plan, and stop.")] = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Do not write a report at the end.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Fine-tune a model on your data."""
    if hasattr(signal, "SIGUSR1"):
        # Until there is something to save, a scheduler's warning is handled as its SIGTERM.
        signal.signal(signal.SIGUSR1, signal.getsignal(signal.SIGTERM))
    from detrcli.cli.outputs import check_free, check_not_in_data
    from detrcli.training.run_status import is_unbegun

    if resume is not None:
        check_folder("--resume", resume, WeightsError)
    elif out is not None:
        if not is_unbegun(out):
            check_free(out, folder=True)
        check_not_in_data(out, data, train_images, val_images)
    from detrcli.cli.sources import check_picture_folders

    files = {"train": (train_ann, train_images), "val": (val_ann, val_images)}
    check_picture_folders(files)
    from detrcli.api.training import TrainingPlan
    from detrcli.api.training import train as run_training
    from detrcli.cli.console import warn
    from detrcli.cli.training import TrainingDisplay, show_outcome, show_plan
    from detrcli.system.launch import launch

    with TrainingDisplay() as display:
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
            listener=display,
            reporter=display,
        )
    first = launch().rank == 0
    if isinstance(result, TrainingPlan):
        if first:
            show_plan(result, json=json)
        return
    if first:
        show_outcome(result, json=json)
    if result.stopped is None and result.epochs < result.settings.epochs:
        warn(f"stopped early after {result.epochs} epochs: patience = {result.settings.patience}")
    if result.stopped is not None:
        warn(f"stopped and saved; resume with: detr train --resume {shlex.quote(str(result.run))}")
        sys.exit(result.stopped)
