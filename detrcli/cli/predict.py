"""`detr predict`: detections in pictures."""

from pathlib import Path
from typing import Annotated

import typer

from detrcli.cli.options import Debug, Device, Json, Overwrite, Weights
from detrcli.errors import UsageError


def predict(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Files, folders, globs, or - for paths on stdin.")
    ],
    weights: Weights = "detr-r50",
    threshold: Annotated[float, typer.Option(metavar="P", min=0, max=1, help="Least score to keep.")] = 0.7,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where annotated pictures go.")] = None,
    no_images: Annotated[bool, typer.Option("--no-images", help="Draw nothing.")] = False,
    format_: Annotated[
        str | None, typer.Option("--format", metavar="F", help="Print json, coco or csv.")
    ] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Find objects in pictures (to come)."""
    raise UsageError("`detr predict` is not in this version yet.")
