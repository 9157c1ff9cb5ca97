"""`detr train`: fine-tune a model on a dataset."""

import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from detrcli import api
from detrcli.cli import options as opt
from detrcli.cli.console import STDERR
from detrcli.cli.outputs import check_free, check_not_in_data
from detrcli.system.launch import launch


def _known_or_none(value: str | None) -> str | None:
    return value if value in (None, "none") else opt.known_weights(value)


def train(
    data: Annotated[Path | None, typer.Argument(help=opt.DATA)] = None,
    model: Annotated[str | None, opt.option("NAME", "Model; starts from its published weights. [detr-r50]")] = None,
    weights: Annotated[
        str | None,
        opt.option("W|none", "Weights to start from, as in `detr predict`, or none.", callback=_known_or_none),
    ] = None,
    epochs: Annotated[int | None, opt.option("N", "Number of epochs. [50]")] = None,
    batch_size: Annotated[int | None, opt.option("N", "Images per batch and process. [2]")] = None,
    lr: Annotated[float | None, opt.option("X", "Learning rate; a tenth of it for the backbone. [0.0001]")] = None,
    size: Annotated[int | None, opt.option("N", "Shorter side of the input.")] = None,
    out: Annotated[Path | None, opt.option("RUN", "Run folder. [runs/train, numbered]")] = None,
    resume: Annotated[
        Path | None, opt.option("RUN", "Resume a run; the latest run if none is given.", file_okay=False)
    ] = None,
    seed: Annotated[int | None, opt.option("N", "Random seed. [0]")] = None,
    device: opt.Device = "auto",
    config: Annotated[Path | None, opt.option("FILE", "TOML file of settings, as in run folders.")] = None,
    set_: Annotated[
        list[str] | None,
        opt.option("KEY=VALUE", "A setting listed in `detr guide training`; may be repeated.", "--set"),
    ] = None,
    train_ann: opt.TrainAnn = None,
    train_images: opt.TrainImages = None,
    val_ann: opt.ValAnn = None,
    val_images: opt.ValImages = None,
    exif: opt.Exif = "auto",
    skip_bad: opt.SkipBad = False,
    dry_run: Annotated[bool, opt.flag("--dry-run", "Measure a step, print the plan, and stop.")] = False,
    no_report: Annotated[bool, opt.flag("--no-report", "Do not write a report at the end.")] = False,
    json: opt.Json = False,
) -> None:
    """Fine-tune a model on your data."""
    if hasattr(signal, "SIGUSR1"):
        # Until there is something to save, a scheduler's warning is handled as its SIGTERM.
        signal.signal(signal.SIGUSR1, signal.getsignal(signal.SIGTERM))
    from detrcli.training.run_status import is_unbegun

    if resume is None and out is not None:
        if not is_unbegun(out):
            check_free(out, folder=True)
        check_not_in_data(out, data, train_images, val_images)
    from detrcli.api.runs import TrainingPlan
    from detrcli.cli.training import TrainingDisplay, show_outcome, show_plan

    with TrainingDisplay() as display:
        result = api.train(
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
            files={"train": (train_ann, train_images), "val": (val_ann, val_images)},
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
        STDERR.note(f"stopped early after {result.epochs} epochs: patience = {result.settings.patience}")
    if result.stopped is not None:
        STDERR.note(f"stopped and saved; resume with: detr train --resume {shlex.quote(str(result.run))}")
        sys.exit(result.stopped)
