"""A full disk at any write of a training: the error names the file, saved states stay, and the run can be resumed."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from here import Detr
from trainings import comparable, new, resume, shapes_fixture

from detrcli.training.interrupts import Interrupts
from detrcli.training.loop import Training
from detrcli.training.run_folder import RunFolder
from detrcli.training.run_status import is_unbegun
from detrcli.training.setup import Data
from detrcli.training.state import load_state

pytestmark = pytest.mark.usefixtures("one_thread")
data = shapes_fixture(images=5)


@contextmanager
def writes(monkeypatch: pytest.MonkeyPatch, full_at: int | None = None) -> Iterator[list[str]]:
    """Yield a list that receives the name of each written file; the write of this number fails halfway."""
    names: list[str] = []

    def opened(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if "w" in mode:
            names.append(path.name)
            if len(names) - 1 == full_at:
                with open_(path, "wb") as file:
                    file.write(b"half of it")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return open_(path, mode, *args, **kwargs)

    open_ = Path.open  # used by `write_bytes` and `write_text` too
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", opened)
        yield names


def started(data: Data, run: Path) -> Training:
    training = new(data, run, epochs=1, ema=0.9)
    RunFolder(run).write_config(training.settings, "shapes")
    return training


def files_in(run: Path) -> set[str]:
    """All files but the states, whose names contain their hashes."""
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and path.suffix != ".pt"}


@pytest.mark.parametrize("every", [pytest.param(True, marks=pytest.mark.slow), False], ids=["every write", "some"])
def test_resumed_after_a_full_disk(every: bool, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with writes(monkeypatch) as names:
        whole = started(data, tmp_path / "whole")
        whole.run(Interrupts())
    assert len(names) > 7
    for at in range(len(names)) if every else (1, len(names) - 2):
        run = tmp_path / f"full-{at}"
        with writes(monkeypatch, at), pytest.raises(OSError, match="No space") as error:
            started(data, run).run(Interrupts())
        assert Path(error.value.filename).is_relative_to(run)
        assert not [name for name in files_in(run) if Path(name).name.startswith(".")]  # no unfinished files
        if (run / "state").is_dir() and any((run / "state").glob("*.pt")):
            assert load_state(run)[1] == []
            parts = resume(data, run)
        else:
            assert is_unbegun(run) or not (run / "config.toml").exists()
            parts = started(data, run)
        parts.run(Interrupts())
        assert comparable(parts) == comparable(whole)
        assert files_in(run) == files_in(tmp_path / "whole")


def test_the_command_exits_with_6(detr: Detr, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    with writes(monkeypatch, 6):
        shown = detr(
            "train", data.name, "--model", "detr-tiny", "--weights", "none", "--size", 32, "--epochs", 1,
            "--batch-size", 2, "--set", "queries=6", "--set", "workers=0", "--out", "run", "--device", "cpu",
        )  # fmt: skip
    shown.fails(6, "No space left on device: run")
    assert "Traceback" not in shown.err
