"""`detr explain`: the steps of a model for an image."""

from pathlib import Path
from typing import Annotated

import typer

from detrcli import api
from detrcli.cli.console import STDERR, print_result
from detrcli.cli.options import LOAD, Json, Overwrite, load_options, option
from detrcli.cli.outputs import PAGE, check_files


@load_options(*LOAD)
def explain(
    image: Annotated[Path, typer.Argument(help="An image.")],
    *,
    html: Annotated[Path | None, option("FILE", "Write a page that shows the output of each step.")] = None,
    load: "api.LoadOptions",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Show what each step of a model computes for an image."""
    check_files([(html, PAGE)], overwrite=overwrite)
    walk = api.walk(image, load, reporter=STDERR)
    if html is not None:
        walk.page(html)
    print_result(walk, json=json)
