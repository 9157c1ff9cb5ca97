"""The examples that make data."""

import subprocess
import sys
from pathlib import Path

from here import Detr

LETTERS = Path(__file__).parent.parent / "examples" / "letters.py"


def test_letters_are_a_data_set_without_a_problem(detr: Detr, tmp_path: Path) -> None:
    subprocess.run([sys.executable, LETTERS, tmp_path / "letters"], check=True)
    document = detr("data", "check", "letters", "--full", "--json").json
    assert document["problems"] == []
    train, val = document["splits"]["train"], document["splits"]["val"]
    assert (train["images"], val["images"]) == (300, 100)
    assert [known["category_id"] for known in train["classes"]] == [4, 7, 19, 20, 33, 90]
    assert all(known["boxes"] > 20 for split in (train, val) for known in split["classes"])
