"""Output: tables and JSON on stdout; notes, warnings and progress on stderr."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Literal

from detrcli.reporter import Reporter
from detrcli.system.launch import launch
from detrcli.system.text import escape_controls

if TYPE_CHECKING:
    from rich.console import Console

    from detrcli.api.results import Result


def print_json(document: Any) -> None:
    """Print a JSON document on stdout.

    It is ASCII, so that terminals and pipes of any encoding show it, and names cannot reorder a line.
    """
    from json import dumps  # slow to import

    print(dumps(document, indent=2, allow_nan=False))


def print_text(lines: Iterable[str]) -> None:
    """Print lines, which may contain names from files."""
    for line in lines:
        print(escape_controls(line))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> None:
    """Print a table with numbers on the right and text on the left. Nothing is cut off."""
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    def cell(value: str | float | None) -> str:
        return "" if value is None else f"{value:,}" if isinstance(value, int) else escape_controls(str(value))

    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        if any(isinstance(row[i], str) for row in rows):
            table.add_column(column, overflow="fold")
        else:  # a number must not be broken over two lines
            width = max(len(text) for text in (column, *(cell(row[i]) for row in rows)))
            table.add_column(column, justify="right", no_wrap=True, min_width=width)
    for row in rows:
        table.add_row(*(Text(cell(value)) for value in row))
    console = _console(sys.stdout)
    # If even folded text does not fit, the terminal breaks the lines; rich would leave columns out.
    wide = console.options.update_width(10_000)
    console.width = max(console.width, Measurement.get(console, wide, table).minimum)
    console.print(table)


def print_result(result: "Result", *, json: bool, **more: Any) -> None:
    """Print a result as a JSON document, with `more` in it, or as lines and tables."""
    if json:
        print_json({**result.document, **more})
        return
    before: object = ""
    for i, part in enumerate(result.content):
        if i and not (isinstance(part, str) and isinstance(before, str)):
            print()  # around tables
        before = part
        if isinstance(part, str):
            print_text([part])
        else:
            print_text([part.title] if part.title else [])
            print_table(part.columns, part.rows)


def _console(stream: IO[str]) -> "Console":
    from rich.console import Console

    terminal = is_terminal(stream)
    # Outside a terminal there is no width: a line stays a line.
    return Console(
        file=stream, width=None if terminal else 10_000, force_terminal=terminal, no_color=not terminal, highlight=False
    )


def stderr_console() -> "Console":
    """Return a console for live displays."""
    return _console(sys.stderr)


def is_terminal(stream: IO[str]) -> bool:
    """Return whether escape sequences may be written, lines redrawn, and a width has to be kept."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


class StderrReporter(Reporter):
    """Shows notes and progress on stderr: a progress bar on a terminal, a line for a download elsewhere."""

    def show(self, text: str) -> None:
        print(f"detr: {escape_controls(text)}", file=sys.stderr)

    @contextmanager
    def progress(
        self, what: str, total: int | None = None, unit: Literal["items", "bytes"] = "items"
    ) -> Iterator[Callable[[int], None]]:
        if not is_terminal(sys.stderr):
            if unit == "bytes":
                self.note(what + (f" ({total / 1e6:.0f} MB)" if total else ""))
            yield lambda steps: None
            return
        if total == 1 or launch().rank > 0:
            yield lambda steps: None
            return
        from rich import progress
        from rich.markup import escape

        counts = [progress.DownloadColumn(), progress.TransferSpeedColumn()]
        bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            *(counts if unit == "bytes" else [progress.MofNCompleteColumn()]),
            progress.TimeRemainingColumn(),
            console=stderr_console(),
            transient=True,
        )
        with bar:
            task = bar.add_task(escape(escape(what)), total=total)
            yield lambda steps: bar.advance(task, steps)


STDERR = StderrReporter()  # its wording is that of the running command
warn = STDERR.note
