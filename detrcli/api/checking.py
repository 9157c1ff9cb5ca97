"""What is in a data set, and what is wrong with it."""

from collections.abc import Callable
from pathlib import Path

from detrcli.data.checks import Exif
from detrcli.data.examine import DatasetReport, examine
from detrcli.data.source import DataSource
from detrcli.data.spec import open_source


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
    return examine(source, exif=exif, full=full, leave_out_bad=skip_bad, advance=advance)
