"""A disk that is full at any write of a training: the file is named, nothing saved is lost, and it goes on."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from here import Detr
from trainings import comparable, data_of, new, resume

from detrcli.data.make import make_shapes
from detrcli.training.interrupts import Interrupts
from detrcli.training.loop import Training
from detrcli.training.run_folder import RunFolder
from detrcli.training.run_status import is_unbegun
from detrcli.training.setup import Data
from detrcli.training.state import load_state

CHOSEN = {"epochs": 1, "ema": 0.9}
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, images=5, size=32, classes=("circle", "square"), objects=2)
    return folder


@pytest.fixture(scope="module")
def data(folder: Path) -> Data:
    return data_of(folder)


@contextmanager
def writes(monkeypatch: pytest.MonkeyPatch, full_at: int | None = None) -> Iterator[list[str]]:
    """A list that grows with every file that is written within it; one of them finds no room, after a half."""
    done: list[str] = []

    def opened(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if "w" in mode:
            done.append(path.name)
            if len(done) - 1 == full_at:
                with open_(path, "wb") as file:
                    file.write(b"half of it")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return open_(path, mode, *args, **kwargs)

    open_ = Path.open  # by which `write_bytes` and `write_text` go too
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", opened)
        yield done


def begun(data: Data, run: Path) -> Training:
    run.mkdir(parents=True, exist_ok=True)
    training = new(data, run, **CHOSEN)
    RunFolder(run).write_config(training.settings, "shapes")
    return training


def files_in(run: Path) -> set[str]:
    """All but the states, whose names hold their hashes."""
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and path.suffix != ".pt"}


def goes_on_after(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, whole: Training) -> None:
    run = tmp_path / f"full-{at}"
    with writes(monkeypatch, at), pytest.raises(OSError, match="No space") as error:
        begun(data, run).go(Interrupts())
    assert error.value.filename is not None
    assert Path(error.value.filename).is_relative_to(run)
    assert not [name for name in files_in(run) if Path(name).name.startswith(".")]  # nothing half is left
    if (run / "state").is_dir() and any((run / "state").glob("*.pt")):
        _, notes = load_state(run)
        assert notes == []
        parts = resume(data, run)
    else:
        assert is_unbegun(run) or not (run / "config.toml").exists()
        parts = begun(data, run)
    parts.go(Interrupts())
    assert comparable(parts) == comparable(whole)
    assert files_in(run) == files_in(tmp_path / "whole")


def whole_run(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Training, list[str]]:
    with writes(monkeypatch) as done:
        whole = begun(data, tmp_path / "whole")
        whole.go(Interrupts())
    return whole, done


@pytest.mark.slow
def test_at_every_write(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, done = whole_run(data, tmp_path, monkeypatch)
    assert len(done) > 7
    for at in range(len(done)):
        goes_on_after(data, tmp_path, monkeypatch, at, whole)


def test_at_some_writes(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, done = whole_run(data, tmp_path, monkeypatch)
    for at in (1, len(done) - 2):
        goes_on_after(data, tmp_path, monkeypatch, at, whole)


def test_it_is_the_machines_error(detr: Detr, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command ends with 6 and names the file; no other run is begun in its place."""
    with writes(monkeypatch, 6):
        shown = detr(
            "train", folder, "--model", "detr-tiny", "--weights", "none", "--size", 32, "--epochs", 1,
            "--batch-size", 2, "--set", "queries=6", "--set", "workers=0", "--out", "run", "--device", "cpu",
        )  # fmt: skip
    assert shown.code == 6
    assert "No space left on device: run" in shown.err
    assert "Traceback" not in shown.err
