"""Signals are heard, and those of before are given back."""

import os
import signal

import pytest

from detrcli.training.interrupts import Interrupts


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 143)])
def test_a_signal_is_a_wish_to_stop(name: str, code: int) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        assert interrupts.wish() is None
        os.kill(os.getpid(), number)
        assert interrupts.wish() == code
    assert signal.getsignal(number) is before


def test_a_signal_is_heard_where_it_was_ignored() -> None:
    """As in all that a shell starts with `&`: a signal that is sent all the same is meant."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupts.wish() == 130
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_ends_at_once() -> None:
    with Interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_process_whose_torchrun_is_gone_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupts = Interrupts()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert interrupts.wish() is None
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert interrupts.wish() == 143
