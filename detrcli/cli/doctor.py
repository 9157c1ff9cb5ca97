"""`detr doctor`: what is probably wrong, most likely first."""

from pathlib import Path
from typing import Annotated

import typer

from detrcli.cli.options import Debug, Device, Json
from detrcli.errors import UsageError


def doctor(
    subject: Annotated[Path, typer.Argument(metavar="RUN|DATA", help="A run, or data as in `detr train`.")],
    device: Device = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what is probably wrong, most likely first."""
    if str(subject) != "shapes" and not subject.exists():
        raise UsageError(f"{subject}: there is no such run or data.")
    from detrcli.api.doctoring import doctor as look_at
    from detrcli.cli.console import Status, print_json, warn
    from detrcli.system.text import escape_controls

    with Status("looking at pictures") as status:
        found = look_at(subject, device=device, note=warn, advance=status.advance)
    if json:
        print_json(found.document)
        return
    for line in str(found).splitlines():
        print(escape_controls(line))
