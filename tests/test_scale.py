"""A small part of `examples/load.py`: every command succeeds on large inputs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from documents import ROOT


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_part_of_it(tmp_path: Path) -> None:
    parts = ("images", "boxes", "classes", "pixels")
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "load.py", tmp_path, "--share", "0.003", "--only", *parts],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert [row["part"] for row in rows] == list(parts)
    assert all(row["code"] == 0 for row in rows), done.stderr
    lines = (tmp_path / "images" / "detections.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 300  # the first line is the request
    assert sum("reason" in json.loads(line) for line in lines) == 3
