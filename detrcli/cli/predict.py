"""`detr predict`: detections in pictures."""

import os
from contextlib import nullcontext
from itertools import zip_longest
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from detrcli.cli.inputs import paths_named
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
    Text,
    Weights,
)
from detrcli.errors import DataError, UsageError

if TYPE_CHECKING:
    from detrcli.segmentation.maps import MapKind

Format = Literal["json", "coco", "csv", "panoptic", "semantic"]


def predict(
    context: typer.Context,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Files, folders, globs, or - for paths on stdin.")
    ],
    weights: Weights = "detr-r50",
    text: Text = None,
    threshold: Annotated[
        str, typer.Option(metavar="P|FILE", help="Least score to keep, or those of each class that `detr eval` wrote.")
    ] = str(THRESHOLD),
    classes: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Only these classes, by the weights' names.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where annotated pictures go, else predictions/, numbered.")
    ] = None,
    no_images: Annotated[bool, typer.Option("--no-images", help="Draw nothing.")] = False,
    format_: Annotated[Format | None, typer.Option("--format", help="Print this in place of a table.")] = None,
    polygons: Annotated[
        bool, typer.Option("--polygons", help="With --json and --save: outlines of the masks beside them.")
    ] = False,
    ids_from: Annotated[
        Path | None, typer.Option(metavar="ANN", help="COCO annotations whose ids --format coco takes, by file name.")
    ] = None,
    size: Size = None,
    max_size: MaxSize = None,
    batch_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="Pictures of equal input size that go together.")
    ] = 1,
    max_pixels: Annotated[int, typer.Option(metavar="N", min=1, help="Larger pictures are not opened.")] = 200_000_000,
    save: Annotated[
        Path | None,
        typer.Option(metavar="FILE.jsonl", help="Write results as they come, a line a picture, and print none."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --save's file: what stands in it is not done again.")
    ] = False,
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
    from detrcli.cli.console import Status, print_json, tell, warn
    from detrcli.cli.outputs import check_ending, check_free, check_not_inputs
    from detrcli.data.paths import find_images

    kind = _map_kind(format_)
    if out is not None and (kind or not no_images):
        check_free(out, overwrite=overwrite or resume, folder=True)
    if resume and save is None:
        raise UsageError("--resume goes on with the file that --save names.")
    if save is not None:
        if format_ is not None:
            raise UsageError("--save writes the results, --json and --format print them: one at a time.")
        check_free(save, overwrite=overwrite or resume)
        check_ending(save, ".jsonl")
    overall, by_class = _thresholds(threshold)
    default = getattr(context.get_parameter_source("threshold"), "name", "") == "DEFAULT"
    if kind == "panoptic" and (by_class or classes is not None):
        raise UsageError("--format panoptic takes one --threshold for all classes, and no --classes.")
    if kind == "semantic" and not (default and classes is None):
        raise UsageError("--format semantic gives every pixel its class: leave out --threshold and --classes.")
    asked_for = {"all": overall, "classes": by_class} if by_class else overall
    if ids_from is not None and not (kind or format_ == "coco"):
        raise UsageError("--ids-from is for --format coco, panoptic and semantic: other formats name the files.")
    if polygons and not (save is not None or format_ == "json"):
        raise UsageError("--polygons is for --json and --save: other formats have no place for them.")
    named = list(find_images(paths_named(images)))
    if not named:
        raise DataError("No picture was named on stdin.")
    ids = None if ids_from is None else show.ids_from(ids_from, [str(item.path) for item in named])

    import detrcli.cli.maps as maps
    from detrcli.cli.drawing import DEFAULT_OUT, drawn, places
    from detrcli.cli.loading import load_detector
    from detrcli.cli.prediction_lines import PredictionLines
    from detrcli.inference.class_filter import above, chosen_ids, of_classes
    from detrcli.segmentation.maps import MapRequest
    from detrcli.system import distributed
    from detrcli.system.devices import find_device
    from detrcli.system.files import next_free_folder, write_whole

    placed = list(zip(named, places(named), strict=True))
    map_names = dict(zip((str(item.path) for item in named), maps.names(named), strict=True)) if kind else {}
    if out is not None:
        outputs = [] if no_images else [out / place for _, place in placed]
        if kind:
            outputs += [out / maps.file_of(kind), *(out / kind / name for name in map_names.values())]
        inputs = [item.path for item in named]
        check_not_inputs(outputs, inputs if ids_from is None else [*inputs, ids_from])
    with distributed.joined(find_device(device)):
        asked = {
            "weights": weights,
            "text": text,
            "threshold": asked_for,
            "classes": classes,
            "size": size,
            "max_size": max_size,
            "polygons": polygons or None,  # files of earlier versions do not say it
        }
        lines = None if save is None else PredictionLines(save, asked, resume=resume)
        if lines is not None:
            placed = [pair for pair in placed if str(pair[0].path) not in lines.done]
        alone = distributed.world_size() == 1 and not kind
        if not alone and out is None and (kind or not no_images):  # one folder for all
            out = distributed.broadcast_object(lambda: next_free_folder(DEFAULT_OUT))
            warn(f"annotated pictures go to {out}")
        mine = placed[distributed.rank() :: distributed.world_size()]
        detector = load_detector(
            weights,
            model=model,
            sha256=sha256,
            size=size,
            max_size=max_size,
            device=device,
            text=text,
            precision=precision,
            engine=engine,
        ).without_model()
        if polygons and not detector.has_masks:
            raise UsageError(f"{detector.checkpoint.source}: this model has no mask head; --polygons needs one.")
        paths = (item.path for item, _ in mine)
        least = min((overall, *by_class.values()))
        asked_map = None if kind is None else MapRequest(kind, None if default else overall)
        stream = detector.stream(paths, least, batch_size, max_pixels, keep_images=not no_images, maps=asked_map)
        if kind and out is not None:
            names = [map_names[str(item.path)] for item, _ in mine]
            stream = maps.written(names, stream, out / kind, detector.classes)
        if by_class:
            stream = above(stream, detector.classes, overall, by_class)
        if classes is not None:
            stream = of_classes(stream, chosen_ids(detector.classes, classes))

        results: list[show.Result] = []  # of this process; only those that were skipped, where lines are written
        objects = 0
        with (
            Status("predicting", len(mine), quiet=len(mine) == 1) as status,
            nullcontext() if lines is None else lines.writing(),
        ):
            for result in drawn(mine, stream, out):
                if lines is not None:
                    lines.add(result)
                    objects += len(result.detections or ())
                if lines is None or result.problem:
                    results.append(result)
                status.advance()
                for note in result.notes:
                    tell(f"{result.file}: {note}")
                if result.problem:
                    tell(f"{result.file}: skipped: {result.problem}")
        shares = distributed.gather((results, objects, len(mine)))
        if distributed.rank():
            return
    # Every picture stands in the place that it was named in.
    turns = zip_longest(*(results for results, _, _ in shares))
    results = [result for turn in turns for result in turn if result is not None]
    looked_at = sum(pictures for *_, pictures in shares)
    if save is not None:
        print(f"{looked_at:,} pictures, {sum(objects for _, objects, _ in shares):,} objects: {save}")
    elif kind and out is not None:
        found = maps.document(results, map_names, detector.classes, ids)
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / maps.file_of(kind), dumps(found).encode())
        print_json(found)
    else:
        show.print_results(results, format_, weights, asked_for, ids, polygons=polygons)

    skipped = sum(result.problem is not None for result in results)
    if looked_at and skipped == looked_at:
        raise DataError("No picture could be read.")
    if skipped and strict:
        raise DataError(f"{skipped} of {looked_at} pictures were skipped.")


def _map_kind(format_: Format | None) -> "MapKind | None":
    """Which map a format is."""
    return format_ if format_ == "panoptic" or format_ == "semantic" else None


def _thresholds(given: str) -> tuple[float, dict[str, float]]:
    """One score for all classes, or a file of those of each."""
    from detrcli.evaluation.thresholds import read_thresholds

    path = Path(given).expanduser()
    if os.path.isfile(path):
        return read_thresholds(path)
    try:
        score = float(given)
    except ValueError:
        score = -1.0  # neither
    if not 0 <= score <= 1:
        raise UsageError(f"--threshold {given}: it is a score between 0 and 1, or a file of `detr eval --thresholds`.")
    return score, {}
