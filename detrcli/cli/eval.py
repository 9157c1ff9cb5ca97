"""`detr eval`: the COCO numbers of a model or of a results file."""

from pathlib import Path
from typing import Annotated

import typer

from detrcli.cli.options import Debug, Device, Json, Overwrite, Weights
from detrcli.errors import UsageError


def evaluate(
    data: Annotated[str, typer.Argument(help="A folder in any known layout, or `shapes`.")],
    weights: Weights = "detr-r50",
    split: Annotated[str, typer.Option(metavar="NAME", help="train, val or test.")] = "val",
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Score these COCO results.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the detections as COCO results.")
    ] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure average precision (to come)."""
    raise UsageError("`detr eval` is not in this version yet.")
