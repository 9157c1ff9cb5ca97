"""`detr eval`: the COCO metrics of a model or of a results file."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import detrcli
from detrcli.cli import options as opt
from detrcli.cli.console import STDERR, print_result
from detrcli.cli.outputs import check_files, check_free, check_not_in_data
from detrcli.errors import UsageError
from detrcli.system.launch import launch


@opt.options(
    *(name for name in opt.LOAD if name != "weights"),
    "text",
    "tiles",
    "overlap",
    "nms",
    "precision",
    "engine",
    files=["val"],
)
def eval_(
    data: "detrcli.DataOptions",
    *,
    weights: opt.SeveralWeights = ["detr-r50"],  # noqa: B006  # typer copies it
    split: opt.Split = "val",
    predictions: Annotated[Path | None, opt.option("FILE", "Score these COCO results; no model is run.")] = None,
    panoptic: Annotated[
        Path | None,
        opt.option("FILE", "COCO panoptic ground truth, for --predictions from `detr predict --format panoptic`."),
    ] = None,
    save: Annotated[Path | None, opt.option("FILE", "Write the detections as COCO results.")] = None,
    errors: Annotated[bool, opt.flag("--errors", "Count errors by kind, and what each costs in AP50 (TIDE).")] = False,
    thresholds: Annotated[
        Path | None, opt.option("FILE", "Write the thresholds of highest F1, for `detr predict --threshold FILE`.")
    ] = None,
    report: Annotated[Path | None, opt.option("DIR", "Write the page of `detr report` to a new folder too.")] = None,
    threshold: Annotated[
        float | None,
        opt.option("P", "Minimum score; above 0 it lowers AP. [0; with --predictions all count]", min=0, max=1),
    ] = None,
    max_detections: Annotated[int, opt.option("N", "Detections per image and class that count.", min=1)] = 100,
    limit: Annotated[int | None, opt.option("N", "Only the first images of the split.", min=1)] = None,
    classes: Annotated[str | None, opt.option("A,B,...", "Only these classes, by their names in the data.")] = None,
    batch_size: Annotated[
        int | None, opt.option("N", "Images per batch and process, of equal input size. [8 on a GPU, else 1]", min=1)
    ] = None,
    match_classes_by_id: opt.MatchClassesById = False,
    load: "detrcli.LoadOptions",
    overwrite: opt.Overwrite = False,
    json: opt.Json = False,
) -> None:
    """Measure average precision, with the twelve COCO metrics."""
    if panoptic is not None:
        if data.data is not None or predictions is None:
            raise UsageError(
                "--panoptic FILE needs --predictions, the panoptic.json of `detr predict --format panoptic`, and no "
                "DATA."
            )
        print_result(detrcli.evaluate_panoptic(panoptic, predictions), json=json)
        return
    if len(weights) > 1 and any((predictions, save, thresholds, report)):
        raise UsageError("--predictions, --save, --thresholds and --report need a single --weights.")
    if predictions is not None and (save is not None or report is not None):
        raise UsageError("--save and --report need a model; with --predictions no model is run.")
    if report is not None and (limit is not None or classes is not None or threshold):
        raise UsageError("--report covers the whole split: leave out --limit, --classes and --threshold.")
    if load.tiling.merges and (predictions is not None or report is not None):
        raise UsageError("--tiles and --nms change what a model detects: leave out --predictions and --report.")
    if thresholds is not None and threshold:
        raise UsageError("--thresholds considers all scores: leave out --threshold.")
    inputs = [data.files["val"][0], predictions, *map(Path, weights)]
    check_files([(save, ()), (thresholds, ())], overwrite=overwrite, inputs=inputs, data=data)
    if report is not None:
        check_free(report, folder=True)
        check_not_in_data(report, data)
    class_names = None if classes is None else [name for name in classes.split(",") if name.strip()]
    evaluations = []
    for name in weights if predictions is None else ():
        opt.check_available(name, load, data)
    for name in weights:
        evaluation = detrcli.evaluate(
            data, replace(load, weights=name), predictions=predictions, split=split, threshold=threshold,
            max_detections=max_detections, limit=limit, classes=class_names, batch_size=batch_size,
            match_classes_by_id=match_classes_by_id, errors=errors, thresholds=thresholds is not None, reporter=STDERR,
        )  # fmt: skip
        evaluations.append(evaluation)
    if launch().rank > 0:
        return
    print_result(detrcli.compare_evaluations(evaluations) if len(evaluations) > 1 else evaluation, json=json)
    evaluation.write(save, thresholds)  # these two and the report need a single evaluation
    if report is not None:
        failures = detrcli.report(
            data,
            replace(load, weights=weights[0]),
            split=split,
            match_classes_by_id=match_classes_by_id,
            class_names=evaluation.truth.classes.names.tolist(),
            reporter=STDERR,
        )
        STDERR.note(f"the report: {failures.page(report)}")
