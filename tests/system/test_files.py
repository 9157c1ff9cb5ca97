"""Atomic writes of files and folders."""

import os
from pathlib import Path

import numpy as np
import pytest
from folders import contents

from detrcli.system.files import whole_folder, write_arrays, write_whole, write_whole_folder


def test_a_file_replaces_another(tmp_path: Path) -> None:
    """Errors name the file."""
    for data in (b"one", b"two"):
        write_whole(tmp_path / "a", data)
        assert contents(tmp_path) == {"a": data}
    with pytest.raises(OSError, match=r"nowhere.a"):
        write_whole(tmp_path / "nowhere" / "a", b"one")
    assert contents(tmp_path) == {"a": b"two"}


def test_a_folder_replaces_another(tmp_path: Path) -> None:
    """Completely: files that the new folder does not have are gone."""
    assert whole_folder(tmp_path / "a") == tmp_path / "a"
    write_whole_folder(tmp_path / "a", {"x": b"1", "deep/er/y": b"2"})
    assert contents(tmp_path) == {"a/x": b"1", "a/deep/er/y": b"2"}
    write_whole_folder(tmp_path / "a", {"x": b"3"})
    assert contents(tmp_path) == {"a/x": b"3"}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert whole_folder(tmp_path / "a") == tmp_path / "a"


def test_a_crash_between_the_renames_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second rename fails, as on a disk that was removed."""
    write_whole_folder(tmp_path / "a", {"x": b"old"})
    rename, done = os.replace, []

    def once(*paths: Path) -> None:
        if done:
            raise OSError(5, "Input/output error")
        done.append(rename(*paths))

    with monkeypatch.context() as failing:
        failing.setattr(os, "replace", once)
        with pytest.raises(OSError, match=r"Input/output error.*a"):
            write_whole_folder(tmp_path / "a", {"x": b"new"})
    assert not (tmp_path / "a").exists()
    assert contents(whole_folder(tmp_path / "a")) == {"x": b"old"}
    write_whole_folder(tmp_path / "a", {"x": b"newer"})
    assert contents(tmp_path) == {"a/x": b"newer"}


def test_arrays(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", {"x": np.arange(3), "y": 2.5})
    with np.load(tmp_path / "a.npz") as file:
        assert file["x"].tolist() == [0, 1, 2]
        assert file["y"] == 2.5
