"""`detr eval`: the COCO numbers of a model or of a results file."""

from collections.abc import Sequence
from functools import partial
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
    SeveralWeights,
    Sha256,
    Size,
    SkipBad,
    Text,
    ValAnn,
    ValImages,
)
from detrcli.errors import UsageError

if TYPE_CHECKING:
    from detrcli.inference.detector import Detector


def evaluate(
    data: Annotated[Path | None, typer.Argument(help=DATA)] = None,
    weights: SeveralWeights = ["detr-r50"],  # noqa: B006  # typer copies it
    text: Text = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="train, val or test.")] = "val",
    val_ann: ValAnn = None,
    val_images: ValImages = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Score these COCO results; no model is run.")
    ] = None,
    panoptic: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="COCO panoptic ground truth, for --predictions by `detr predict --format panoptic`."
        ),
    ] = None,
    save: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the detections as COCO results.")] = None,
    errors: Annotated[
        bool, typer.Option("--errors", help="Count errors by kind, and what each costs in AP50 (TIDE).")
    ] = False,
    thresholds: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the scores of highest F1, for `detr predict --threshold FILE`."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the page of `detr report` too, into a new folder.")
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
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first pictures of the split.")] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Only these classes, by their names in the data.")
    ] = None,
    size: Size = None,
    max_size: MaxSize = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Pictures of equal input size that go together. [8 on a GPU]")
    ] = None,
    exif: Exif = "auto",
    skip_bad: SkipBad = False,
    match_classes_by_id: PairById = False,
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
    if panoptic is not None:
        _panoptic(data, panoptic, predictions, as_json=json)
        return
    from detrcli.api.evaluating import Evaluation
    from detrcli.api.evaluating import evaluate as evaluate_split
    from detrcli.cli.comparison import compared_document, show_compared
    from detrcli.cli.console import counting, print_json, warn
    from detrcli.cli.evaluation_report import document, show_evaluation
    from detrcli.cli.outputs import check_free, check_not_in_data, check_not_inputs
    from detrcli.cli.sources import open_source, tell_class_mapping
    from detrcli.evaluation.outcomes import errors_of
    from detrcli.evaluation.results import write_results
    from detrcli.evaluation.thresholds import best_thresholds, write_thresholds

    of_one = {"--predictions": predictions, "--save": save, "--thresholds": thresholds, "--report": report}
    for option, given in of_one.items():
        if given is not None and len(weights) > 1:
            raise UsageError(f"{option} is for one model; --weights is given {len(weights)} times.")
    if predictions is not None and (save is not None or report is not None):
        raise UsageError("--save and --report are of what a model finds; with --predictions there is no model.")
    if report is not None and (limit is not None or classes is not None or threshold):
        raise UsageError("--report is about the whole split: leave out --limit, --classes and --threshold.")
    for path in (save, thresholds):
        if path is not None:
            check_free(path, overwrite=overwrite)
            inputs = [val_ann, predictions, *map(Path, weights)]
            check_not_inputs([path], [given for given in inputs if given])
            check_not_in_data(path, data, val_images)
            path.parent.mkdir(parents=True, exist_ok=True)  # what cannot be written shall not cost a run
    if report is not None:
        check_free(report, folder=True)
        check_not_in_data(report, data, val_images)
    if thresholds is not None and threshold:
        raise UsageError("--thresholds looks for the best score among all: leave out --threshold.")

    def detector(named: str, class_names: Sequence[str]) -> "Detector":
        from detrcli.cli.loading import load_detector

        return load_detector(
            named,
            model=model,
            sha256=sha256,
            size=size,
            max_size=max_size,
            device=device,
            text=text,
            class_names=class_names,
            precision=precision,
            engine=engine,
        )

    source = open_source(data, {"val": (val_ann, val_images)})

    def evaluated(named: str) -> Evaluation:
        return evaluate_split(
            source,
            partial(detector, named),
            predictions=predictions,
            split=split,
            threshold=threshold,
            max_detections=max_detections,
            limit=limit,
            classes=_names(classes),
            batch_size=batch_size,
            exif=exif,
            skip_bad=skip_bad,
            match_classes_by_id=match_classes_by_id,
            note=warn,
            mapped=tell_class_mapping,
            watch=counting("evaluating"),
        )

    if len(weights) > 1:
        several = [evaluated(named) for named in weights]
        if several[0].first and json:
            print_json(compared_document(weights, several))
        elif several[0].first:
            show_compared(weights, several)
        return
    found = evaluated(weights[0])
    if not found.first:
        return
    for unread in found.unread:
        warn(f"left out: {unread}")
    name = weights[0] if predictions is None else str(predictions)
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
    if report is not None:
        from detrcli.api.reporting import report as report_on

        why = report_on(
            source, partial(detector, name, found.truth.classes.names.tolist()), split=split, exif=exif,
            skip_bad=skip_bad, match_classes_by_id=match_classes_by_id, watch=counting("looking at pictures"),
        )  # fmt: skip
        warn(f"the page: {why.page(report)}")


def _panoptic(data: Path | None, truth: Path, predictions: Path | None, *, as_json: bool) -> None:
    if data is not None or predictions is None:
        raise UsageError(
            "--panoptic FILE is compared with --predictions, the panoptic.json of `detr predict --format panoptic`; "
            "DATA is left out."
        )
    from detrcli.cli.console import print_json
    from detrcli.cli.panoptic_report import panoptic_document, show_panoptic
    from detrcli.evaluation.panoptic import panoptic_quality

    found = panoptic_quality(truth, predictions)
    if as_json:
        print_json(panoptic_document(found, str(predictions)))
    else:
        show_panoptic(found, str(predictions))


def _names(classes: str | None) -> list[str] | None:
    return None if classes is None else [name for name in classes.split(",") if name.strip()]
