"""`detr models`, `detr export`, `detr convert` and `detr bench`: models, their conversion, and their speed."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import detrcli
from detrcli.cli import options as opt
from detrcli.cli.console import STDERR, print_json, print_result
from detrcli.cli.outputs import check_files, check_free
from detrcli.errors import UsageError
from detrcli.inference import ExportFormat


def models(
    name: Annotated[str | None, typer.Argument(help="Show all facts about these named weights.")] = None,
    json: opt.Json = False,
) -> None:
    """List named weights, and supported model families."""
    print_result(detrcli.list_models() if name is None else detrcli.describe_model(name), json=json)


@opt.options("size", "max_size", "model", "sha256", "text")
def export(
    weights: opt.WeightsArgument,
    *,
    format: Annotated[ExportFormat, typer.Option(help="The runtime that the file is for.")],
    out: Annotated[Path | None, opt.option("FILE", "The file to write. [named like the weights]")] = None,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16", "int8"], typer.Option(help="Number format of the exported model.")
    ] = "fp32",
    with_postprocessing: Annotated[
        bool, opt.flag("--with-postprocessing", "Let the model return detections, with boxes in pixels.")
    ] = False,
    data: Annotated[Path | None, opt.option("DATA", "For int8: the dataset for calibration and comparison.")] = None,
    split: Annotated[str, opt.option("NAME", "For int8: the split on which AP is compared.")] = "val",
    limit: Annotated[int | None, opt.option("N", "For int8: only the first images of the split.", min=1)] = None,
    max_ap_drop: Annotated[float, opt.option("P", "For int8: the AP that may be lost to fp32.", min=0, max=1)] = 0.01,
    match_classes_by_id: opt.MatchClassesById = False,
    load: "detrcli.LoadOptions",
    overwrite: opt.Overwrite = False,
    json: opt.Json = False,
) -> None:
    """Write a model for another runtime."""
    from detrcli.checkpoints.registry import EXPORTS  # slow to import

    out = out or Path(f"{Path(weights).stem or 'model'}{EXPORTS[format]}")
    check_files([(out, (EXPORTS[format],))], overwrite=overwrite, folders=format == "coreml")
    if precision == "int8" and (format != "openvino" or data is None or with_postprocessing):
        raise UsageError("--precision int8 needs --format openvino and --data DATA, without --with-postprocessing.")
    opt.check_available(weights, load)
    if precision == "int8":
        assert data is not None
        quantization = detrcli.quantize(
            replace(load, weights=weights), data, out, split=split, limit=limit, max_ap_drop=max_ap_drop,
            match_classes_by_id=match_classes_by_id, reporter=STDERR,
        )  # fmt: skip
        print_result(quantization, json=json)
        return
    options: Any = {"precision": precision, "with_postprocessing": with_postprocessing}
    difference = detrcli.export(replace(load, weights=weights), out, format, **options, reporter=STDERR)
    if json:
        facts = {"file": str(out), "format": format, "weights": weights, **options}
        print_json({"schema": "detr.export/1", **facts, "largest_difference": difference})
        return
    if difference is None:
        print(f"{out}: written, but not compared with the plain model.")
        return
    use = "`detr guide deploy` describes it" if with_postprocessing else f"Use it with --weights {out}"
    print(f"{out}: differs from the plain model by at most {difference:.1g}. {use}.")


@opt.options("model", "sha256")
def convert(
    weights: opt.WeightsArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    *,
    load: "detrcli.LoadOptions",
) -> None:
    """Write a folder that transformers loads."""
    check_free(out, folder=True)
    opt.check_available(weights, load)
    print(f"{detrcli.convert(replace(load, weights=weights), out, reporter=STDERR)}: written for transformers.")


@opt.options(*opt.LOAD[1:])
def bench(
    weights: opt.WeightsArgument = "detr-r50",
    *,
    image: Annotated[Path | None, opt.option("FILE", "The image. [a generated one of 640 x 480]")] = None,
    rounds: Annotated[int, opt.option("N", "Rounds, of which the median is reported.", min=1)] = 5,
    load: "detrcli.LoadOptions",
    json: opt.Json = False,
) -> None:
    """Compare the speed of engines and precisions."""
    if image is None or os.path.exists(image):
        opt.check_available(weights, load)
    print_result(detrcli.bench(replace(load, weights=weights), image, rounds=rounds, reporter=STDERR), json=json)
