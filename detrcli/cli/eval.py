"""`detr eval`: the COCO numbers of a model or of a results file."""

from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detrcli.cli.options import (
    DATA,
    Debug,
    Device,
    Exif,
    Json,
    MaxSize,
    Model,
    Overwrite,
    Precision,
    Sha256,
    Size,
    SkipBad,
    ValAnn,
    ValImages,
    Weights,
)
from detrcli.errors import UsageError
from detrcli.system.text import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from detrcli.api.evaluating import Evaluation
    from detrcli.inference.detector import Detector


def evaluate(
    data: Annotated[Path | None, typer.Argument(help=DATA)] = None,
    weights: Weights = "detr-r50",
    split: Annotated[str, typer.Option(metavar="NAME", help="train, val or test.")] = "val",
    val_ann: ValAnn = None,
    val_images: ValImages = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Score these COCO results; no model is run.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the detections as COCO results.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            min=0,
            max=1,
            help="Least score to keep; more than 0 lowers AP. [0; with --predictions every entry counts]",
        ),
    ] = None,
    max_detections: Annotated[
        int, typer.Option(metavar="N", min=1, help="Of an image and class, the best that count.")
    ] = 100,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only the first pictures of the split.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Only these classes, by their names in the data.")
    ] = None,
    size: Size = None,
    max_size: MaxSize = None,
    batch_size: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Pictures of equal input size that go together. [8 on a GPU]"),
    ] = None,
    exif: Exif = "auto",
    skip_bad: SkipBad = False,
    model: Model = None,
    sha256: Sha256 = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    overwrite: Overwrite = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure average precision, the twelve COCO numbers."""
    from detrcli.api.evaluating import evaluate as evaluate_split
    from detrcli.cli.console import print_json, warn
    from detrcli.cli.outputs import check_free, check_not_in_data, check_not_inputs
    from detrcli.cli.sources import open_source, tell_class_mapping
    from detrcli.evaluation.results import write_results

    if predictions is not None and save is not None:
        raise UsageError("--save writes what a model finds; with --predictions there is no model.")
    if save is not None:
        check_free(save, overwrite=overwrite)
        check_not_inputs([save], [path for path in (val_ann, Path(weights)) if path])
        check_not_in_data(save, data, val_images)
        save.parent.mkdir(parents=True, exist_ok=True)  # what cannot be written shall not cost a run

    def detector() -> "Detector":
        from detrcli.cli.loading import load_detector

        return load_detector(
            weights,
            model=model,
            sha256=sha256,
            size=size,
            max_size=max_size,
            device=device,
            precision=precision,
        )

    found = evaluate_split(
        open_source(data, {"val": (val_ann, val_images)}),
        detector,
        predictions=predictions,
        split=split,
        threshold=threshold,
        max_detections=max_detections,
        limit=limit,
        classes=_names(classes),
        batch_size=batch_size,
        exif=exif,
        skip_bad=skip_bad,
        note=warn,
        mapped=tell_class_mapping,
        watch=_watch,
    )
    if not found.first:
        return
    for unread in found.unread:
        warn(f"left out: {unread}")
    name = weights if predictions is None else str(predictions)
    if json:
        print_json(_document(found, name))
    else:
        _show(found, name)
    if save is not None:
        write_results(found.results, save)


@contextmanager
def _watch(pictures: int) -> "Iterator[Callable[[], None]]":
    from detrcli.cli.console import Status

    with Status("evaluating", pictures) as status:
        yield status.advance


def _names(classes: str | None) -> list[str] | None:
    return None if classes is None else [name for name in classes.split(",") if name.strip()]


def _document(found: "Evaluation", name: str) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "split": found.split,
        "threshold": found.threshold,
        "max_detections": found.max_detections,
    }
    if found.class_mapping is not None:
        facts |= {
            "weights": name,
            "parameters": found.parameters,
            "paired_by": found.class_mapping.by,
            "only_weights": list(found.class_mapping.only_weights),
            "only_data": list(found.class_mapping.only_data),
            "seconds_per_picture": {
                stage: round(spent, 6) for stage, spent in (found.seconds_per_picture or {}).items()
            },
        }
    else:
        facts["predictions"] = name
    return {
        "schema": "detr.eval/1",
        "images": len(found.truth.images),
        "metrics": dict(found.metrics),
        "per_class": [asdict(one) for one in found.per_class],
        **facts,
        "scoring_seconds": round(found.scoring_seconds, 6),
    }


def _show(found: "Evaluation", name: str) -> None:
    from detrcli.cli.console import print_table

    objects = int((~found.truth.crowd).sum())
    print(f"{visible(name)} on {found.split}: {len(found.truth.images):,} pictures, {objects:,} objects")
    if found.threshold:
        print(f"Only detections with a score of {found.threshold} or more count, which lowers AP.")
    print()
    most = found.max_detections
    print_table(
        ("", "", "IoU", "size", "at most"),
        [
            (metric, _number(found.metrics[metric]), iou, area, min(count or most, most))
            for metric, iou, area, count in _MEANINGS
        ],
    )
    print()
    print_table(
        ("class", "id", "AP", "AP50", "objects"),
        [
            (one.label, str(one.category_id), _number(one.AP), _number(one.AP50), one.targets)
            for one in sorted(found.per_class, key=lambda one: (-one.AP, one.label))
        ],
    )
    if found.seconds_per_picture is not None:
        stages = ", ".join(f"{stage} {1000 * s:.1f} ms" for stage, s in found.seconds_per_picture.items())
        print(f"\nA picture takes: {stages}. Scoring all of them took {found.scoring_seconds:.2f} s.")
        print(f"The model has {found.parameters:,} parameters.")


# Name, IoU, size of the objects, detections of an image and class that count (None: --max-detections).
_MEANINGS = (
    ("AP", "0.50:0.95", "all", None),
    ("AP50", "0.50", "all", None),
    ("AP75", "0.75", "all", None),
    ("APs", "0.50:0.95", "small", None),
    ("APm", "0.50:0.95", "medium", None),
    ("APl", "0.50:0.95", "large", None),
    ("AR1", "0.50:0.95", "all", 1),
    ("AR10", "0.50:0.95", "all", 10),
    ("AR100", "0.50:0.95", "all", None),
    ("ARs", "0.50:0.95", "small", None),
    ("ARm", "0.50:0.95", "medium", None),
    ("ARl", "0.50:0.95", "large", None),
)


def _number(value: float) -> str:
    return "-1" if value == -1 else f"{value:.3f}"
