"""The detections of a model on a split, for evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from detrcli.evaluation.class_mapping import ClassMapping
from detrcli.evaluation.metrics import has_hotcoco
from detrcli.evaluation.panoptic import PredictedSegment
from detrcli.evaluation.results import Results
from detrcli.evaluation.run import detect_split, readable
from detrcli.evaluation.truth import Truth
from detrcli.inference.detector import Detector
from detrcli.inference.tiles import Tiling
from detrcli.reporter import Reporter
from detrcli.segmentation.maps import MapRequest
from detrcli.system import distributed


@dataclass(frozen=True)
class ModelRun:
    """Facts about a model that was evaluated."""

    class_mapping: ClassMapping
    parameters: int | None  # None for an exported model
    seconds_per_image: Mapping[str, float]  # by stage
    tiling: Tiling
    segments: Mapping[int, Sequence[PredictedSegment]] | None  # of panoptic maps by image id, if they are evaluated


def detect(
    detector: Detector,
    truth: Truth,
    mapping: ClassMapping,
    *,
    threshold: float | None,
    batch_size: int | None,
    panoptic: bool,
    max_detections: int,
    skip_bad: bool,
    reporter: Reporter,
) -> tuple[Truth, Results, ModelRun]:
    """Detect objects in the images of a split. Return its readable part too. `panoptic` maps need masks and data."""
    panoptic = panoptic and detector.has_masks and truth.split.written.maps is not None
    if panoptic and not has_hotcoco():
        reporter.note("panoptic quality is left out: it needs hotcoco, which has no wheel for this platform")
        panoptic = False
    tiled = detector.tiling.tiles is not None
    if panoptic and tiled:
        reporter.note("panoptic quality is left out: maps of tiles cannot be merged")
        panoptic = False
    with distributed.joined(detector.device):
        share = -(-len(truth.images) // distributed.world_size())
        detected = detect_split(
            detector,
            truth,
            mapping,
            threshold=threshold or 0.0,
            batch_size=batch_size or (8 if detector.device.type == "cuda" else 1),
            maps=MapRequest("panoptic", threshold, with_detections=True) if panoptic else None,
            # Tiles have many detections of low scores, which would fill the memory.
            max_detections=max_detections if tiled else None,
            reporter=reporter,
        )
    truth = readable(truth, detected, skip_bad=skip_bad)
    for problem in detected.unread.values():
        reporter.note(f"left out: {problem}")
    seconds = {stage: spent / share for stage, spent in detector.seconds.items()}
    segments = detected.segments if panoptic else None
    return truth, detected.results, ModelRun(mapping, detector.parameters, seconds, detector.tiling, segments)
