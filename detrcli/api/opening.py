"""A split of somebody's data, opened and checked: where all that looks at one begins. Without torch."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from detrcli.data.checks import Exif, Split
from detrcli.data.examine import DatasetReport, headers_only, masks_examined
from detrcli.data.source import DataSource
from detrcli.data.spec import Note, open_source, tell_problems, to_be_looked_at

Watch = Callable[[int], AbstractContextManager[Callable[[], None]]]  # of how many -> what counts them


def unwatched(count: int) -> AbstractContextManager[Callable[[], None]]:
    """Nobody counts."""
    return nullcontext(lambda: None)


def source_of(data: str | Path | DataSource, note: Note) -> DataSource:
    """The data set that is meant, to be looked at."""
    return data if isinstance(data, DataSource) else to_be_looked_at(open_source(Path(data)), str(data), note)


def checked_split(
    source: DataSource, split: str, exif: Exif, note: Note, *, skip_bad: bool, pictures: bool = True
) -> Split:
    """A split whose problems are told; its errors are raised."""
    examined = headers_only(source, [split], exif, pictures=pictures, leave_out_bad=skip_bad)
    tell_problems(examined, note)
    return examined.splits[split]


def with_readable_masks(checked: Split, split: str, note: Note, *, skip_bad: bool) -> Split:
    """The same without objects whose masks cannot be read, which are told; those that are no errors stay."""
    report = DatasetReport("", {split: checked}, [], decoded=False)
    found = masks_examined(report, full=True, leave_out_bad=skip_bad)
    tell_problems(found, note)
    return found.splits[split]
