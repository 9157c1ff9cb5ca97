"""Output: tables and JSON on stdout; notes, warnings and progress on stderr."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Literal

from detrcli.reporter import Reporter
from detrcli.system.launch import launch
from detrcli.system.text import escape_controls

PERIOD = 60  # seconds between lines of progress where there is no terminal

if TYPE_CHECKING:
    from detrcli.api.results import Result, Table


def print_json(document: Any) -> None:
    """Print a JSON document on stdout.

    It is ASCII, so that terminals and pipes of any encoding show it, and names cannot reorder a line.
    """
    from json import dumps  # slow to import

    print(dumps(document, indent=2, allow_nan=False))


def print_result(result: "Result", *, json: bool, **more: Any) -> None:
    """Print a result as a JSON document, with `more` in it, or as lines and tables."""
    if json:
        print_json({**result.document, **more})
    else:
        print_content(result.content)


def print_content(content: "Sequence[str | Table]") -> None:
    """Print lines and tables, which may contain names from files."""
    for i, part in enumerate(content):
        if i and not (isinstance(part, str) and isinstance(content[i - 1], str)):
            print()  # around tables
        if isinstance(part, str):
            print(escape_controls(part))
        else:
            from detrcli.cli.terminal import print_table  # slow to import

            if part.title:
                print(escape_controls(part.title))
            print_table(part.columns, part.rows, terminal=is_terminal(sys.stdout))


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
            else:
                yield self._lines(what, total)
            return
        if total == 1 or launch().rank > 0:
            yield lambda steps: None
            return
        from detrcli.cli.terminal import progress_bar  # slow to import

        with progress_bar(unit) as bar:
            task = bar.add_task(what, total=total)
            yield lambda steps: bar.advance(task, steps)

    def _lines(self, what: str, total: int | None) -> Callable[[int], None]:
        """Return a function that notes the progress from time to time."""
        done, noted = 0, time.monotonic()

        def advance(steps: int) -> None:
            nonlocal done, noted
            done += steps
            if (now := time.monotonic()) - noted >= PERIOD:
                noted = now
                self.note(f"{what}: {done:,}" + (f" of {total:,}" if total else ""))

        return advance


STDERR = StderrReporter()  # its wording is that of the running command
