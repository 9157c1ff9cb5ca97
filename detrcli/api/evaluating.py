"""A model, or a file of results, against the ground truth of a split."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detrcli.api.opening import Note, Watch, checked_split, no_note, source_of, unwatched, with_readable_masks
from detrcli.data.checks import Exif, Split
from detrcli.data.splits import DataSource
from detrcli.errors import DataError
from detrcli.evaluation.boundary import with_boundaries
from detrcli.evaluation.masks import truth_masks
from detrcli.evaluation.metrics import MAX_DETECTIONS, ClassScore, score
from detrcli.evaluation.panoptic import FoundSegment, PanopticQuality, can_be_counted, quality_of
from detrcli.evaluation.results import Results, read_results
from detrcli.evaluation.truth import Truth, classes_in_split, truth_of
from detrcli.reporter import Reporter

if TYPE_CHECKING:
    from detrcli.api.detector import Text
    from detrcli.evaluation.class_mapping import ClassMapping
    from detrcli.inference.detector import Detector


@dataclass(frozen=True)
class Evaluation:
    """How good detections are."""

    split: str
    truth: Truth
    results: Results
    metrics: Mapping[str, float]  # the twelve COCO numbers, -1 where there is nothing to find
    per_class: Sequence[ClassScore]
    threshold: float | None  # None: every entry of a results file counts
    max_detections: int
    scoring_seconds: float
    first: bool = True  # of several processes, the one that speaks
    class_mapping: "ClassMapping | None" = None  # where a model was run
    parameters: int | None = None
    seconds_per_picture: Mapping[str, float] | None = None  # by stage
    unread: Sequence[str] = ()  # pictures that were left out
    masks: Mapping[str, float] | None = None  # the same twelve of masks, where model and data have them
    boundaries: Mapping[str, float] | None = None  # and of masks along their outlines
    panoptic: PanopticQuality | None = None  # where the data has panoptic maps and the model masks

    def __str__(self) -> str:
        numbers = ", ".join(f"{name} {value:.3f}" for name, value in list(self.metrics.items())[:3])
        return f"{numbers} on {len(self.truth.images):,} pictures of {self.split}"

    def _repr_html_(self) -> str:
        cells = "".join(f"<tr><th>{name}</th><td>{value:.3f}</td></tr>" for name, value in self.metrics.items())
        return f"<table>{cells}</table>"


@dataclass
class _Watching(Reporter):
    watch: Watch

    @contextmanager
    def progress(self, what: str, total: int | None = None, unit: str = "items") -> Iterator[Callable[[int], None]]:
        with self.watch(total or 0) as advance:
            yield lambda steps: advance()


def evaluate(
    data: str | Path | DataSource,
    weights: "str | Path | Detector | Callable[[Sequence[str]], Detector]" = "detr-r50",
    *,
    predictions: Path | None = None,
    split: str = "val",
    threshold: float | None = None,
    max_detections: int = MAX_DETECTIONS,
    limit: int | None = None,
    classes: Sequence[str] | None = None,
    batch_size: int | None = None,
    exif: Exif = "auto",
    skip_bad: bool = False,
    match_classes_by_id: bool = False,
    text: "Text" = None,
    device: str = "auto",
    note: Note = no_note,
    mapped: "Callable[[ClassMapping], None]" = lambda mapping: None,
    watch: Watch = unwatched,
) -> Evaluation:
    """The numbers of a model on a split, or those of a file of COCO results (`predictions`; then no model is run).

    A function as `weights` makes the detector once the data has been found good, and is given the names of its
    classes: models that take phrases look for those where there is no `text`. `note` is told of warnings, `mapped`
    of the classes' mapping, before the run.
    """
    checked = checked_split(source_of(data, note), split, exif, note, skip_bad=skip_bad, pictures=predictions is None)

    def to_be_found(checked: Split) -> Truth:
        truth = truth_of(checked, limit=limit, classes=classes)
        if not len(truth.images):
            raise DataError(f"There are no pictures in {split} that can be used.")
        return truth

    truth = to_be_found(checked)
    if predictions is not None:
        w = checked.written
        results = read_results(predictions, w.image_ids, w.category_ids, w.files)
        if threshold is not None:  # else every entry counts as written, those of negative scores too
            results = results.part(results.scores >= threshold)
        if results.masks is not None:
            truth = to_be_found(with_readable_masks(checked, split, note, skip_bad=skip_bad))
        return _scored(truth, results, split, threshold, max_detections)

    # A file of results is scored without torch.
    from detrcli.api.detector import as_detector
    from detrcli.evaluation.class_mapping import map_classes
    from detrcli.evaluation.run import detect_split, readable
    from detrcli.segmentation.maps import MapRequest
    from detrcli.system import distributed

    # As `detr predict --format panoptic` puts maps together, unless another score is asked for.
    asked = MapRequest("panoptic", threshold, beside=True)
    threshold = threshold or 0.0
    theirs = classes_in_split(checked)
    names = theirs.names.tolist()
    detector = weights(names) if callable(weights) else as_detector(weights, device, text, names)
    mapping = map_classes(detector.classes, theirs, match_classes_by_id=match_classes_by_id)
    mapped(mapping)
    panoptic = False
    if detector.has_masks:
        checked = with_readable_masks(checked, split, note, skip_bad=skip_bad)
        truth = to_be_found(checked)
        panoptic = checked.written.maps is not None and classes is None
        if panoptic and not can_be_counted():
            note("panoptic quality is left out: hotcoco counts it, which has no wheel for this platform")
            panoptic = False
    with distributed.joined(detector.device):
        first, share = distributed.rank() == 0, -(-len(truth.images) // distributed.world_size())
        found = detect_split(
            detector,
            truth,
            mapping,
            threshold=threshold,
            batch_size=batch_size or (8 if detector.device.type == "cuda" else 1),
            maps=asked if panoptic else None,
            reporter=_Watching(watch),
        )
    truth = readable(truth, found, skip_bad=skip_bad)
    return _scored(
        truth,
        found.results,
        split,
        threshold,
        max_detections,
        first=first,
        class_mapping=mapping,
        parameters=detector.parameters,
        seconds_per_picture={stage: spent / share for stage, spent in detector.seconds.items()},
        unread=tuple(found.unread.values()),
        segments=found.segments if panoptic else None,
    )


def _scored(
    truth: Truth,
    results: Results,
    split: str,
    threshold: float | None,
    max_detections: int,
    *,
    first: bool = True,
    class_mapping: "ClassMapping | None" = None,
    parameters: int | None = None,
    seconds_per_picture: Mapping[str, float] | None = None,
    unread: Sequence[str] = (),
    segments: Mapping[int, Sequence[FoundSegment]] | None = None,
) -> Evaluation:
    start = time.perf_counter()
    scores = score(truth, results, max_detections=max_detections)
    masks = None if results.masks is None else truth_masks(truth)
    of_masks = of_boundaries = quality = None
    if masks is not None:
        of_masks = score(truth, results, max_detections=max_detections, masks=masks)
        of_boundaries = score(truth, results, max_detections=max_detections, masks=masks, counting=with_boundaries)
    if masks is not None and segments is not None:
        quality = quality_of(truth, masks, segments)
    return Evaluation(
        split=split,
        truth=truth,
        results=results,
        metrics=scores.metrics,
        per_class=scores.per_class,
        threshold=threshold,
        max_detections=max_detections,
        scoring_seconds=time.perf_counter() - start,
        first=first,
        class_mapping=class_mapping,
        parameters=parameters,
        seconds_per_picture=seconds_per_picture,
        unread=unread,
        masks=None if of_masks is None else of_masks.metrics,
        boundaries=None if of_boundaries is None else of_boundaries.metrics,
        panoptic=quality,
    )
