"""Checkpoints that are saved as a folder."""

import errno
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from small import TINY, small_weights
from torch import Tensor

from detrcli import architectures
from detrcli.architectures.architecture import FolderArchitecture
from detrcli.architectures.tiny import TinyArchitecture, TinyConfig
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.formats.native import HEADER, find, save_as
from detrcli.checkpoints.load import load_checkpoint
from detrcli.errors import WeightsError

PART, NOTE = "parts/transformer.safetensors", "note.txt"


class InFolders(TinyArchitecture, FolderArchitecture[TinyConfig]):
    name = "in-a-folder"
    presets: Mapping[str, TinyConfig] = {}

    def write(self, config: TinyConfig, tensors: Mapping[str, Tensor], *_rest: Any) -> Mapping[str, bytes]:
        return {PART: to_bytes(dict(tensors)), NOTE: f"{config.queries} queries".encode()}

    def read_tensors(self, folder: Path) -> dict[str, Tensor]:
        return load_file(folder / PART)


ARCHITECTURE = InFolders()


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "_ARCHITECTURES", list(architectures._ARCHITECTURES))
    architectures.register(ARCHITECTURE)


@pytest.fixture
def checkpoint() -> Checkpoint:
    return small_weights(TINY, ARCHITECTURE)


def other(checkpoint: Checkpoint) -> Checkpoint:
    return replace(checkpoint, tensors={name: tensor + 1 for name, tensor in checkpoint.tensors.items()})


def equal(loaded: Checkpoint, expected: Checkpoint) -> None:
    assert loaded.architecture is expected.architecture
    assert loaded.config == expected.config
    assert loaded.preprocessing == expected.preprocessing
    assert loaded.loss == expected.loss
    assert loaded.classes.names.tolist() == expected.classes.names.tolist()
    assert loaded.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(tensor, expected.tensors[name]) for name, tensor in loaded.tensors.items())


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_round_trip(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """By its path, and by that of the run whose best it is."""
    path = save_as(checkpoint, tmp_path, "best")
    assert path == tmp_path / "best" == find(tmp_path, "best")
    assert names(tmp_path) == sorted(f"best/{name}" for name in (HEADER, NOTE, PART))
    for source in (path, tmp_path):
        equal(load_checkpoint(str(source)), checkpoint)
    load_checkpoint(str(path)).model()


def test_the_architecture_decides_between_folder_and_file(tmp_path: Path, checkpoint: Checkpoint) -> None:
    assert save_as(checkpoint, tmp_path, "a").is_dir()
    assert save_as(small_weights(TINY), tmp_path, "b") == tmp_path / "b.safetensors" == find(tmp_path, "b")
    assert find(tmp_path, "c") is None
    (tmp_path / "d").mkdir()
    assert find(tmp_path, "d") is None


def test_a_folder_is_replaced(tmp_path: Path, checkpoint: Checkpoint) -> None:
    for saved in (checkpoint, other(checkpoint), checkpoint, other(checkpoint)):
        save_as(saved, tmp_path, "last")
        equal(load_checkpoint(str(tmp_path / "last")), saved)
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_equal_checkpoints_are_equal_folders(tmp_path: Path, checkpoint: Checkpoint) -> None:
    for name in "ab":
        save_as(checkpoint, tmp_path, name)
    for file in (HEADER, NOTE):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_failed_write_leaves_the_previous_folder(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else."""
    save_as(checkpoint, tmp_path, "best")
    whole = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.name == HEADER:
            whole(self, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(self, data)

    with monkeypatch.context() as failing:
        failing.setattr(Path, "write_bytes", full)
        for name in ("best", "last"):
            with pytest.raises(OSError, match=f"No space left on device.*{name}"):
                save_as(other(checkpoint), tmp_path, name)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    equal(load_checkpoint(str(tmp_path)), checkpoint)


class PowerCut(BaseException):
    pass


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_power_cut_between_two_renames(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """The previous folder is found until the new one has replaced it."""
    save_as(checkpoint, tmp_path, "best")
    replace_path, done = os.replace, []

    def cut(*paths: Path) -> None:
        if len(done) == renames:
            raise PowerCut
        done.append(replace_path(*paths))

    remove = shutil.rmtree

    def remove_before_the_cut(path: Path, *, ignore_errors: bool) -> None:
        if len(done) < 2:
            remove(path, ignore_errors=ignore_errors)

    with monkeypatch.context() as dying:
        dying.setattr(os, "replace", cut)
        dying.setattr(shutil, "rmtree", remove_before_the_cut)
        with nullcontext() if renames == 2 else pytest.raises(PowerCut):
            save_as(other(checkpoint), tmp_path, "best")
    expected = checkpoint if renames < 2 else other(checkpoint)
    assert (tmp_path / "best").exists() is (renames != 1)
    for source in (tmp_path, tmp_path / "best"):
        equal(load_checkpoint(str(source)), expected)
    assert find(tmp_path, "best") == tmp_path / "best"

    save_as(checkpoint, tmp_path, "best")
    equal(load_checkpoint(str(tmp_path)), checkpoint)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_any_flipped_bit_is_noticed(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """In the tensors and their header, and in our header."""
    path = save_as(checkpoint, tmp_path, "best")
    data, header = (path / PART).read_bytes(), (path / HEADER).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for file, whole, places in (
        (PART, data, (0, 9, start, start + 12_345, len(data) - 1)),
        (HEADER, header, (0, header.index(b"cat"), header.index(b"config") + 20, len(header) - 1)),
    ):
        for place in places:
            flipped = bytearray(whole)
            flipped[place] ^= 1
            (path / file).write_bytes(flipped)
            with pytest.raises(WeightsError, match=r"damaged|cannot be read|another version|unknown"):
                load_checkpoint(str(path))
        (path / file).write_bytes(whole)
    equal(load_checkpoint(str(path)), checkpoint)


def test_invalid_folders(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = save_as(checkpoint, tmp_path, "best")
    whole = json.loads((path / HEADER).read_text())
    for header, reason in (
        (whole | {"format": "detrcli/9"}, "detrcli/9"),
        (whole | {"variant": "dino-9"}, "dino-9"),
        (whole | {"variant": "detr-tiny"}, "a detr-tiny is not stored as a folder"),
        ([], "header"),
        ({}, "header"),
    ):
        (path / HEADER).write_text(json.dumps(header))
        with pytest.raises(WeightsError, match=reason):
            load_checkpoint(str(path))
    (path / HEADER).write_text(json.dumps(whole))
    (path / PART).unlink()
    with pytest.raises(WeightsError, match="cannot be read"):
        load_checkpoint(str(path))
