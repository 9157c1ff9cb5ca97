"""What is shown: tables and JSON on stdout; warnings and progress on stderr."""

import json
import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from detrcli.text import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


def print_json(document: Any) -> None:
    """One JSON document, and nothing else, on stdout. NaN and infinity are a bug.

    It is all ASCII, so that it survives any terminal and pipe, and a name that would reorder the line cannot.
    """
    print(json.dumps(document, indent=2, allow_nan=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> None:
    """A table whose numbers stand right and whose words stand left. Nothing is cut off."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        words = any(isinstance(row[i], str) for row in rows)
        # A number broken over two lines is another number.
        table.add_column(column, justify="left" if words else "right", overflow="fold", no_wrap=not words)
    for row in rows:
        table.add_row(*(Text(visible(_cell(value))) for value in row))
    _console(sys.stdout).print(table)


def _cell(value: str | float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else str(value)


def _console(stream: IO[str]) -> "Console":
    from rich.console import Console

    fancy = is_terminal(stream)
    # Outside a terminal there is no width to keep to: a line stays a line.
    return Console(
        file=stream,
        width=None if fancy else 10_000,
        force_terminal=fancy,
        no_color=not fancy,
        highlight=False,
    )


def is_terminal(stream: IO[str]) -> bool:
    """Whether escape bytes may be sent and lines drawn again, and a width is to be kept."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


def warn(message: str) -> None:
    """A line on stderr."""
    print(f"detr: {visible(message)}", file=sys.stderr)


class Status:
    """Progress on stderr where that is a terminal, and warnings that do not tear it."""

    def __init__(self, what: str, total: int | None = None, *, quiet: bool = False) -> None:
        self._what, self._total = what, total
        self._bar: Progress | None = None
        self._quiet = quiet or not is_terminal(sys.stderr)

    def __enter__(self) -> Self:
        if not self._quiet:
            from rich import progress

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeRemainingColumn(),
                console=_console(sys.stderr),
                transient=True,
            )
            self._task = self._bar.add_task(self._what, total=self._total)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self) -> None:
        """One more is done."""
        if self._bar:
            self._bar.advance(self._task)


class DownloadStatus:
    """Says what is being fetched: a bar on a terminal, a line elsewhere."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._said = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, name: str, done: int, total: int | None) -> None:
        if not is_terminal(sys.stderr):
            if not self._said:
                warn(f"fetching {name}" + (f" ({total / 1e6:.0f} MB)" if total else ""))
                self._said = True
            return
        if self._bar is None:
            from rich import progress

            self._bar = progress.Progress(
                progress.TextColumn("fetching {task.description}"),
                progress.BarColumn(),
                progress.DownloadColumn(),
                progress.TransferSpeedColumn(),
                progress.TimeRemainingColumn(),
                console=_console(sys.stderr),
            )
            self._task = self._bar.add_task(visible(name).replace("[", r"\["), total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total)
