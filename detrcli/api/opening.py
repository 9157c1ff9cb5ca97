"""A split of a dataset, opened and checked, without torch."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Literal

from detrcli.data.checks import Exif, Split
from detrcli.data.examine import DatasetReport, examine_headers, examine_masks
from detrcli.data.source import for_inspection, open_source
from detrcli.data.splits import DataSource
from detrcli.reporter import SILENT, Reporter

Watch = Callable[[int], AbstractContextManager[Callable[[], None]]]  # of how many -> what counts them
Note = Callable[[str], None]


def no_note(text: str) -> None:
    """Where nobody listens, what is wrong stands in the error."""


class Callbacks(Reporter):
    """Reports to the callables that the functions of this package still take."""

    def __init__(self, note: Note, advance: Callable[[], None] = lambda: None) -> None:
        self._note, self._advance = note, advance

    def show(self, text: str) -> None:
        """Pass a note on."""
        self._note(text)

    @contextmanager
    def progress(
        self, what: str, total: int | None = None, unit: Literal["items", "bytes"] = "items"
    ) -> Iterator[Callable[[int], None]]:
        """Pass progress on."""
        yield lambda steps: self._advance()


def unwatched(count: int) -> AbstractContextManager[Callable[[], None]]:
    """Nobody counts."""
    return nullcontext(lambda: None)


def source_of(data: str | Path | DataSource, note: Note) -> DataSource:
    """The data set that is meant, to be looked at."""
    return data if isinstance(data, DataSource) else for_inspection(open_source(Path(data)), str(data), Callbacks(note))


def tell_problems(report: DatasetReport, note: Note) -> None:
    """Note what is wrong; an error of the data is raised."""
    report.check(SILENT if note is no_note else Callbacks(note))


def checked_split(
    source: DataSource, split: str, exif: Exif, note: Note, *, skip_bad: bool, pictures: bool = True
) -> Split:
    """A split whose problems are told; its errors are raised."""
    examined = examine_headers(source, [split], exif, images=pictures, skip_bad=skip_bad)
    tell_problems(examined, note)
    return examined.splits[split]


def with_readable_masks(checked: Split, split: str, note: Note, *, skip_bad: bool) -> Split:
    """The same without objects whose masks cannot be read, which are told; those that are no errors stay."""
    report = DatasetReport("", {split: checked}, [], decoded=False)
    found = examine_masks(report, full=True, skip_bad=skip_bad)
    tell_problems(found, note)
    return found.splits[split]
