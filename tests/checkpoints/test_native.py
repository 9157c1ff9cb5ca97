"""Our own formats: a file, or a folder for an architecture that stores its checkpoints as folders."""

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
from safetensors.torch import load_file, save_file
from safetensors.torch import save as to_bytes
from small import CONFIG, TINY, masked_weights, small_weights
from torch import Tensor

from detrcli import architectures
from detrcli.architectures import detr
from detrcli.architectures.architecture import FolderArchitecture
from detrcli.architectures.tiny import TinyArchitecture, TinyConfig
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.formats.header import CHECKSUM, checksum, header_of
from detrcli.checkpoints.formats.native import HEADER, find, save, save_as
from detrcli.checkpoints.load import load_checkpoint
from detrcli.errors import WeightsError
from detrcli.structures import Classes

PART, NOTE = "parts/transformer.safetensors", "note.txt"


class InFolders(TinyArchitecture, FolderArchitecture[TinyConfig]):
    name = "in-a-folder"
    presets: Mapping[str, TinyConfig] = {}

    def write(self, config: TinyConfig, tensors: Mapping[str, Tensor], *_rest: Any) -> Mapping[str, bytes]:
        return {PART: to_bytes(dict(tensors)), NOTE: f"{config.queries} queries".encode()}

    def read_tensors(self, folder: Path) -> dict[str, Tensor]:
        return load_file(folder / PART)


IN_FOLDERS = InFolders()


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "_ARCHITECTURES", list(architectures._ARCHITECTURES))
    architectures.register(IN_FOLDERS)


@pytest.fixture(params=["file", "folder"])
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    if request.param == "folder":
        return small_weights(TINY, IN_FOLDERS)
    return small_weights(replace(CONFIG, dilated=True, pre_norm=True, position="learned"))


