"""Bad inputs of every kind: the exit code, the item and the remedy that the error names, and no file changed."""

from pathlib import Path

import bad_data
import bad_images
import bad_options
import bad_weights
import pytest
from here import Detr

TABLES = (bad_data, bad_images, bad_weights, bad_options)
KINDS = {kind: bad for table in TABLES for kind, bad in table.KINDS.items()}


def contents(root: Path) -> dict[str, tuple[float, bytes]]:
    """Return every file and folder below with its time and content."""
    return {
        path.relative_to(root).as_posix(): (
            path.lstat().st_mtime_ns,
            path.read_bytes() if path.is_file() and not path.is_symlink() else b"",
        )
        for path in sorted(root.rglob("*"))
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_input(kind: str, detr: Detr, tmp_path: Path) -> None:
    bad = KINDS[kind]
    bad.make(tmp_path)
    before = contents(tmp_path)
    shown = detr(*bad.args)
    output = shown.err + shown.out
    assert shown.code == bad.code, output
    assert bad.item in output
    assert bad.remedy in output
    assert "Traceback" not in output
    assert shown.code != 2 or len(shown.err.splitlines()) <= 3
    assert "Internal error" not in output
    assert contents(tmp_path) == before


def test_kinds_are_many_and_distinct() -> None:
    assert len(KINDS) == sum(len(table.KINDS) for table in TABLES) >= 190
