"""A warning if more programs compute than there are cores."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from detrcli.training import machine
from detrcli.training.machine import CpuContention, running_elsewhere


@pytest.mark.parametrize(
    ("samples", "cores", "warning"),
    [
        ([4, 5, 2, 4, 4], 4, "about 4 threads"),
        ([1, 1, 1, 1, 1], 1, "about 1 threads"),
        ([3, 3, 4, 4, 4], 4, "about 4 threads"),  # 3.6
        ([3, 3, 3, 4, 4], 4, None),  # 3.4: a core is free most of the time
        ([0, 1, 0, 1, 0], 1, None),
        ([4, 4, None, 4, 4], 4, None),  # unknown
    ],
)
@pytest.mark.parametrize("passive", [False, True])
def test_it_warns_once_if_no_core_is_free(
    samples: list[int | None], cores: int, warning: str | None, passive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter(samples)
    monkeypatch.setattr(machine, "running_elsewhere", lambda: next(values))
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE" if passive else "")
    contention = CpuContention(after=0, samples=5, pause=0)
    texts = [contention.after_step() for _ in range(7)]
    assert [text is not None for text in texts] == [False] * 4 + [warning is not None] + [False] * 2
    if warning is not None and (text := texts[4]):
        assert warning in text
        assert ("OMP_WAIT_POLICY=PASSIVE" in text) != passive  # a remedy unless it is set already


def test_no_sample_before_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "running_elsewhere", lambda: pytest.fail("sampled"))
    assert CpuContention(after=60, samples=1).after_step() is None


@pytest.mark.skipif(sys.platform != "linux", reason="running threads are unknown")
def test_programs_that_compute_are_counted() -> None:
    cores = os.cpu_count() or 1
    if len(os.sched_getaffinity(0)) < cores:
        pytest.skip("unknown with fewer cores")
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