@pytest.fixture
def in_folder() -> Checkpoint:
    return small_weights(TINY, IN_FOLDERS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "w.safetensors"


def other(checkpoint: Checkpoint) -> Checkpoint:
    return replace(checkpoint, tensors={name: tensor + 1 for name, tensor in checkpoint.tensors.items()})


def equal(loaded: Checkpoint, expected: Checkpoint) -> None:
    assert loaded.architecture is expected.architecture
    assert (loaded.config, loaded.preprocessing, loaded.loss) == (
        expected.config, expected.preprocessing, expected.loss,
    )  # fmt: skip
    assert loaded.classes.ids.tolist() == expected.classes.ids.tolist() == [7, 1, 4_000_000_007]
    assert loaded.classes.names.tolist() == expected.classes.names.tolist() == ["cat", "dog", "Żubr"]
    torch.testing.assert_close(loaded.tensors, expected.tensors, rtol=0, atol=0)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_round_trip(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """By its path, and by that of the run whose best it is. Saving again replaces it."""
    for saved in (other(checkpoint), checkpoint):
        path = save_as(saved, tmp_path, "best")
        assert path == find(tmp_path, "best")
        for source in (path, tmp_path):
            equal(load_checkpoint(str(source)), saved)
    if checkpoint.architecture is IN_FOLDERS:
        assert files(tmp_path) == sorted(f"best/{name}" for name in (HEADER, NOTE, PART))
    else:
        assert files(tmp_path) == ["best.safetensors"]
    load_checkpoint(str(path)).model()
    (tmp_path / "empty").mkdir()
    assert find(tmp_path, "empty") is find(tmp_path, "missing") is None


def test_names_in_any_language_and_things(path: Path) -> None:
    checkpoint = masked_weights()
    names, things = ["狗 🐕", 'quo"te\n', "\u202eright"], [True, False, True]
    save(replace(checkpoint, classes=Classes.of([0, 1, 2], names, things)), path)
    loaded = load_checkpoint(str(path))
    assert loaded.architecture is checkpoint.architecture
    assert loaded.classes.names.tolist() == names
    assert loaded.classes.things.tolist() == things
    save(checkpoint, path)
    assert load_checkpoint(str(path)).classes.things is None
    for wrong in ([True, False], [1, 0, 1]):
        with pytest.raises(ValueError, match="things"):
            Classes.of([1, 2, 3], ["a", "b", "c"], wrong)


def test_counters_stay_integers(path: Path) -> None:
    """Larger than float16 or float32 could represent, beside tensors of half precision."""
    config = replace(CONFIG, norm="batch")
    tensors = {name: torch.zeros_like(value) for name, value in detr.ARCHITECTURE.build(config).state_dict().items()}
    tensors = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
    counter = "backbone.body.bn1.num_batches_tracked"
    tensors[counter] = torch.tensor(2**24 + 1)
    save(replace(small_weights(), config=config, tensors=tensors), path)
    state = load_checkpoint(str(path)).model().state_dict()
    assert state[counter].dtype == torch.int64
    assert state[counter].item() == 2**24 + 1
    assert {value.dtype for name, value in state.items() if "tracked" not in name} == {torch.float32}


def test_any_flipped_bit_is_noticed(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """In the tensors, where safetensors itself does not notice it, in their header, and in our header."""
    path = save_as(checkpoint, tmp_path, "best")
    tensors = path / PART if path.is_dir() else path
    data = tensors.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    places = [(tensors, place) for place in (0, 9, start, start + 12_345, len(data) - 1)]
    if path.is_dir():
        header = (path / HEADER).read_bytes()
        ours = (0, header.index(b"cat"), header.index(b"config") + 20, len(header) - 1)
        places += [(path / HEADER, place) for place in ours]
    else:
        places.append((tensors, data.index(b"cat")))
    for file, place in places:
        whole = file.read_bytes()
        flipped = bytearray(whole)
        flipped[place] ^= 1
        file.write_bytes(flipped)
        unreadable = (
            "" if file == tensors and place >= start else "|cannot be read|not a complete|another version|unknown"
        )
        with pytest.raises(WeightsError, match=f"damaged{unreadable}"):
            load_checkpoint(str(path))
        file.write_bytes(whole)
    equal(load_checkpoint(str(path)), checkpoint)


def test_equal_checkpoints_are_equal(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """Their files and headers; the architecture writes the other files of a folder."""
    paths = [save_as(checkpoint, tmp_path, name) for name in "abc"]
    for file in (HEADER, NOTE) if paths[0].is_dir() else ("",):
        assert len({(path / file).read_bytes() for path in paths}) == 1


def test_incomplete_files(path: Path) -> None:
    save(small_weights(TINY), path)
    whole = path.read_bytes()
    for length in (len(whole) // 2, 100, 0):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="not a complete safetensors file"):
            load_checkpoint(str(path))


@pytest.mark.parametrize(("header", "reason"), [(None, "not written by detr"), ({"format": "detrcli/9"}, "detrcli/9")])
def test_files_of_other_programs_and_versions(header: dict[str, str] | None, reason: str, path: Path) -> None:
    """The version is checked before the checksum, which another version may compute in another way."""
    save_file({"a": torch.zeros(1)}, path, header)
    with pytest.raises(WeightsError, match=rf"^{path}: (.|\n)*{reason}"):
        load_checkpoint(str(path))


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [(torch.zeros(()), "of another shape"), (torch.zeros(4, 3).to(torch.float8_e4m3fn), "is of float8")],
)
def test_unusable_tensors(tensor: torch.Tensor, reason: str, path: Path) -> None:
    checkpoint = small_weights(TINY)
    header, tensors = header_of(checkpoint), {**checkpoint.tensors, "class_head.weight": tensor}
    save_file(tensors, path, {**header, CHECKSUM: checksum(header, tensors)})
    with pytest.raises(WeightsError, match=reason):
        load_checkpoint(str(path)).model()


@pytest.mark.skipif(os.name == "nt", reason="permissions")
def test_other_users_may_read_it(path: Path) -> None:
    before = os.umask(0o022)
    try:
        save(small_weights(), path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644


def test_invalid_folders(tmp_path: Path, in_folder: Checkpoint) -> None:
    path = save_as(in_folder, tmp_path, "best")
    whole = json.loads((path / HEADER).read_text())
    for header, reason in (
        (whole | {"format": "detrcli/9"}, "detrcli/9"),
        (whole | {"variant": "dino-9"}, "dino-9"),
        (whole | {"variant": "detr-tiny"}, "a detr-tiny is not stored as a folder"),
        ([], "cannot be read"),
        ({}, "format None"),
    ):
        (path / HEADER).write_text(json.dumps(header))
        with pytest.raises(WeightsError, match=reason):
            load_checkpoint(str(path))
    (path / HEADER).write_text(json.dumps(whole))
    (path / PART).unlink()
    with pytest.raises(WeightsError, match="cannot be read"):
        load_checkpoint(str(path))


def test_a_failed_write_leaves_the_previous_folder(
    tmp_path: Path, in_folder: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else."""
    save_as(in_folder, tmp_path, "best")
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
                save_as(other(in_folder), tmp_path, name)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    equal(load_checkpoint(str(tmp_path)), in_folder)


class PowerCut(BaseException):
    pass


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_power_cut_between_two_renames(
    tmp_path: Path, in_folder: Checkpoint, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """The previous folder is found until the new one has replaced it."""
    save_as(in_folder, tmp_path, "best")
    replace_path, remove, done = os.replace, shutil.rmtree, []

    def cut(*paths: Path) -> None:
        if len(done) == renames:
            raise PowerCut
        done.append(replace_path(*paths))

    def remove_before_the_cut(path: Path, *, ignore_errors: bool) -> None:
        if len(done) < 2:
            remove(path, ignore_errors=ignore_errors)

    with monkeypatch.context() as dying:
        dying.setattr(os, "replace", cut)
        dying.setattr(shutil, "rmtree", remove_before_the_cut)
        with nullcontext() if renames == 2 else pytest.raises(PowerCut):
            save_as(other(in_folder), tmp_path, "best")
    expected = in_folder if renames < 2 else other(in_folder)
    assert (tmp_path / "best").exists() is (renames != 1)
    for source in (tmp_path, tmp_path / "best"):
        equal(load_checkpoint(str(source)), expected)
    assert find(tmp_path, "best") == tmp_path / "best"

    save_as(in_folder, tmp_path, "best")
    equal(load_checkpoint(str(tmp_path)), in_folder)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
