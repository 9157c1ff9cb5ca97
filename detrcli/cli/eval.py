"""`detr eval`: the COCO numbers of a model or of a results file."""

import time
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
from detrcli.errors import DataError, UsageError
from detrcli.system.text import visible

if TYPE_CHECKING:
    from detrcli.evaluation.metrics import Scores
    from detrcli.evaluation.truth import Truth


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
    from detrcli.cli.console import print_json
    from detrcli.cli.outputs import check_free, check_not_in_data, check_not_inputs
    from detrcli.cli.sources import open_source, tell_pairing, tell_problems
    from detrcli.data.examine import headers_only
    from detrcli.evaluation.metrics import score
    from detrcli.evaluation.results import read_results, write_results
    from detrcli.evaluation.truth import truth_of

    if predictions is not None and save is not None:
        raise UsageError("--save writes what a model finds; with --predictions there is no model.")
    if save is not None:
        check_free(save, overwrite=overwrite)
        check_not_inputs([save], [path for path in (val_ann, Path(weights)) if path])
        check_not_in_data(save, data, val_images)
        save.parent.mkdir(parents=True, exist_ok=True)  # what cannot be written shall not cost a run
    source = open_source(data, {"val": (val_ann, val_images)})
    examined = headers_only(source, [split], exif, pictures=predictions is None, leave_out_bad=skip_bad)
    tell_problems(examined)
    checked = examined.splits[split]
    truth = truth_of(checked, limit=limit, classes=_names(classes))
    if not len(truth.images):
        raise DataError(f"There are no pictures in {split} that can be used.")

    if predictions is None and threshold is None:
        threshold = 0.0
    facts: dict[str, Any] = {"split": split, "threshold": threshold, "max_detections": max_detections}
    if predictions is None:
        from detrcli.cli.console import Status, warn
        from detrcli.cli.loading import load_detector
        from detrcli.evaluation.class_mapping import pair
        from detrcli.evaluation.run import readable, run
        from detrcli.evaluation.truth import classes_of
        from detrcli.system import distributed

        detector = load_detector(
            weights,
            model=model,
            sha256=sha256,
            size=size,
            max_size=max_size,
            device=device,
            precision=precision,
        )
        pairing = pair(detector.classes, classes_of(checked))
        tell_pairing(pairing)
        with distributed.joined(detector.device):
            first, share = distributed.rank() == 0, -(-len(truth.images) // distributed.world_size())
            with Status("evaluating", share) as status:
                found = run(
                    detector,
                    checked,
                    truth,
                    pairing,
                    threshold=threshold or 0.0,
                    batch_size=batch_size or (8 if detector.device.type == "cuda" else 1),
                    advance=status.advance,
                )
        truth = readable(truth, found, skip_bad=skip_bad)
        if not first:
            return
        for unread in found.unread.values():
            warn(f"left out: {unread}")
        results = found.results
        facts |= {
            "weights": weights,
            "parameters": sum(p.numel() for p in detector.model.parameters()),
            "paired_by": pairing.by,
            "only_weights": list(pairing.only_weights),
            "only_data": list(pairing.only_data),
            "seconds_per_picture": {
                stage: round(spent / share, 6) for stage, spent in detector.seconds.items()
            },
        }
    else:
        results = read_results(predictions, checked.written.image_ids, checked.written.category_ids)
        if threshold is not None:  # else every entry counts as written, those of negative scores too
            results = results.part(results.scores >= threshold)
        facts["predictions"] = str(predictions)

    start = time.perf_counter()
    scores = score(truth, results, max_detections=max_detections)
    facts["scoring_seconds"] = round(time.perf_counter() - start, 6)
    if json:
        print_json(_document(truth, scores, facts))
    else:
        _show(truth, scores, facts)
    if save is not None:
        write_results(results, save)


def _names(classes: str | None) -> list[str] | None:
    return None if classes is None else [name for name in classes.split(",") if name.strip()]


def _document(truth: "Truth", scores: "Scores", facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema": "detr.eval/1",
        "images": len(truth.images),
        "metrics": dict(scores.metrics),
        "per_class": [asdict(one) for one in scores.per_class],
        **facts,
    }


def _show(truth: "Truth", scores: "Scores", facts: dict[str, Any]) -> None:
    from detrcli.cli.console import print_table

    what = facts["weights"] if "weights" in facts else facts["predictions"]
    objects = int((~truth.crowd).sum())
    print(f"{visible(what)} on {facts['split']}: {len(truth.images):,} pictures, {objects:,} objects")
    if facts["threshold"]:
        print(f"Only detections with a score of {facts['threshold']} or more count, which lowers AP.")
    print()
    most = facts["max_detections"]
    print_table(
        ("", "", "IoU", "size", "at most"),
        [
            (name, _number(scores.metrics[name]), iou, area, min(count or most, most))
            for name, iou, area, count in _MEANINGS
        ],
    )
    print()
    print_table(
        ("class", "id", "AP", "AP50", "objects"),
        [
            (one.label, str(one.category_id), _number(one.AP), _number(one.AP50), one.targets)
            for one in sorted(scores.per_class, key=lambda one: (-one.AP, one.label))
        ],
    )
    if "parameters" in facts:
        stages = ", ".join(f"{name} {1000 * s:.1f} ms" for name, s in facts["seconds_per_picture"].items())
        print(f"\nA picture takes: {stages}. Scoring all of them took {facts['scoring_seconds']:.2f} s.")
        print(f"The model has {facts['parameters']:,} parameters.")


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
