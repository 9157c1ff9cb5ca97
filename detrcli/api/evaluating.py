"""Evaluation of a model, or of a file of results, on a split. Results files are scored without torch."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detrcli.api.datasets import checked_split, match_classes, with_readable_masks
from detrcli.api.options import WEIGHTS, Data, Weights, data_options
from detrcli.api.results import Cell, PlainResult, Result, Table, metric
from detrcli.errors import DataError
from detrcli.evaluation.comparison import Difference, compared
from detrcli.evaluation.metrics import MAX_DETECTIONS, METRICS, ClassScore, boundary_evaluation, score
from detrcli.evaluation.outcomes import ERROR_KINDS, ErrorKind, errors_of
from detrcli.evaluation.panoptic import PanopticQuality, Quality, panoptic_quality, quality_of
from detrcli.evaluation.results import Results, read_results, write_results
from detrcli.evaluation.thresholds import Thresholds, best_thresholds, write_thresholds
from detrcli.evaluation.truth import Truth, classes_in_split, truth_masks, truth_of
from detrcli.reporter import SILENT, Reporter

if TYPE_CHECKING:
    from detrcli.api.detecting import ModelRun
    from detrcli.inference.detector import Detector


# The IoU, object size and number of detections of each COCO metric.
IOUS = {"AP50": "0.50", "AP75": "0.75"}
SIZES = {"s": "small", "m": "medium", "l": "large"}
COUNTS = {"AR1": 1, "AR10": 10}


@dataclass(frozen=True)
class Evaluation(Result):
    """The metrics of detections on a split, and what they were computed from."""

    name: str  # of the weights, or the file of results
    split: str
    truth: Truth
    results: Results
    threshold: float | None  # None: all entries of a results file count
    max_detections: int
    metrics: Mapping[str, float]  # the twelve COCO numbers, -1 where there is no object
    per_class: Sequence[ClassScore]
    scoring_seconds: float
    masks: Mapping[str, float] | None  # the twelve numbers of masks, if model and data have masks
    boundaries: Mapping[str, float] | None  # and of their outlines
    panoptic: PanopticQuality | None  # if the data has panoptic maps and the model masks
    errors: Sequence[ErrorKind] | None  # if requested
    thresholds: Thresholds | None  # if requested
    run: "ModelRun | None"  # None for a results file

    @property
    def content(self) -> Sequence[str | Table]:
        images, objects = len(self.truth.images), int((~self.truth.crowd).sum())
        content: list[str | Table] = [f"{self.name} on {self.split}: {images:,} images, {objects:,} objects"]
        if self.threshold:
            content.append(f"Only detections with a score of {self.threshold} or more count, which lowers AP.")
        columns, top = {"": self.metrics}, self.max_detections
        if self.masks is not None and self.boundaries is not None:
            columns = {"boxes": self.metrics, "masks": self.masks, "boundary": self.boundaries}
        metrics: list[tuple[Cell, ...]] = [
            (
                name,
                *(metric(values[name]) for values in columns.values()),
                IOUS.get(name, "0.50:0.95"),
                SIZES.get(name[-1], "all"),
                min(COUNTS.get(name, top), top),
            )
            for name in METRICS
        ]
        classes = [
            (score.label, str(score.category_id), metric(score.AP), metric(score.AP50), score.targets)
            for score in sorted(self.per_class, key=lambda score: (-score.AP, score.label))
        ]
        content += [
            Table("", ("", *columns, "IoU", "size", "at most"), metrics),
            Table("", ("class", "id", "AP", "AP50", "objects"), classes),
        ]
        if self.panoptic is not None:
            content += _quality_tables(self.panoptic)
        if self.errors is not None:
            rows = [(kind.kind, ERROR_KINDS[kind.kind][1], kind.count, f"+{kind.cost:.3f}") for kind in self.errors]
            content.append(Table("", ("error", "meaning", "count", "AP50 without"), rows))
        if self.thresholds is not None:
            best = (("all classes", self.thresholds.overall), *self.thresholds.by_class.items())
            numbers = [
                (name, *(f"{v:.3f}" for v in (at.threshold, at.f1, at.precision, at.recall))) for name, at in best
            ]
            content.append(Table("", ("highest F1", "from score", "F1", "precision", "recall"), numbers))
        if self.run is not None:
            stages = ", ".join(f"{stage} {1000 * spent:.1f} ms" for stage, spent in self.run.seconds_per_image.items())
            content.append(f"Time per image: {stages}. Scoring took {self.scoring_seconds:.2f} s.")
            if self.run.parameters is not None:
                content.append(f"The model has {self.run.parameters:,} parameters.")
        return content

    @property
    def document(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "split": self.split, "threshold": self.threshold, "max_detections": self.max_detections
        }  # fmt: skip
        if self.run is None:
            facts["predictions"] = self.name
        else:
            mapping, seconds = self.run.class_mapping, self.run.seconds_per_image
            facts |= {
                "weights": self.name,
                "parameters": self.run.parameters,
                "paired_by": mapping.by,
                "only_weights": list(mapping.only_weights),
                "only_data": list(mapping.only_data),
                **({} if not self.run.tiling.merges else self.run.tiling.facts),
                "seconds_per_picture": {stage: round(spent, 6) for stage, spent in seconds.items()},
            }
        return {
            "schema": "detr.eval/1",
            "images": len(self.truth.images),
            "metrics": dict(self.metrics),
            **({} if self.masks is None else {"masks": dict(self.masks)}),
            **({} if self.boundaries is None else {"boundary": dict(self.boundaries)}),
            **({} if self.panoptic is None else {"panoptic": self.panoptic.document()}),
            "per_class": [asdict(score) for score in self.per_class],
            **facts,
            **({} if self.errors is None else {"errors": [asdict(kind) for kind in self.errors]}),
            **({} if self.thresholds is None else {"thresholds": self.thresholds.document()}),
            "scoring_seconds": round(self.scoring_seconds, 6),
        }

    def write(self, results: Path | None = None, thresholds: Path | None = None) -> None:
        """Write the detections as COCO results, and the thresholds of highest F1."""
        if results is not None:
            write_results(self.results, results)
        if thresholds is not None and self.thresholds is not None:
            write_thresholds(self.thresholds, thresholds)


def evaluate(
    data: Data,
    weights: "Weights | Detector" = WEIGHTS,
    *,
    predictions: str | Path | None = None,
    split: str = "val",
    threshold: float | None = None,
    max_detections: int = MAX_DETECTIONS,
    limit: int | None = None,
    classes: Sequence[str] | None = None,
    batch_size: int | None = None,
    match_classes_by_id: bool = False,
    errors: bool = False,
    thresholds: bool = False,
    device: str = "auto",
    reporter: Reporter = SILENT,
) -> Evaluation:
    """Evaluate a model, or a file of COCO results (`predictions`), on a split.

    `limit` takes only the first images, `classes` only some classes of the data. `errors` counts the errors by kind,
    `thresholds` finds the scores of highest F1. Models that take phrases detect the classes of the data.
    """
    options = data_options(data)
    checked = checked_split(options, split, images=predictions is None, reporter=reporter)

    def ground_truth(*, masks: bool) -> Truth:
        part = with_readable_masks(checked, split, skip_bad=options.skip_bad, reporter=reporter) if masks else checked
        truth = truth_of(part, limit=limit, classes=classes)
        if not len(truth.images):
            raise DataError(f"There are no usable images in {split}.")
        return truth

    truth = ground_truth(masks=False)
    run = None
    if predictions is not None:
        name, written = str(predictions), checked.written
        results = read_results(Path(predictions), written.image_ids, written.category_ids, written.files)
        if threshold is not None:  # otherwise all entries count, those of negative scores too
            results = results.part(results.scores >= threshold)
        if results.masks is not None:
            truth = ground_truth(masks=True)
    else:
        from detrcli.api.detecting import detect  # slow to import
        from detrcli.api.detectors import as_detector

        names = classes_in_split(checked).names.tolist()
        detector = as_detector(weights, device, names, reporter, images=len(truth.images))
        name = detector.checkpoint.source
        mapping = match_classes(detector.classes, checked, by_id=match_classes_by_id, reporter=reporter)
        if detector.has_masks:
            truth = ground_truth(masks=True)
        truth, results, run = detect(
            detector,
            truth,
            mapping,
            threshold=threshold,
            batch_size=batch_size,
            panoptic=classes is None,
            max_detections=max_detections,
            skip_bad=options.skip_bad,
            reporter=reporter,
        )
        threshold = threshold or 0.0
    start = time.perf_counter()
    scores = score(truth, results, max_detections=max_detections)
    masks = None if results.masks is None else truth_masks(truth)
    of_masks = of_boundaries = quality = None
    if masks is not None:
        of_masks = score(truth, results, max_detections=max_detections, masks=masks).metrics
        of_boundaries = score(
            truth, results, max_detections=max_detections, masks=masks, backend=boundary_evaluation
        ).metrics
        if run is not None and run.segments is not None:
            quality = quality_of(truth, masks, run.segments)
    return Evaluation(
        name=name,
        split=split,
        truth=truth,
        results=results,
        threshold=threshold,
        max_detections=max_detections,
        metrics=scores.metrics,
        per_class=scores.per_class,
        scoring_seconds=time.perf_counter() - start,
        masks=of_masks,
        boundaries=of_boundaries,
        panoptic=quality,
        errors=errors_of(truth, results) if errors else None,
        thresholds=best_thresholds(truth, results) if thresholds else None,
        run=run,
    )


@dataclass(frozen=True)
class Comparison(Result):
    """Several models on the same images, and the differences from the first."""

    schema: str
    names: Sequence[str]
    metrics: Sequence[Mapping[str, float]]
    counts: Mapping[str, Sequence[int]]
    documents: Sequence[Mapping[str, Any]]
    differences: Sequence[Difference]

    @property
    def content(self) -> Sequence[str | Table]:
        rows = [(name, *(metric(values[name]) for values in self.metrics)) for name in METRICS]
        rows += [(name, *(f"{count:,}" for count in counts)) for name, counts in self.counts.items()]
        return [Table("", ("", *self.names), rows), *(difference.verdict for difference in self.differences)]

    @property
    def document(self) -> dict[str, Any]:
        differences = [difference.document(self.names[0]) for difference in self.differences]
        return {"schema": self.schema, "models": list(self.documents), "differences": differences}


def compare_evaluations(evaluations: Sequence[Evaluation]) -> Comparison:
    """Compare evaluations of the same images: which model is better, or may be so by chance."""
    names = [evaluation.name for evaluation in evaluations]
    results = [evaluation.results for evaluation in evaluations]
    return Comparison(
        "detr.eval-compare/1",
        names,
        [evaluation.metrics for evaluation in evaluations],
        {"parameters": [(evaluation.run and evaluation.run.parameters) or 0 for evaluation in evaluations]},
        [evaluation.document for evaluation in evaluations],
        compared(evaluations[0].truth, list(zip(names, results, strict=True))),
    )


def evaluate_panoptic(truth: str | Path, predictions: str | Path) -> Result:
    """Compare the panoptic JSON document of `detrcli.predict` with COCO panoptic ground truth."""
    quality = panoptic_quality(Path(truth), Path(predictions))
    facts = {"images": quality.images, "predictions": str(predictions)}
    return PlainResult(
        [f"{predictions}: {quality.images:,} images", *_quality_tables(quality)],
        {"schema": "detr.eval/1", **facts, "panoptic": quality.document()},
    )


def _quality_tables(quality: PanopticQuality) -> list[Table]:
    def numbers(quality: Quality) -> list[str]:
        return [metric(value) for value in (quality.PQ, quality.SQ, quality.RQ)]

    groups = {"panoptic": quality.all, "things": quality.things, "stuff": quality.stuff}
    rows = [
        (each.label, str(each.category_id), "thing" if each.thing else "stuff", *numbers(each))
        for each in sorted(quality.per_class, key=lambda each: (-each.PQ, each.label))
    ]
    return [
        Table("", ("", "PQ", "SQ", "RQ"), [(name, *numbers(group)) for name, group in groups.items()]),
        Table("", ("class", "id", "", "PQ", "SQ", "RQ"), rows),
    ]
