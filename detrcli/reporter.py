"""What a long operation tells while it runs."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

from detrcli.messages import Wording, in_python, word


class Reporter:
    """Receives notes and progress. This class is silent; subclass it to show them."""

    wording: Wording = staticmethod(in_python)

    def note(self, text: str) -> None:
        """Report a fact that the user should know. `text` may mention arguments (`detrcli.messages`)."""
        self.show(word(text, self.wording))

    def show(self, text: str) -> None:
        """Show a note."""

    def progress(
        self, what: str, total: int | None = None, unit: Literal["items", "bytes"] = "items"
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Return a context for an operation of `total` steps, in which the number of new steps is reported."""
        return nullcontext(lambda steps: None)


SILENT = Reporter()
