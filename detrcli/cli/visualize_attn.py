"""`detr visualize-attn`: where each object query looks."""

from pathlib import Path
from typing import Annotated

import typer

from detrcli.cli.options import Debug, Device, Json, Overwrite, Weights
from detrcli.errors import UsageError


def visualize_attn(
    image: Annotated[Path, typer.Argument(help="A picture.")],
    query: Annotated[list[int] | None, typer.Option(metavar="N", help="From 0; may be repeated.")] = None,
    layer: Annotated[str, typer.Option(metavar="last|all|I", help="Decoder layer, from 0.")] = "last",
    head: Annotated[str, typer.Option(metavar="mean|all|I", help="Attention head, from 0.")] = "mean",
    threshold: Annotated[
        float, typer.Option(metavar="P", min=0, max=1, help="Which queries, if none is given.")
    ] = 0.7,
    encoder: Annotated[
        str | None, typer.Option(metavar="X,Y", help="Encoder self-attention of a pixel.")
    ] = None,
    raw: Annotated[Path | None, typer.Option(metavar="FILE.npz", help="Write the maps as arrays.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The picture to write.")] = None,
    weights: Weights = "detr-r50",
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Draw where queries look (to come)."""
    raise UsageError("`detr visualize-attn` is not in this version yet.")
