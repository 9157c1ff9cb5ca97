"""A seeded part of `examples/kills.py`: no saved step is lost, however a training is stopped."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "examples" / "kills.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks trainings and observes files while they are written")
def test_a_part_of_it() -> None:
    options = ["--kills", "3", "--signals", "1", "--seed", "3"]
    shown = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, check=True)
    found = json.loads(shown.stdout.splitlines()[-1])
    assert found["with_different_bytes"] == 0
    assert sum(row["times"] for row in found["rows"]) == 6
    for row in found["rows"]:
        assert row["not resumed"] == row["most saved steps lost"] == 0
        if not row["stopped by"].startswith("SIGKILL"):
            assert row["most steps repeated"] == 0
