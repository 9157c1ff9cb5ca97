"""A detector beside a split: which of its classes are which of the data's, and all that is needed to look inside."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from detrcli.api.opening import Note, Watch, no_note, unwatched
from detrcli.data.checks import Split
from detrcli.evaluation.class_mapping import ClassMapping, map_classes
from detrcli.evaluation.truth import classes_in_split
from detrcli.inference.detector import Detector
from detrcli.inspection.session import InspectionSession
from detrcli.reporter import Reporter


class Callbacks(Reporter):
    """Passes notes and progress on to callables."""

    def __init__(self, note: Note = no_note, watch: Watch = unwatched) -> None:
        self._note, self._watch = note, watch

    def show(self, text: str) -> None:
        self._note(text)

    @contextmanager
    def progress(self, what: str, total: int | None = None, unit: Any = "items") -> Iterator[Callable[[int], None]]:
        with self._watch(total or 0) as advance:
            yield lambda steps: advance()


def session_of(
    detector: Detector,
    split: Split,
    *,
    skip_bad: bool,
    match_classes_by_id: bool,
    note: Note,
    mapped: Callable[[ClassMapping], None] = lambda mapping: None,
    watch: Watch = unwatched,
) -> InspectionSession:
    """`mapped` is told of the classes' mapping."""
    mapping = map_classes(detector.classes, classes_in_split(split), match_classes_by_id=match_classes_by_id)
    mapped(mapping)
    return InspectionSession(detector, split, mapping, skip_bad=skip_bad, reporter=Callbacks(note, watch))
