"""A seeded part of `examples/fuzz.py`, and that it detects failures."""

import json
import random
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import fuzz
import pytest
from folders import contents

from detrcli.errors import DataError, WeightsError

CASES = 12  # of each kind; the script runs thousands


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_broken_files_are_read_or_rejected(kind: str, tmp_path: Path) -> None:
    for number in range(CASES):
        (tmp_path / str(number)).mkdir()
        case = fuzz.run(kind, number, 0, tmp_path / str(number))
        assert case.outcome in ("read", "rejected"), case
        assert case.seconds < fuzz.SECONDS, case


def test_a_case_is_always_the_same_file(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for kind in ("voc", "results", "png", "own"):
            fuzz.run(kind, 7, 3, tmp_path / folder)
    assert len(contents(tmp_path / "a")) >= 5
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (DataError("a.jpg: not an image.\nGive another."), "rejected"),
        (DataError("a\n" * 4), "DataError"),
        (WeightsError("a.pth: of another kind"), "WeightsError"),
        (KeyError("format"), "KeyError"),
        (MemoryError(), "MemoryError"),
        (RuntimeWarning("overflow encountered in multiply"), "RuntimeWarning: overflow"),
    ],
)
def test_failures(error: Exception, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many lines, another exit code, a bug, no memory, and a warning of numpy."""

    def read(folder: Path, chance: random.Random) -> None:
        if isinstance(error, Warning):
            warnings.warn(error, stacklevel=1)
        else:
            raise error

    monkeypatch.setattr(fuzz, "KINDS", {"odd": ("images", read, frozenset({3}))})
    case = fuzz.run("odd", 0, 0, tmp_path)
    assert case.outcome.startswith(outcome)
    assert replace(case, megabytes=0).failed == (outcome != "rejected")
    assert replace(case, outcome="read", megabytes=1001).failed
    assert replace(case, outcome="read", megabytes=0, seconds=5.1).failed


@pytest.mark.slow
def test_the_script_itself() -> None:
    options = ("--annotations", "20", "--images", "10", "--weights", "10", "--processes", "1")
    shown = subprocess.run([sys.executable, fuzz.__file__, *options], capture_output=True, text=True, check=True)
    document = json.loads(shown.stdout.splitlines()[-1])
    assert sum(row["cases"] for row in document["rows"]) == 40
    assert document["failed"] == []
