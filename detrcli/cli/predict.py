"""`detr predict`: detections in images."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

import detrcli
from detrcli.cli import options as opt
from detrcli.cli.console import STDERR, print_content, print_json
from detrcli.cli.outputs import check_files, check_free
from detrcli.errors import DataError, UsageError
from detrcli.inference import DEFAULT_THRESHOLD
from detrcli.system.launch import launch


@opt.options(*opt.LOAD, "text", "tiles", "overlap", "nms", "precision", "engine")
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
    one_label: Annotated[bool, opt.flag("--one-label", "Only the best class of each query.")] = False,
    max_detections: Annotated[
        int | None, opt.option("N", "Only the N best detections of each image.", "--max-det", min=1)
    ] = None,
    clip: Annotated[bool, opt.flag("--clip", "Clip boxes to the image.")] = False,
    out: Annotated[Path | None, opt.option("DIR", "Folder for images and labels. [predictions, numbered]")] = None,
    no_images: Annotated[bool, opt.flag("--no-images", "Neither annotated images nor copies of images.")] = False,
    line_width: Annotated[int | None, opt.option("N", "Width of drawn lines in pixels.", min=1)] = None,
    hide_labels: Annotated[bool, opt.flag("--hide-labels", "Draw boxes and masks without labels.")] = False,
    format: Annotated[
        Literal["json", "coco", "csv", "panoptic", "semantic", "yolo", "voc", "labelstudio", "fiftyone"] | None,
        typer.Option(help="Output format: printed, or a dataset in --out. [a table]"),
    ] = None,
    labels: Annotated[bool, opt.flag("--save-txt", "Write YOLO labels to --out too.")] = False,
    confidences: Annotated[bool, opt.flag("--save-conf", "Add scores to labels of YOLO and VOC.")] = False,
    crops: Annotated[bool, opt.flag("--save-crop", "Write the image in each box to --out.")] = False,
    polygons: Annotated[bool, opt.flag("--polygons", "Add polygons to the masks in JSON.")] = False,
    ids_from: Annotated[
        Path | None, opt.option("ANN", "COCO annotations with the image ids for --format coco, by file name.")
    ] = None,
    batch_size: Annotated[int, opt.option("N", "Images per batch, of equal input size.", min=1)] = 1,
    max_pixels: Annotated[int, opt.option("N", "Skip larger images.", min=1)] = 200_000_000,
    save: Annotated[Path | None, opt.option("FILE.jsonl", "Write a JSON line per image, as results come.")] = None,
    resume: Annotated[bool, opt.flag("--resume", "Continue the file of --save.")] = False,
    strict: Annotated[bool, opt.flag("--strict", "Fail if an image was skipped.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="List all images, not a summary of many.")] = False,
    load: "detrcli.LoadOptions",  # built from the options that the decorator adds
    overwrite: opt.Overwrite = False,
    json: opt.Json = False,
) -> None:
    """Detect objects in images."""
    if json and format not in (None, "json"):
        raise UsageError(f"--json and --format {format} cannot be combined.")
    format = "json" if json else format
    maps = format if format in ("panoptic", "semantic") else None
    dataset = format if format in ("yolo", "voc", "labelstudio", "fiftyone") else None
    if labels and (maps or dataset not in (None, "yolo")):
        raise UsageError(f"--save-txt and --format {format} cannot be combined.")
    draw = not no_images and dataset is None
    if out is not None and (maps or dataset or labels or crops or draw):
        check_free(out, overwrite=overwrite or resume, folder=True)
    if resume and save is None:
        raise UsageError("--resume continues a file, which --save names.")
    if save is not None and format is not None and dataset is None:
        raise UsageError("--save writes the results to a file, --json and --format print them. Use one of them.")
    if ids_from is not None and format not in ("coco", "panoptic", "semantic", "fiftyone"):
        raise UsageError("--ids-from needs --format coco, panoptic, semantic or fiftyone.")
    if polygons and save is None and format != "json":
        raise UsageError("--polygons needs --json or --save.")
    if confidences and not labels and dataset not in ("yolo", "voc"):
        raise UsageError("--save-conf needs --save-txt, or --format yolo or voc.")
    if (line_width is not None or hide_labels) and not draw:
        drawing = "--no-images" if no_images else f"--format {format}"
        raise UsageError(f"--line-width and --hide-labels change annotated images, and {drawing} writes none.")
    check_files([(save, (".jsonl",))], overwrite=overwrite or resume)
    opt.check_available(load.weights, load)
    predictions = detrcli.predict(
        list(_paths(images)), load, threshold=threshold, classes=None if classes is None else classes.split(","),
        one_label=one_label, max_detections=max_detections, clip=clip, maps=maps,
        labels="yolo" if labels else dataset, confidences=confidences, copy_images=not no_images, crops=crops,
        draw=draw and detrcli.DrawingStyle(line_width, not hide_labels), out=out, save=save, resume=resume,
        polygons=polygons, ids_from=ids_from, batch_size=batch_size, max_pixels=max_pixels, reporter=STDERR,
    )  # fmt: skip
    if launch().rank > 0:  # only the first process prints
        return
    if save is not None or dataset is not None:
        print_content(predictions.summary)
    elif format == "coco":
        print_json(predictions.coco)
    elif format == "csv":
        sys.stdout.write(predictions.csv)
    elif maps:
        print_json(predictions.maps)
    elif format == "json":
        print_json(predictions.document)
    else:
        print_content(predictions.table if verbose else predictions.content)
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
