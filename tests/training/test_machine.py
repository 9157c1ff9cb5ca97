"""Where more programs compute than there are cores, that is said with what helps."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from detrcli.training import machine
from detrcli.training.machine import Neighbours, running_elsewhere, too_many


@pytest.mark.parametrize(("others", "cores"), [(0, 1), (0.4, 1), (1.4, 2), (7, 8)])
def test_a_core_is_free(others: float, cores: int) -> None:
    assert too_many(others, cores, passive=False) is None


@pytest.mark.parametrize(("others", "cores"), [(1, 1), (1.6, 2), (30, 8)])
def test_no_core_is_free(others: float, cores: int) -> None:
    said = too_many(others, cores, passive=False)
    assert said is not None
    assert f"about {round(others)} threads of other programs compute on the {cores} cores" in said
    assert "OMP_WAIT_POLICY=PASSIVE" in said
    assert "OMP_NUM_THREADS=1" in said
    done = too_many(others, cores, passive=True)
    assert done is not None
    assert "OMP_WAIT_POLICY" not in done  # it is set already
    assert "OMP_NUM_THREADS=1" in done


@pytest.mark.parametrize(
    ("seen", "said"),
    [([4, 5, 2, 4, 4], True), ([0, 0, 4, 4, 0], False), ([4, 4, None, 4, 4], False)],
    ids=["most of the time", "now and then", "unknown"],
)
def test_it_is_said_once_after_several_looks(
    seen: list[int | None], said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter(seen)
    monkeypatch.setattr(machine, "running_elsewhere", lambda: next(looks))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    neighbours = Neighbours(after=0, looks=5, pause=0)
    assert [neighbours.after_step() is not None for _ in range(7)] == [False] * 4 + [said] + [False] * 2


def test_nobody_looks_before_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "running_elsewhere", lambda: pytest.fail("looked"))
    assert Neighbours(after=60, looks=1).after_step() is None


@pytest.mark.skipif(sys.platform != "linux", reason="what runs is not known")
def test_programs_that_compute_are_counted() -> None:
    cores = os.cpu_count() or 1
    if len(os.sched_getaffinity(0)) < cores:
        pytest.skip("what runs on our cores is not known")
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
    ("cores", "bound_to", "loadavg"),
    [
        pytest.param(None, {0, 1}, "0.5 0.5 0.5 7/90 1", id="cores unknown"),
        pytest.param(2, {0}, "0.5 0.5 0.5 7/90 1", id="bound to a part of the cores"),
        pytest.param(2, {0, 1}, "0.5", id="not shown"),
    ],
)
def test_nothing_is_known_where_the_system_cannot_tell(
    cores: int | None, bound_to: set[int], loadavg: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "0.5 0.5 0.5 7/90 1"
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(Path, "read_text", lambda path: text)
    monkeypatch.setattr(Path, "glob", lambda path, pattern: [])
    assert running_elsewhere() == 7
    text = loadavg
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: bound_to)
    assert running_elsewhere() is None
