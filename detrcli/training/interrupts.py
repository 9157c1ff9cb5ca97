"""Ctrl-C and the signals of a job scheduler, handled between two steps."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from detrcli.system.launch import launch

CTRL_C, TERMINATED = 130, 143
_CODES = {
    name: code
    for name, code in (("SIGINT", CTRL_C), ("SIGTERM", TERMINATED), ("SIGUSR1", TERMINATED))
    if hasattr(signal, name)  # Windows has no SIGUSR1
}


class Interrupts:
    """A context in which the first signal requests an exit, and a second Ctrl-C raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.code: int | None = None
        self._before: dict[int, Any] = {}
        self._parent = os.getppid()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for name in _CODES:
                number = getattr(signal, name)
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.code is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.code = _CODES[signal.Signals(number).name]

    def requested_exit_code(self) -> int | None:
        # torchrun itself may have been killed, for example by SIGUSR1, which leaves this process behind.
        if self.code is None and launch().world > 1 and os.getppid() != self._parent:
            self.code = TERMINATED
        return self.code


def ignore_signals(_worker: int) -> None:
    """Ignore signals in a loader process, which also receives those sent to the whole process group.

    Loader processes end with the process that reads from them.
    """
    for name in _CODES:
        signal.signal(getattr(signal, name), signal.SIG_IGN)


class DeferredLoaderErrors:
    """Defers SIGCHLD of ended loader processes to the time between two steps.

    torch's handler raises at once if a loader process was killed. Within a step, that would leave a state that cannot
    be saved.
    """

    def __init__(self) -> None:
        self._received: tuple[int, FrameType | None] | None = None
        self._handler: Any = None  # torch's, once a loader with processes has started

    def defer(self) -> None:
        """Defer signals from now on, if torch handles them."""
        number = getattr(signal, "SIGCHLD", None)  # Windows has none
        if number is None or threading.current_thread() is not threading.main_thread():
            return
        handler = signal.getsignal(number)
        if callable(handler) and handler != self._handle:
            self._handler = handler
            signal.signal(number, self._handle)

    def raise_deferred(self) -> None:
        """Call torch's handler if a signal came; it raises RuntimeError if a loader process was killed."""
        received, self._received = self._received, None
        if received is not None and self._handler is not None:
            self._handler(*received)

    def restore(self) -> None:
        """Restore torch's handler."""
        if self._handler is not None:
            signal.signal(signal.SIGCHLD, self._handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._received = (number, frame)
