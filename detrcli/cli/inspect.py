"""`detr visualize-attn` and `detr explain`: what a model computes for an image."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import detrcli
from detrcli.cli import options as opt
from detrcli.cli.console import STDERR, print_content, print_json, print_result
from detrcli.cli.outputs import ARRAYS, FIGURE, PAGE, check_files, next_free_file, write_report
from detrcli.errors import UsageError
from detrcli.inference import DEFAULT_THRESHOLD

if TYPE_CHECKING:
    from detrcli.inspection.look import Kind


@opt.options(*opt.LOAD, "text")
def visualize_attn(
    image: Annotated[Path, typer.Argument(help="An image.")],
    *,
    queries: Annotated[list[int] | None, opt.option("N", "Object query, from 0; may be repeated.", "--query")] = None,
    layers: Annotated[str, opt.option("last|all|I", "Layer, from 0.", "--layer")] = "last",
    heads: Annotated[str, opt.option("mean|all|I", "Attention head, from 0.", "--head")] = "mean",
    threshold: Annotated[
        float, opt.option("P", "Minimum score of queries, without --query.", min=0, max=1)
    ] = DEFAULT_THRESHOLD,
    points: Annotated[
        list[str] | None,
        opt.option("X,Y", "Show the encoder's attention from a pixel; may be repeated.", "--encoder"),
    ] = None,
    self_attention: Annotated[bool, opt.flag("--self", "Show the self-attention between queries.")] = False,
    mask_head: Annotated[bool, opt.flag("--mask-head", "Show the mask head's attention, and the masks.")] = False,
    relevance: Annotated[bool, opt.flag("--relevance", "Show gradient-weighted relevance beside attention.")] = False,
    faithfulness: Annotated[
        bool, opt.flag("--faithfulness", "Measure which of the two is right, by hiding parts (slow).")
    ] = False,
    masks: Annotated[Path | None, opt.option("FILE", "COCO annotations with masks, for --faithfulness.")] = None,
    raw: Annotated[Path | None, opt.option("FILE.npz", "Write the maps as arrays.")] = None,
    html: Annotated[Path | None, opt.option("FILE", "Write a page to move through queries, layers and heads.")] = None,
    out: Annotated[Path | None, opt.option("FILE", "The figure to write. [attention.png, numbered]")] = None,
    load: "detrcli.LoadOptions",
    overwrite: opt.Overwrite = False,
    json: opt.Json = False,
) -> None:
    """Draw where the queries look in an image."""
    kinds: dict[str, tuple[Kind, bool]] = {
        "--encoder": ("encoder", bool(points)),
        "--self": ("self", self_attention),
        "--mask-head": ("mask", mask_head),
        "--faithfulness": ("faithfulness", faithfulness),  # which includes relevance
        "--relevance": ("relevance", relevance and not faithfulness),
    }
    chosen = [(option, kind) for option, (kind, given) in kinds.items() if given]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(option for option, _ in chosen)} are different figures. Use one of them.")
    if points and (queries or html):
        raise UsageError("--encoder shows pixels, --query and --html show queries. Use one of them.")
    if masks is not None and not faithfulness:
        raise UsageError("--masks needs --faithfulness.")
    files = [(out, FIGURE), (raw, ARRAYS), (html, PAGE)]
    check_files(files, overwrite=overwrite, inputs=[image, Path(load.weights), masks])
    if os.path.exists(image):  # unlike Path.exists, also for names that are too long
        opt.check_available(load.weights, load)
    report = detrcli.look(
        image,
        load,
        queries=queries,
        threshold=threshold,
        layers=layers,
        heads=heads,
        kind=chosen[0][1] if chosen else "cross",
        points=[_pixel(text) for text in points or ()],
        masks=masks,
        reporter=STDERR,
    )
    if out is None:
        out = next_free_file("attention.png")
        STDERR.note(f"writing {out}")
    write_report(report, out, raw, html)
    if json:
        written = {name: path and str(path) for name, path in (("raw", raw), ("html", html))}
        print_json({**report.document, "file": str(image), "weights": load.weights, "out": str(out), **written})
        return
    print_content([report.findings.table, *report.findings.remarks])


def _pixel(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--encoder {text}: it must be X,Y in pixels, such as 120,80.") from None
    return x, y


@opt.options(*opt.LOAD)
def explain(
    image: Annotated[Path, typer.Argument(help="An image.")],
    *,
    html: Annotated[Path | None, opt.option("FILE", "Write a page that shows the output of each step.")] = None,
    load: "detrcli.LoadOptions",
    overwrite: opt.Overwrite = False,
    json: opt.Json = False,
) -> None:
    """Show what each step of a model computes for an image."""
    check_files([(html, PAGE)], overwrite=overwrite)
    if os.path.exists(image):  # unlike Path.exists, also for names that are too long
        opt.check_available(load.weights, load)
    walk = detrcli.walk(image, load, reporter=STDERR)
    if html is not None:
        walk.page(html)
    print_result(walk, json=json)
