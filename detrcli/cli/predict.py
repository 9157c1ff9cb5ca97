"""`detr predict`: detections in images."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

import detrcli
from detrcli.cli import options as opt
from detrcli.cli.console import STDERR, print_json, print_result
from detrcli.cli.outputs import check_files, check_free
from detrcli.errors import DataError, UsageError
from detrcli.inference import DEFAULT_THRESHOLD
from detrcli.system.launch import launch


@opt.options(*opt.LOAD, "text", "precision", "engine")
def predict(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Files, folders, glob patterns, or - for paths on stdin.")
    ],
    *,
    threshold: Annotated[
        str | None,
        opt.option(
            "P|FILE",
            f"Minimum score, or a file of per-class thresholds from `detr eval --thresholds`. [{DEFAULT_THRESHOLD}]",
        ),
    ] = None,
    classes: Annotated[str | None, opt.option("A,B,...", "Only detections of these classes.")] = None,
    out: Annotated[Path | None, opt.option("DIR", "Folder for annotated images. [predictions, numbered]")] = None,
    no_images: Annotated[bool, opt.flag("--no-images", "Do not draw annotated images.")] = False,
    format: Annotated[
        Literal["json", "coco", "csv", "panoptic", "semantic"] | None, typer.Option(help="Output format. [a table]")
    ] = None,
    polygons: Annotated[bool, opt.flag("--polygons", "Add polygons to the masks in JSON.")] = False,
    ids_from: Annotated[
        Path | None, opt.option("ANN", "COCO annotations with the image ids for --format coco, by file name.")
    ] = None,
    batch_size: Annotated[int, opt.option("N", "Images per batch, of equal input size.", min=1)] = 1,
    max_pixels: Annotated[int, opt.option("N", "Skip larger images.", min=1)] = 200_000_000,
    save: Annotated[Path | None, opt.option("FILE.jsonl", "Write a JSON line per image, as results come.")] = None,
    resume: Annotated[bool, opt.flag("--resume", "Continue the file of --save.")] = False,
    strict: Annotated[bool, opt.flag("--strict", "Fail if an image was skipped.")] = False,
    load: "detrcli.LoadOptions",  # built from the options that the decorator adds
    overwrite: opt.Overwrite = False,
    json: opt.Json = False,
) -> None:
    """Detect objects in images."""
    if json and format not in (None, "json"):
        raise UsageError(f"--json and --format {format} cannot be combined.")
    format = "json" if json else format
    maps = format if format == "panoptic" or format == "semantic" else None
    if out is not None and (maps or not no_images):
        check_free(out, overwrite=overwrite or resume, folder=True)
    if resume and save is None:
        raise UsageError("--resume continues a file, which --save names.")
    if save is not None and format is not None:
        raise UsageError("--save writes the results to a file, --json and --format print them. Use one of them.")
    if ids_from is not None and format not in ("coco", "panoptic", "semantic"):
        raise UsageError("--ids-from needs --format coco, panoptic or semantic.")
    if polygons and save is None and format != "json":
        raise UsageError("--polygons needs --json or --save.")
    check_files([(save, (".jsonl",))], overwrite=overwrite or resume)
    predictions = detrcli.predict(
        list(_paths(images)), load, threshold=threshold, classes=None if classes is None else classes.split(","),
        maps=maps, draw=not no_images, out=out, save=save, resume=resume, polygons=polygons, ids_from=ids_from,
        batch_size=batch_size, max_pixels=max_pixels, reporter=STDERR,
    )  # fmt: skip
    if launch().rank > 0:  # only the first process prints
        return
    if save is not None:
        print(f"{predictions.images:,} images, {predictions.objects:,} objects: {save}")
    elif format == "coco":
        print_json(predictions.coco)
    elif format == "csv":
        sys.stdout.write(predictions.csv)
    elif maps:
        print_json(predictions.maps)
    else:
        print_result(predictions, json=format == "json")
    if predictions.images and len(predictions.skipped) == predictions.images:
        raise DataError("No image could be read.")
    if predictions.skipped and strict:
        raise DataError(f"{len(predictions.skipped)} of {predictions.images} images were skipped.")


def _paths(images: list[str]) -> Iterator[str]:
    """Yield the given paths, with `-` replaced by the paths on stdin."""
    for image in images:
        if not image:
            raise UsageError("IMAGE is an empty string.")
        if image == "-":
            if sys.stdin is None:
                raise UsageError("- reads paths from stdin, and stdin is closed.")
            lines = (os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer)
            yield from (line for line in lines if line)
        else:
            yield image
