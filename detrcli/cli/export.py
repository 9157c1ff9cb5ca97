"""`detr export`: a model for another runtime."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from detrcli import api
from detrcli.cli.console import STDERR, print_json
from detrcli.cli.options import Json, Overwrite, WeightsArgument, load_options, option
from detrcli.cli.outputs import check_files


@load_options("size", "max_size", "model", "sha256")
def export(
    weights: WeightsArgument,
    *,
    format: Annotated[Literal["onnx", "openvino"], typer.Option(help="The runtime: onnxruntime or OpenVINO.")],
    out: Annotated[Path | None, option("FILE", "The file to write. [the name of the weights, .onnx or .xml]")] = None,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"], typer.Option(help="Number format of the exported model.")
    ] = "fp32",
    load: "api.LoadOptions",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write a model for onnxruntime or OpenVINO."""
    from detrcli.checkpoints.known import EXPORTS  # slow to import

    out = out or Path(f"{Path(weights).stem or 'model'}{EXPORTS[format]}")
    check_files([(out, (EXPORTS[format],))], overwrite=overwrite)
    difference = api.export(replace(load, weights=weights), out, format, precision=precision, reporter=STDERR)
    if json:
        facts = {"file": str(out), "format": format, "precision": precision, "weights": weights}
        print_json({"schema": "detr.export/1", **facts, "largest_difference": difference})
        return
    print(f"{out}: differs from the plain model by at most {difference:.1g}. Use it with --weights {out}.")
