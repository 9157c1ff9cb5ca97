"""Signals request an exit, and the handlers of before are restored."""

import os
import signal

import pytest

from detrcli.training.interrupts import Interrupts


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 143)])
@pytest.mark.parametrize("ignored", [False, True], ids=["", "ignored before"])
def test_a_signal_requests_an_exit(name: str, code: int, ignored: bool) -> None:
    """A process that a shell starts with `&` ignores SIGINT at first."""
    number = getattr(signal, name)
    before = signal.getsignal(number)
    if ignored:
        signal.signal(number, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            assert interrupts.requested_exit_code() is None
            os.kill(os.getpid(), number)
            assert interrupts.requested_exit_code() == code
        assert signal.getsignal(number) is (signal.SIG_IGN if ignored else before)
    finally:
        signal.signal(number, before)


def test_a_second_ctrl_c_ends_at_once() -> None:
    with Interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_process_whose_torchrun_ended_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupts = Interrupts()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert interrupts.requested_exit_code() is None
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert interrupts.requested_exit_code() == 143
