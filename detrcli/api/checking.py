"""What is in a data set, and what is wrong with it."""

from collections.abc import Callable
from pathlib import Path

from detrcli.api.opening import Callbacks, no_note
from detrcli.data.checks import Exif
from detrcli.data.examine import DatasetReport, examine
from detrcli.data.source import open_source
from detrcli.data.splits import DataSource


def check_data(
    data: str | Path | DataSource,
    *,
    exif: Exif = "auto",
    full: bool = False,
    skip_bad: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> DatasetReport:
    """Every split with its counts, and every problem; `full` decodes every picture, however long it takes."""
    source = data if isinstance(data, DataSource) else open_source(Path(data))
    return examine(source, exif=exif, full=full, skip_bad=skip_bad, reporter=Callbacks(no_note, advance))
