"""A detector beside a split: which of its classes are which of the data's, and all that is needed to look inside."""

from collections.abc import Callable

from detrcli.api.opening import Note
from detrcli.data.checks import Split
from detrcli.evaluation.class_mapping import ClassMapping, map_classes
from detrcli.evaluation.truth import classes_in_split
from detrcli.inference.detector import Detector
from detrcli.inspection.session import InspectionSession


def session_of(
    detector: Detector,
    split: Split,
    *,
    skip_bad: bool,
    match_classes_by_id: bool,
    note: Note,
    mapped: Callable[[ClassMapping], None] = lambda mapping: None,
) -> InspectionSession:
    """`mapped` is told of the classes' mapping."""
    mapping = map_classes(detector.classes, classes_in_split(split), match_classes_by_id=match_classes_by_id)
    mapped(mapping)
    return InspectionSession.of(detector, split, mapping, skip_bad=skip_bad, note=note)
