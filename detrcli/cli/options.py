"""Options that commands share, and what a run of the program knows."""

from dataclasses import dataclass
from typing import Annotated, cast

import typer


@dataclass
class Session:
    """What was asked of the program as a whole."""

    debug: bool = False


def _debug(context: typer.Context, value: bool) -> None:
    if value:
        cast("Session", context.find_root().obj).debug = True


Debug = Annotated[bool, typer.Option("--debug", callback=_debug, help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document in place of a table.")]
Weights = Annotated[
    str,
    typer.Option(
        "--weights",
        metavar="W",
        help="A name from `detr models`, a file, a run or Hugging Face folder, hf:OWNER/NAME, or a URL.",
    ),
]
Device = Annotated[str, typer.Option("--device", metavar="D", help="auto, cpu, cuda, cuda:N or mps.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
