"""`detr match-debug`: how the matching decided, and why."""

from pathlib import Path
from typing import Annotated

import typer

from detrcli.cli.options import Debug, Device, Json, Overwrite, Weights
from detrcli.errors import UsageError


def match_debug(
    data: Annotated[str, typer.Argument(help="A folder in any known layout, or `shapes`.")],
    weights: Weights = "detr-r50",
    split: Annotated[str, typer.Option(metavar="NAME", help="train, val or test.")] = "val",
    image: Annotated[str | None, typer.Option(metavar="ID|FILE", help="Which image.")] = None,
    layer: Annotated[str, typer.Option(metavar="last|all|I", help="Decoder layer, from 0.")] = "last",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The picture to write.")] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show how the matching decided (to come)."""
    raise UsageError("`detr match-debug` is not in this version yet.")
