"""Detecting objects in all images of a split."""

from dataclasses import dataclass

import numpy as np

from detrcli.data.images import File
from detrcli.errors import DataError
from detrcli.evaluation.class_mapping import ClassMapping
from detrcli.evaluation.panoptic import PredictedSegment, segments_of
from detrcli.evaluation.results import Results, best_of_classes, join, of_detections
from detrcli.evaluation.truth import Truth
from detrcli.inference.detector import Detector
from detrcli.messages import argument
from detrcli.reporter import SILENT, Reporter
from detrcli.segmentation.maps import MapRequest, PanopticMap
from detrcli.system import distributed
from detrcli.system.text import escape_controls


@dataclass(frozen=True)
class DetectedSplit:
    results: Results  # in ascending order of image ids
    unread: dict[int, str]  # image id to the file and why it cannot be read
    segments: dict[int, list[PredictedSegment]]  # image id to the segments of its panoptic map, if requested


def detect_split(
    detector: Detector,
    truth: Truth,
    class_mapping: ClassMapping,
    *,
    threshold: float = 0.0,
    batch_size: int = 1,
    maps: MapRequest | None = None,
    max_detections: int | None = None,
    reporter: Reporter = SILENT,
) -> DetectedSplit:
    """Detect objects in the images of `truth`, divided among all processes. Results have the ids of the data.

    `max_detections` limits the detections that are kept of an image and a class.
    """
    mine = np.arange(len(truth.images))[distributed.rank() :: distributed.world_size()]
    if batch_size > 1:  # batches contain images of equal input size, so sort by it
        resize = detector.preprocessing.resize
        placements = [resize.place(height, width) for height, width in truth.sizes[mine].tolist()]
        mine = mine[sorted(range(len(mine)), key=lambda i: (placements[i].height, placements[i].width))]
    written, turned = truth.split.written, truth.split.turned  # turned by their EXIF orientation
    files = [File(written.folder / written.files[i], bool(turned[i])) for i in truth.images[mine]]

    results: dict[int, Results] = {}
    unread: dict[int, str] = {}
    segments: dict[int, list[PredictedSegment]] = {}
    stream = detector.with_classes(class_mapping.classes).stream(files, threshold, batch_size, maps=maps)
    with reporter.progress("evaluating", len(mine)) as advance:
        for image_id, image in zip(truth.image_ids[mine].tolist(), stream, strict=True):
            if image.detections is None:
                unread[image_id] = f"{escape_controls(str(image.source))}: {image.problem}"
            else:
                kept = image.detections
                if max_detections is not None:
                    kept = best_of_classes(kept, max_detections)
                results[image_id] = of_detections(image_id, kept)
            if isinstance(image.map, PanopticMap):
                segments[image_id] = segments_of(image.map)
            advance(1)
    for of_process in distributed.gather((results, unread, segments)):
        results |= of_process[0]
        unread |= of_process[1]
        segments |= of_process[2]
    return DetectedSplit(join([results[image_id] for image_id in sorted(results)]), unread, segments)


def readable(truth: Truth, detected: DetectedSplit, *, skip_bad: bool) -> Truth:
    """Return the ground truth without unreadable images. Raises DataError if there are any, unless `skip_bad`."""
    rest = truth.part(~np.isin(truth.image_ids, list(detected.unread)))
    if detected.unread and not (skip_bad and len(rest.images)):
        raise DataError(
            f"{next(iter(detected.unread.values()))}.\n"
            f"{len(detected.unread):,} of {len(truth.images):,} images cannot be read."
            + (f" {argument('skip_bad')} skips them." if len(rest.images) else "")
        )
    return rest
