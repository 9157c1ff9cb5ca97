"""`detr train`: fine-tune a model on a dataset."""

import signal
from contextlib import closing
from pathlib import Path
from typing import Annotated

import detrcli
from detrcli.cli import options as opt
from detrcli.cli.outputs import check_free, check_not_in_data
from detrcli.training.run_status import is_unbegun


def _known_or_none(value: str | None) -> str | None:
    return value if value in (None, "none") else opt.known_weights(value)


@opt.options(files=("train", "val"))
def train(
    data: "detrcli.DataOptions",  # built from the options that the decorator adds
    *,
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
    dry_run: Annotated[bool, opt.flag("--dry-run", "Measure a step, print the plan, and stop.")] = False,
    no_report: Annotated[bool, opt.flag("--no-report", "Do not write a report at the end.")] = False,
    json: opt.Json = False,
) -> None:
    """Fine-tune a model on your data."""
    if hasattr(signal, "SIGUSR1"):
        # SIGUSR1 is a scheduler's warning before SIGTERM. Until there is something to save, both stop the process.
        signal.signal(signal.SIGUSR1, signal.getsignal(signal.SIGTERM))
    if resume is None and out is not None:
        if not is_unbegun(out):
            check_free(out, folder=True)
        check_not_in_data(out, data)
    if resume is None:
        from detrcli.training.settings import given_settings, make_settings, starting_weights  # slow to import

        given = given_settings(config, {"model": model, "weights": weights}, set_ or [])
        opt.check_available(starting_weights(make_settings(given)), data=data)
    from detrcli.cli.training import TrainingDisplay, show_result  # slow to import

    with closing(TrainingDisplay()) as display:
        result = detrcli.train(
            data, weights=weights, model=model, epochs=epochs, batch_size=batch_size, lr=lr, size=size, seed=seed,
            out=out, resume=resume, device=device, config=config, settings=set_ or [], dry_run=dry_run,
            report=not no_report, listener=display, reporter=display,
        )  # fmt: skip
    show_result(result, json=json)
