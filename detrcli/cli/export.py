"""`detr export`: a model for another runtime."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from detrcli.cli.options import Debug, Json, MaxSize, Model, Overwrite, Sha256, Size, known_weights


def export(
    weights: Annotated[str, typer.Argument(metavar="WEIGHTS", callback=known_weights, help="As --weights elsewhere.")],
    format_: Annotated[Literal["onnx", "openvino"], typer.Option("--format", help="Who shall run it.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The .onnx or .xml, else the weights' name with it.")
    ] = None,
    precision: Annotated[Literal["fp32", "bf16", "fp16"], typer.Option(help="Numbers to compute in.")] = "fp32",
    size: Size = None,
    max_size: MaxSize = None,
    model: Model = None,
    sha256: Sha256 = None,
    overwrite: Overwrite = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a model for onnxruntime or OpenVINO."""
    from detrcli.checkpoints.registry import EXPORTS
    from detrcli.cli.outputs import check_ending, check_free

    ending = EXPORTS[format_]
    if out is None:
        out = Path(f"{Path(weights).stem or 'model'}{ending}")
    check_ending(out, ending)
    check_free(out, overwrite=overwrite)

    from detrcli.api.exporting import export as write
    from detrcli.cli.console import DownloadStatus, print_json, warn

    with DownloadStatus() as progress:
        difference = write(
            weights,
            out,
            format_,
            precision=precision,
            size=size,
            max_size=max_size,
            model=model,
            sha256=sha256,
            progress=progress,
            note=warn,
        )
    if json:
        print_json(
            {
                "schema": "detr.export/1",
                "file": str(out),
                "format": format_,
                "precision": precision,
                "weights": weights,
                "largest_difference": difference,
            }
        )
        return
    print(f"{out}: differs from the plain model by {difference:.1g} at most. Use it as --weights {out}.")
