"""What is shown: tables and JSON on stdout; warnings and progress on stderr."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from detrcli.reporter import Reporter
from detrcli.system.launch import launch
from detrcli.system.text import escape_controls

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn


def print_json(document: Any) -> None:
    """One JSON document, and nothing else, on stdout. NaN and infinity are a bug.

    It is all ASCII, so that it survives any terminal and pipe, and a name that would reorder the line cannot.
    """
    import json  # on the way of every help screen, which needs none

    print(json.dumps(document, indent=2, allow_nan=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> None:
    """A table whose numbers stand right and whose words stand left. Nothing is cut off."""
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        if any(isinstance(row[i], str) for row in rows):
            table.add_column(column, overflow="fold")
        else:  # a number broken over two lines is another number
            width = max(len(text) for text in (column, *(_cell(row[i]) for row in rows)))
            table.add_column(column, justify="right", no_wrap=True, min_width=width)
    for row in rows:
        table.add_row(*(Text(escape_controls(_cell(value))) for value in row))
    console = _console(sys.stdout)
    # Where even folded words do not fit, the terminal breaks the lines: rich would leave columns out.
    wide = console.options.update_width(10_000)
    console.width = max(console.width, Measurement.get(console, wide, table).minimum)
    console.print(table)


def _cell(value: str | float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else str(value)


def _console(stream: IO[str]) -> "Console":
    from rich.console import Console

    fancy = is_terminal(stream)
    # Outside a terminal there is no width to keep to: a line stays a line.
    return Console(
        file=stream, width=None if fancy else 10_000, force_terminal=fancy, no_color=not fancy, highlight=False
    )


def stderr_console() -> "Console":
    """For live displays."""
    return _console(sys.stderr)


def is_terminal(stream: IO[str]) -> bool:
    """Whether escape bytes may be sent and lines drawn again, and a width is to be kept."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


def warn(message: str) -> None:
    """A line on stderr; of several processes only the first speaks."""
    if launch().rank == 0:
        tell(message)


def tell(message: str) -> None:
    """A line on stderr about what this process alone has seen."""
    print(f"detr: {escape_controls(message)}", file=sys.stderr)


class _Bar:
    """A progress bar on stderr, where that is a terminal, that goes when its block is left."""

    def __init__(self) -> None:
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def _start(self, what: str, total: int | None, columns: Sequence["ProgressColumn"]) -> None:
        from rich import progress
        from rich.markup import escape

        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            *columns,
            progress.TimeRemainingColumn(),
            console=stderr_console(),
            transient=True,
        )
        self._task = self._bar.add_task(escape(escape(what)), total=total)
        self._bar.start()


class Status(_Bar):
    """Counts what is done."""

    def __init__(self, what: str, total: int | None = None, *, quiet: bool = False) -> None:
        super().__init__()
        if not quiet and is_terminal(sys.stderr) and launch().rank == 0:
            from rich.progress import MofNCompleteColumn

            self._start(what, total, [MofNCompleteColumn()])

    def advance(self) -> None:
        """One more is done."""
        if self._bar:
            self._bar.advance(self._task)


def counting(what: str) -> Callable[[int], AbstractContextManager[Callable[[], None]]]:
    """What makes, of how many there are, a block in which each call counts one that is done."""

    @contextmanager
    def watch(total: int) -> Iterator[Callable[[], None]]:
        with Status(what, total) as status:
            yield status.advance

    return watch


class DownloadStatus(_Bar, Reporter):
    """Says what is being fetched: a bar on a terminal, a line elsewhere."""

    @contextmanager
    def progress(self, what: str, total: int | None = None, unit: str = "bytes") -> Iterator[Callable[[int], None]]:
        if is_terminal(sys.stderr):
            from rich.progress import DownloadColumn, TransferSpeedColumn

            self._start(what, total, [DownloadColumn(), TransferSpeedColumn()])
        else:
            warn(what + (f" ({total / 1e6:.0f} MB)" if total else ""))

        def advance(steps: int) -> None:
            if self._bar:
                self._bar.advance(self._task, steps)

        yield advance
