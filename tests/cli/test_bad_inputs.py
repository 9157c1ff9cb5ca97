"""Bad inputs of every kind: the exit code, the item and the remedy that the error names, and no file changed."""

from pathlib import Path

import bad_data
import bad_images
import bad_options
import bad_weights
import pytest
from folders import snapshot
from here import Detr

TABLES = (bad_data, bad_images, bad_weights, bad_options)
KINDS = {kind: bad for table in TABLES for kind, bad in table.KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_input(kind: str, detr: Detr, tmp_path: Path) -> None:
    bad = KINDS[kind]
    bad.make(tmp_path)
    before = snapshot(tmp_path)
    shown = detr(*bad.args)
    output = shown.err + shown.out
    assert shown.code == bad.code, output
    assert bad.item in output
    assert bad.remedy in output
    assert "Traceback" not in output
    assert shown.code != 2 or len(shown.err.splitlines()) <= 3
    assert "Internal error" not in output
    assert snapshot(tmp_path) == before


def test_kinds_are_many_and_distinct() -> None:
    assert len(KINDS) == sum(len(table.KINDS) for table in TABLES) >= 190
