"""`detr train`: fine-tune a model on a folder of pictures."""

from pathlib import Path
from typing import Annotated

import typer

from detrcli.cli.options import Debug, Device, Json, Overwrite, Weights
from detrcli.errors import UsageError


def train(
    data: Annotated[str | None, typer.Argument(help="A folder in any known layout, or `shapes`.")] = None,
    model: Annotated[str, typer.Option(metavar="NAME", help="The model to build.")] = "detr-r50",
    weights: Weights = "detr-r50",
    epochs: Annotated[int, typer.Option(metavar="N", min=1)] = 50,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Per process.")] = 2,
    lr: Annotated[float, typer.Option(metavar="X", help="Learning rate of the transformer.")] = 1e-4,
    size: Annotated[int | None, typer.Option(metavar="N", help="Shorter side of the input.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="Run folder; runs/train, numbered.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with an interrupted run.")] = None,
    seed: Annotated[int, typer.Option(metavar="N")] = 0,
    device: Device = "auto",
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="A TOML file of settings.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting; may be repeated.")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Fine-tune a model on your data (to come)."""
    raise UsageError("`detr train` is not in this version yet.")
