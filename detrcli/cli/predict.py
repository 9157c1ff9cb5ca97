"""`detr predict`: detections in pictures."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from detrcli.cli.options import (
    THRESHOLD,
    Debug,
    Device,
    Engine,
    Json,
    MaxSize,
    Model,
    Overwrite,
    Precision,
    Sha256,
    Size,
    Weights,
)
from detrcli.errors import DataError, UsageError

Format = Literal["json", "coco", "csv"]


def predict(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Files, folders, globs, or - for paths on stdin.")
    ],
    weights: Weights = "detr-r50",
    threshold: Annotated[
        float, typer.Option(metavar="P", min=0, max=1, help="Least score to keep.")
    ] = THRESHOLD,
    classes: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Only these classes, by the weights' names.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where annotated pictures go, else predictions/, numbered."),
    ] = None,
    no_images: Annotated[bool, typer.Option("--no-images", help="Draw nothing.")] = False,
    format_: Annotated[
        Format | None, typer.Option("--format", help="Print this in place of a table.")
    ] = None,
    size: Size = None,
    max_size: MaxSize = None,
    batch_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="Pictures of equal input size that go together.")
    ] = 1,
    max_pixels: Annotated[
        int, typer.Option(metavar="N", min=1, help="Larger pictures are not opened.")
    ] = 200_000_000,
    strict: Annotated[bool, typer.Option("--strict", help="Fail if any picture was skipped.")] = False,
    model: Model = None,
    sha256: Sha256 = None,
    device: Device = "auto",
    precision: Precision = None,
    engine: Engine = None,
    overwrite: Overwrite = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Find objects in pictures."""
    if json and format_ not in (None, "json"):
        raise UsageError(f"--json and --format {format_} are two different things to print.")
    format_ = "json" if json else format_

    import detrcli.cli.detections as show
    from detrcli.cli.console import Status, print_json, warn
    from detrcli.cli.outputs import check_free, check_not_inputs
    from detrcli.data.collect import collect

    if out is not None and not no_images:
        check_free(out, overwrite=overwrite, folder=True)
    named = list(collect(_arguments(images)))
    if not named:
        raise DataError("No picture was named on stdin.")

    from detrcli.cli.drawing import drawn, places
    from detrcli.cli.loading import load_detector
    from detrcli.inference.class_filter import chosen_ids, of_classes

    if out is not None and not no_images:
        check_not_inputs((out / place for place in places(named)), [item.path for item in named])
    detector = load_detector(
        weights,
        model=model,
        sha256=sha256,
        size=size,
        max_size=max_size,
        device=device,
        precision=precision,
        engine=engine,
    )
    paths = (item.path for item in named)
    stream = detector.stream(paths, threshold, batch_size, max_pixels, keep_images=not no_images)
    if classes is not None:
        stream = of_classes(stream, chosen_ids(detector.classes, classes))

    results: list[show.Result] = []
    with Status("predicting", len(named), quiet=len(named) == 1) as status:
        for result in drawn(named, stream, out):
            results.append(result)
            status.advance()
            for note in result.notes:
                warn(f"{result.file}: {note}")
            if result.problem:
                warn(f"{result.file}: skipped: {result.problem}")

    if format_ == "json":
        print_json(show.as_json(results, weights, threshold))
    elif format_ == "coco":
        print_json(show.as_coco(results))
    elif format_ == "csv":
        show.print_csv(results)
    else:
        show.print_for_people(results, threshold)

    skipped = sum(result.problem is not None for result in results)
    if skipped == len(results):
        raise DataError("No picture could be read.")
    if skipped and strict:
        raise DataError(f"{skipped} of {len(results)} pictures were skipped.")


def _arguments(images: list[str]) -> Iterator[str]:
    """The pictures that were named, those on stdin in the place of `-`."""
    for image in images:
        if not image:
            raise UsageError("One of the pictures is named by nothing at all: an empty argument.")
        if image == "-":
            if sys.stdin is None:
                raise UsageError("- means paths on stdin, and stdin is closed.")
            lines = (os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer)
            yield from (line for line in lines if line)
        else:
            yield image
