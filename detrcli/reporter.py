"""Notes and progress of long operations."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

from detrcli.messages import Wording, in_python, word
from detrcli.system.launch import launch


class Reporter:
    """Receives notes and progress. This class is silent; subclass it to show them."""

    wording: Wording = staticmethod(in_python)

    def note(self, text: str, *, alone: bool = False) -> None:
        """Report a fact that the user should know. `text` may mention arguments (`detrcli.messages`).

        With several processes, only rank 0 shows it, unless it concerns this process `alone`.
        """
        if alone or launch().rank == 0:
            self.show(word(text, self.wording))

    def show(self, text: str) -> None:
        """Show a note."""

    def progress(
        self, what: str, total: int | None = None, unit: Literal["items", "bytes"] = "items"
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Return a context manager for an operation of `total` steps; call its value with the number of new steps."""
        return nullcontext(lambda steps: None)


SILENT = Reporter()
