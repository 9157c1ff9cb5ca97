"""A warning if more programs compute than there are cores."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from detrcli.training import machine
from detrcli.training.machine import CpuContention, running_elsewhere, too_many


@pytest.mark.parametrize(("others", "cores"), [(0, 1), (0.4, 1), (1.4, 2), (7, 8)])
def test_a_core_is_free(others: float, cores: int) -> None:
    assert too_many(others, cores, passive=False) is None


@pytest.mark.parametrize(("others", "cores"), [(1, 1), (1.6, 2), (30, 8)])
def test_no_core_is_free(others: float, cores: int) -> None:
    for passive in (False, True):
        warning = too_many(others, cores, passive=passive)
        assert warning is not None
        assert f"about {round(others)} threads" in warning
        assert ("OMP_WAIT_POLICY=PASSIVE" in warning) != passive  # a remedy unless it is set already
        assert "OMP_NUM_THREADS=1" in warning


@pytest.mark.parametrize(
    ("samples", "warns"),
    [([4, 5, 2, 4, 4], True), ([0, 0, 4, 4, 0], False), ([4, 4, None, 4, 4], False)],
    ids=["most of the time", "now and then", "unknown"],
)
def test_it_warns_once_after_several_samples(
    samples: list[int | None], warns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter(samples)
    monkeypatch.setattr(machine, "running_elsewhere", lambda: next(values))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    contention = CpuContention(after=0, samples=5, pause=0)
    assert [contention.after_step() is not None for _ in range(7)] == [False] * 4 + [warns] + [False] * 2


def test_no_sample_before_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "running_elsewhere", lambda: pytest.fail("sampled"))
    assert CpuContention(after=60, samples=1).after_step() is None


@pytest.mark.skipif(sys.platform != "linux", reason="running threads are unknown")
def test_programs_that_compute_are_counted() -> None:
    cores = os.cpu_count() or 1
    if len(os.sched_getaffinity(0)) < cores:
        pytest.skip("running threads on our cores are unknown")
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        end = time.monotonic() + 30
        while (count := running_elsewhere()) is not None and count < cores and time.monotonic() < end:
            time.sleep(0.01)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert count is not None
    assert count >= cores


@pytest.mark.parametrize(
    ("cores", "bound_to", "loadavg", "expected"),
    [
        pytest.param(2, {0, 1}, "0.5 0.5 0.5 7/90 1", 7, id="known"),
        pytest.param(None, {0, 1}, "0.5 0.5 0.5 7/90 1", None, id="cores unknown"),
        pytest.param(2, {0}, "0.5 0.5 0.5 7/90 1", None, id="bound to some of the cores"),
        pytest.param(2, {0, 1}, "0.5", None, id="not shown"),
    ],
)
def test_running_threads(
    cores: int | None, bound_to: set[int], loadavg: str, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: bound_to, raising=False)
    monkeypatch.setattr(Path, "read_text", lambda path: loadavg)
    monkeypatch.setattr(Path, "glob", lambda path, pattern: [])
    assert running_elsewhere() == expected
