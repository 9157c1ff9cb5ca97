"""Printing of tables, progress bars and Markdown with rich. Imported only when needed, since rich is slow to import."""

import sys
from collections.abc import Sequence
from typing import IO, Literal

from rich import progress
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Markdown, TableElement
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

from detrcli.system.text import escape_controls

MAX_WIDTH = 100  # columns of Markdown
WIDEST = 10_000  # columns, more than any line has


def console(stream: IO[str], *, terminal: bool = True) -> Console:
    """Return a console for a stream. Lines are wrapped in a terminal only."""
    return Console(
        file=stream, width=None if terminal else WIDEST, force_terminal=terminal, no_color=not terminal, highlight=False
    )


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str | float | None]], *, terminal: bool) -> None:
    """Print a table with numbers on the right and text on the left. Nothing is cut off."""

    def cell(value: str | float | None) -> str:
        return "" if value is None else f"{value:,}" if isinstance(value, int) else escape_controls(str(value))

    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        if any(isinstance(row[i], str) for row in rows):
            table.add_column(column, overflow="fold")
        else:  # numbers are not folded
            width = max(len(text) for text in (column, *(cell(row[i]) for row in rows)))
            table.add_column(column, justify="right", no_wrap=True, min_width=width)
    for row in rows:
        table.add_row(*(Text(cell(value)) for value in row))
    stdout = console(sys.stdout, terminal=terminal)
    # If even folded text does not fit, leave wrapping to the terminal; rich would omit columns.
    wide = stdout.options.update_width(WIDEST)
    stdout.width = max(stdout.width, Measurement.get(stdout, wide, table).minimum)
    stdout.print(table)


def progress_bar(unit: Literal["items", "bytes"]) -> progress.Progress:
    """Return a progress bar on stderr that is erased at the end."""
    counts = [progress.DownloadColumn(), progress.TransferSpeedColumn()]
    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        *(counts if unit == "bytes" else [progress.MofNCompleteColumn()]),
        progress.TimeRemainingColumn(),
        console=console(sys.stderr),
        transient=True,
    )


class _FoldedTable(TableElement):
    """A table that folds long words, which rich would cut off."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in super().__rich_console__(console, options):
            if isinstance(table, Table):
                for column in table.columns:
                    column.overflow = "fold"
            yield table


class _FoldedMarkdown(Markdown):
    elements = {**Markdown.elements, "table_open": _FoldedTable}  # noqa: RUF012  # rich only reads it


def print_markdown(text: str) -> None:
    # No background for code: it would suit either dark or light terminals, not both.
    stdout = Console(highlight=False, theme=Theme({"markdown.code": "bold cyan"}))
    page = _FoldedMarkdown(text, code_theme="ansi_dark", hyperlinks=False)
    stdout.print(page, width=min(stdout.width, MAX_WIDTH))
