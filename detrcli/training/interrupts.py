"""Ctrl-C and the signals of a scheduler, heard between two steps."""

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
    """While this is open, the first signal asks the training to stop; a second Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self.code: int | None = None
        self._before: dict[int, Any] = {}
        self._parent = os.getppid()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for name in _CODES:
                number = getattr(signal, name)
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.code is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.code = _CODES[signal.Signals(number).name]

    def wish(self) -> int | None:
        """The exit code that this process was asked to stop with."""
        # torchrun itself may have been killed, by SIGUSR1 say, which leaves us behind.
        if self.code is None and launch().world_size > 1 and os.getppid() != self._parent:
            self.code = TERMINATED
        return self.code


def ignore_signals(_worker: int) -> None:
    """For loader processes, which a Ctrl-C or a scheduler's signal to the whole group would reach as well.

    They end with the process that asks them for pictures.
    """
    for name in _CODES:
        signal.signal(getattr(signal, name), signal.SIG_IGN)


class EndedLoaders:
    """The signal that a loader process has ended, held back until the next batch is asked for.

    torch's own handler raises at once where a process was killed: amid a step, whose half nobody could save.
    """

    def __init__(self) -> None:
        self._heard: tuple[int, FrameType | None] | None = None
        self._handler: Any = None  # torch's, where it has set one

    def hold_back(self) -> None:
        """From now on, if a loader with processes of its own has begun."""
        number = getattr(signal, "SIGCHLD", None)  # Windows has none
        if number is None or threading.current_thread() is not threading.main_thread():
            return
        handler = signal.getsignal(number)
        if callable(handler) and handler != self._hear:
            self._handler = handler
            signal.signal(number, self._hear)

    def let_through(self) -> None:
        """What was held back: a RuntimeError, if a loader process was killed."""
        heard, self._heard = self._heard, None
        if heard is not None and self._handler is not None:
            self._handler(*heard)

    def give_back(self) -> None:
        """From now on torch hears it again."""
        if self._handler is not None:
            signal.signal(signal.SIGCHLD, self._handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._heard = (number, frame)
