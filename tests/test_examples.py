"""The examples that are not benchmarks, and small parts of those that stress the commands."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from documents import ROOT
from here import Detr
from nbclient import NotebookClient

EXAMPLES = ROOT / "examples"
pytestmark = pytest.mark.slow


def last_document(script: str, *options: object) -> Any:
    command = [sys.executable, EXAMPLES / script, *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_letters_are_a_dataset_without_problems(detr: Detr, tmp_path: Path) -> None:
    subprocess.run([sys.executable, EXAMPLES / "letters.py", tmp_path / "letters"], check=True)
    document = detr("data", "check", "letters", "--full", "--json").json
    assert document["problems"] == []
    train, val = document["splits"]["train"], document["splits"]["val"]
    assert (train["images"], val["images"]) == (300, 100)
    assert [entry["category_id"] for entry in train["classes"]] == [4, 7, 19, 20, 33, 90]
    assert all(entry["boxes"] > 20 for split in (train, val) for entry in split["classes"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    done = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    last = [cell["outputs"] for cell in done.cells if cell["cell_type"] == "code"][-1]
    assert "AP" in last[0]["data"]["text/plain"]


@pytest.mark.skipif(sys.platform != "linux", reason="forks trainings and observes files while they are written")
def test_no_saved_step_is_lost_however_a_training_is_stopped() -> None:
    document = last_document("kills.py", "--kills", 3, "--signals", 1, "--seed", 3)
    assert document["with_different_bytes"] == 0
    assert sum(row["times"] for row in document["rows"]) == 6
    for row in document["rows"]:
        assert row["not resumed"] == row["most saved steps lost"] == 0
        assert row["stopped by"].startswith("SIGKILL") or row["most steps repeated"] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_every_command_succeeds_on_large_inputs(tmp_path: Path) -> None:
    parts = ("images", "boxes", "classes", "pixels")
    rows = last_document("load.py", tmp_path, "--share", 0.003, "--only", *parts)["rows"]
    assert [(row["part"], row["code"]) for row in rows] == [(part, 0) for part in parts]
    lines = (tmp_path / "images" / "detections.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 300  # the first line is the request
    assert sum("reason" in json.loads(line) for line in lines) == 3


def test_tiles_find_small_objects() -> None:
    document = last_document("small_objects.py", "--scenes", 1, "--groups", 60, "--sizes", 1333, "--tiles", "240x240")
    *whole, tiled = (row["APs"] for row in document["rows"])
    assert tiled >= 0.35
    assert tiled >= 2 * max(whole)
