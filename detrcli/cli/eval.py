"""`detr eval`: the COCO numbers of a model or of a results file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detrcli.cli.options import (
    DATA,
    Debug,
    Device,
    Engine,
    Exif,
    Json,
    MaxSize,
    Model,
    Overwrite,
    PairById,
    Precision,
    Sha256,
    Size,
    SkipBad,
    ValAnn,
    ValImages,
    Weights,
)
from detrcli.errors import UsageError

if TYPE_CHECKING:
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
    errors: Annotated[
        bool, typer.Option("--errors", help="Count errors by kind, and what each costs in AP50 (TIDE).")
    ] = False,
    thresholds: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the scores of highest F1, for `detr predict --threshold FILE`."
        ),
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
    pair_by_id: PairById = False,
    model: Model = None,
    sha256: Sha256 = None,
    device: Device = "auto",
    precision: Precision = None,
    engine: Engine = None,
    overwrite: Overwrite = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure average precision, the twelve COCO numbers."""
    from detrcli.api.evaluating import evaluate as evaluate_split
    from detrcli.cli.console import counting, print_json, warn
    from detrcli.cli.evaluation_report import document, show_evaluation
    from detrcli.cli.outputs import check_free, check_not_in_data, check_not_inputs
    from detrcli.cli.sources import open_source, tell_class_mapping
    from detrcli.evaluation.errors import errors_of
    from detrcli.evaluation.results import write_results
    from detrcli.evaluation.thresholds import best_thresholds, write_thresholds

    if predictions is not None and save is not None:
        raise UsageError("--save writes what a model finds; with --predictions there is no model.")
    for path in (save, thresholds):
        if path is not None:
            check_free(path, overwrite=overwrite)
            check_not_inputs([path], [given for given in (val_ann, predictions, Path(weights)) if given])
            check_not_in_data(path, data, val_images)
            path.parent.mkdir(parents=True, exist_ok=True)  # what cannot be written shall not cost a run
    if thresholds is not None and threshold:
        raise UsageError("--thresholds looks for the best score among all: leave out --threshold.")

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
            engine=engine,
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
        pair_by_id=pair_by_id,
        note=warn,
        mapped=tell_class_mapping,
        watch=counting("evaluating"),
    )
    if not found.first:
        return
    for unread in found.unread:
        warn(f"left out: {unread}")
    name = weights if predictions is None else str(predictions)
    kinds = errors_of(found.truth, found.results) if errors else None
    best = None if thresholds is None else best_thresholds(found.truth, found.results)
    if json:
        print_json(document(found, name, kinds, best))
    else:
        show_evaluation(found, name, kinds, best)
    if best is not None and thresholds is not None:
        write_thresholds(best, thresholds)
    if save is not None:
        write_results(found.results, save)


def _names(classes: str | None) -> list[str] | None:
    return None if classes is None else [name for name in classes.split(",") if name.strip()]
