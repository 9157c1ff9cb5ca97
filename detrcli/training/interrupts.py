"""Ctrl-C and the signals of a job scheduler, handled between two steps."""

import os
import signal
import threading
from types import FrameType
from typing import Any, Self

from detrcli.system.launch import launch

CTRL_C, TERMINATED = 130, 143
_EXIT_CODES = {
    name: code
    for name, code in (("SIGINT", CTRL_C), ("SIGTERM", TERMINATED), ("SIGUSR1", TERMINATED))
    if hasattr(signal, name)  # Windows has no SIGUSR1
}


class Interrupts:
    """A context in which the first signal requests an exit, and a second Ctrl-C raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.code: int | None = None
        self._previous_handlers: dict[int, Any] = {}
        self._parent = os.getppid()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for name in _EXIT_CODES:
                number = getattr(signal, name)
                self._previous_handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.code is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.code = _EXIT_CODES[signal.Signals(number).name]

    def ignore_child_signals(self) -> None:
        """Replace torch's handler of SIGCHLD, which raises in the middle of a step if a loader process was killed."""
        number = getattr(signal, "SIGCHLD", None)  # Windows has none
        if number is not None and threading.current_thread() is threading.main_thread():
            self._previous_handlers.setdefault(number, signal.signal(number, signal.SIG_DFL))

    def requested_exit_code(self) -> int | None:
        # If torchrun itself was killed, for example by SIGUSR1, this process is left behind with another parent.
        if self.code is None and launch().world_size > 1 and os.getppid() != self._parent:
            self.code = TERMINATED
        return self.code


def ignore_signals(_worker: int) -> None:
    """Ignore signals to the process group in a loader process, which exits with the training process."""
    for name in _EXIT_CODES:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
