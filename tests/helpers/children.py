"""Processes that tests start."""

import sys

_RESTORE = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def python(*args: object) -> list[str]:
    """A call of Python that hears SIGINT, even where it is ignored, as in all that a shell starts with `&`."""
    return [sys.executable, "-c", _RESTORE, *map(str, args)]
