"""Why a model fails on somebody's data, and what to mend."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from detrcli.api.detector import as_detector
from detrcli.data.checks import Exif
from detrcli.data.examine import headers_only
from detrcli.data.source import DataSource
from detrcli.data.spec import Note, no_note, open_source, tell_problems, to_be_looked_at
from detrcli.evaluation.class_mapping import ClassMapping, map_classes
from detrcli.evaluation.truth import classes_in_split
from detrcli.inference.detector import Detector
from detrcli.inspection.failures import Failures, failures_of
from detrcli.inspection.session import InspectionSession

Watch = Callable[[int], AbstractContextManager[Callable[[], None]]]  # how many -> what counts them


def _unwatched(count: int) -> AbstractContextManager[Callable[[], None]]:
    return nullcontext(lambda: None)


def failures(
    data: str | Path | DataSource,
    weights: str | Path | Detector | Callable[[], Detector] = "detr-r50",
    *,
    split: str = "val",
    threshold: float | None = None,
    seconds: float | None = None,
    exif: Exif = "auto",
    skip_bad: bool = False,
    pair_by_id: bool = False,
    device: str = "auto",
    note: Note = no_note,
    mapped: Callable[[ClassMapping], None] = lambda mapping: None,
    watch: Watch = _unwatched,
) -> Failures:
    if isinstance(data, DataSource):
        source = data
    else:
        source = to_be_looked_at(open_source(Path(data)), str(data), note)
    examined = headers_only(source, [split], exif, leave_out_bad=skip_bad)
    tell_problems(examined, note)
    detector = weights() if callable(weights) else as_detector(weights, device)
    checked = examined.splits[split]
    mapping = map_classes(detector.classes, classes_in_split(checked), pair_by_id=pair_by_id)
    mapped(mapping)
    session = InspectionSession.of(detector, checked, mapping, skip_bad=skip_bad, note=note)
    with watch(len(session)) as advance:
        return failures_of(session, checked, split, threshold=threshold, seconds=seconds, advance=advance)
