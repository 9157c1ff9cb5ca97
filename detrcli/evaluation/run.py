"""A detector over a whole split."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from detrcli.data.checks import Split
from detrcli.data.images import File
from detrcli.errors import DataError
from detrcli.evaluation.class_mapping import ClassMapping
from detrcli.evaluation.panoptic import FoundSegment, segments_of
from detrcli.evaluation.results import Results, join, of_detections
from detrcli.evaluation.truth import Truth
from detrcli.inference.detector import Detector
from detrcli.segmentation.maps import MapRequest, PanopticMap
from detrcli.system import distributed
from detrcli.system.text import escape_controls


@dataclass(frozen=True)
class DetectedSplit:
    """What a detector found in the images of a truth."""

    results: Results  # by rising image id
    unread: dict[int, str]  # image id -> why it could not be looked at
    # Image id -> those of its panoptic map, where these were asked for.
    segments: dict[int, list[FoundSegment]]


def detect_split(
    detector: Detector,
    split: Split,
    truth: Truth,
    class_mapping: ClassMapping,
    *,
    threshold: float = 0.0,
    batch_size: int = 1,
    maps: MapRequest | None = None,
    advance: Callable[[], None] = lambda: None,
) -> DetectedSplit:
    """Detections in the data's own ids, and segments of panoptic maps where these are asked for.

    Under several processes each takes its share, and all get the whole.
    """
    mine = np.arange(len(truth.images))[distributed.rank() :: distributed.world_size()]
    if batch_size > 1:  # equal input sizes side by side, so that batches are full
        place = detector.preprocessing.resize.place
        sizes = [
            (there.height, there.width)
            for there in (place(height, width) for height, width in split.sizes[truth.images[mine]].tolist())
        ]
        mine = mine[sorted(range(len(mine)), key=sizes.__getitem__)]
    files = [File(split.written.folder / split.written.files[i], bool(split.turned[i])) for i in truth.images[mine]]

    found: dict[int, Results] = {}
    unread: dict[int, str] = {}
    segments: dict[int, list[FoundSegment]] = {}
    stream = detector.with_classes(class_mapping.classes).stream(files, threshold, batch_size, maps=maps)
    for image_id, seen in zip(truth.image_ids[mine].tolist(), stream, strict=True):
        if seen.detections is None:
            unread[image_id] = f"{escape_controls(str(seen.source))}: {seen.problem}"
        else:
            found[image_id] = of_detections(image_id, seen.detections)
        if isinstance(seen.map, PanopticMap):
            segments[image_id] = segments_of(seen.map)
        advance()
    for other_found, other_unread, other_segments in distributed.gather((found, unread, segments)):
        found |= other_found
        unread |= other_unread
        segments |= other_segments
    return DetectedSplit(join([found[image_id] for image_id in sorted(found)]), unread, segments)


def readable(truth: Truth, found: DetectedSplit, *, skip_bad: bool) -> Truth:
    """The truth without the images that could not be looked at, which are an error unless they are skipped."""
    left = truth.part(~np.isin(truth.image_ids, list(found.unread)))
    if found.unread and not (skip_bad and len(left.images)):
        raise DataError(
            f"{next(iter(found.unread.values()))}.\n"
            f"Pictures that cannot be read: {len(found.unread):,} of {len(truth.images):,}."
            + (" --skip-bad leaves them out." if len(left.images) else "")
        )
    return left
