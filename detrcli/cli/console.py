"""Tables for people, and JSON for programs, on stdout."""

import json
import os
import sys
from collections.abc import Sequence
from typing import Any


def print_json(document: dict[str, Any]) -> None:
    """One JSON document, and nothing else, on stdout. NaN and infinity are a bug.

    It is all ASCII, so that it survives any terminal and pipe, and a name that would reorder the line cannot.
    """
    print(json.dumps(document, indent=2, allow_nan=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str | int | float]]) -> None:
    """A table whose numbers stand right and whose words stand left. Nothing is cut off."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from detrcli.text import visible

    terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    # Outside a terminal there is no width to keep to: a line stays a line.
    console = Console(width=None if terminal else 10_000, highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        numeric = all(isinstance(row[i], int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(f"{cell:,}" if isinstance(cell, int) else str(cell))) for cell in row))
    console.print(table)
