"""The examples that are not benchmarks."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from here import Detr
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent.parent / "examples"
LETTERS = EXAMPLES / "letters.py"


@pytest.mark.slow
def test_letters_are_a_dataset_without_problems(detr: Detr, tmp_path: Path) -> None:
    subprocess.run([sys.executable, LETTERS, tmp_path / "letters"], check=True)
    document = detr("data", "check", "letters", "--full", "--json").json
    assert document["problems"] == []
    train, val = document["splits"]["train"], document["splits"]["val"]
    assert (train["images"], val["images"]) == (300, 100)
    assert [entry["category_id"] for entry in train["classes"]] == [4, 7, 19, 20, 33, 90]
    assert all(entry["boxes"] > 20 for split in (train, val) for entry in split["classes"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    done = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    last = [cell["outputs"] for cell in done.cells if cell["cell_type"] == "code"][-1]
    assert "AP" in last[0]["data"]["text/plain"]
