"""`detr doctor`: what is probably wrong with a run or a dataset."""

from pathlib import Path
from typing import Annotated

import typer

from detrcli import api
from detrcli.cli.console import STDERR, print_result
from detrcli.cli.options import Device, Json
from detrcli.errors import UsageError


def doctor(
    subject: Annotated[Path, typer.Argument(metavar="RUN|DATA", help="A run, or a dataset as in `detr train`.")],
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Diagnose what is probably wrong with a run or a dataset."""
    if str(subject) != "shapes" and not subject.exists():
        raise UsageError(f"{subject}: no such run or dataset.")
    print_result(api.doctor(subject, device=device, reporter=STDERR), json=json)
