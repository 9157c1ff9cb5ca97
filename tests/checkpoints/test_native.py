"""Our own file format."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small import CONFIG, TINY, masked_weights, small_weights

from detrcli.architectures.detr import ARCHITECTURE
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.formats import native
from detrcli.checkpoints.formats.header import CHECKSUM, FORMAT, checksum, header_of
from detrcli.checkpoints.load import load_checkpoint
from detrcli.errors import WeightsError
from detrcli.structures import Classes


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, bytes]:
    path = tmp_path_factory.mktemp("native") / "w.safetensors"
    checkpoint = small_weights(replace(CONFIG, dilated=True, pre_norm=True, position="learned"))
    native.save(checkpoint, path)
    assert [file.name for file in path.parent.iterdir()] == ["w.safetensors"]
    return checkpoint, path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "w.safetensors"


def test_round_trip(path: Path, saved: tuple[Checkpoint, bytes]) -> None:
    checkpoint, data = saved
    path.write_bytes(data)
    loaded = load_checkpoint(str(path))
    assert loaded.config == checkpoint.config
    assert loaded.preprocessing == checkpoint.preprocessing
    assert loaded.loss == checkpoint.loss
    assert loaded.classes.ids.tolist() == [7, 1, 4_000_000_007]
    assert loaded.classes.names.tolist() == ["cat", "dog", "Żubr"]
    assert loaded.tensors.keys() == checkpoint.tensors.keys()
    assert all(torch.equal(tensor, checkpoint.tensors[name]) for name, tensor in loaded.tensors.items())
    loaded.model()


@pytest.mark.parametrize("config", [TINY, replace(TINY, norm="group", width=8)], ids=["batch", "group"])
def test_tiny(config: object, path: Path) -> None:
    native.save(small_weights(config), path)
    loaded = load_checkpoint(str(path))
    assert loaded.config == config
    state = loaded.model().state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in small_weights(config).tensors.items())


def test_which_classes_are_things(path: Path) -> None:
    checkpoint = masked_weights()
    things = np.array([True, False, True])
    native.save(replace(checkpoint, classes=replace(checkpoint.classes, things=things)), path)
    loaded = load_checkpoint(str(path))
    assert loaded.architecture is checkpoint.architecture
    assert loaded.classes.things is not None
    assert loaded.classes.things.tolist() == [True, False, True]
    native.save(checkpoint, path)
    assert load_checkpoint(str(path)).classes.things is None
    for wrong in ([True, False], [1, 0, 1]):
        with pytest.raises(ValueError, match="things"):
            Classes.of([1, 2, 3], ["a", "b", "c"], wrong)


def test_counters_stay_integers(path: Path) -> None:
    """Larger than float16 or float32 could represent, beside tensors of half precision."""
    config = replace(CONFIG, norm="batch")
    tensors = {name: torch.zeros_like(value) for name, value in ARCHITECTURE.build(config).state_dict().items()}
    tensors = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
    counter = "backbone.body.bn1.num_batches_tracked"
    tensors[counter] = torch.tensor(2**24 + 1)
    native.save(replace(small_weights(), config=config, tensors=tensors), path)
    state = load_checkpoint(str(path)).model().state_dict()
    assert state[counter].dtype == torch.int64
    assert state[counter].item() == 2**24 + 1
    assert {value.dtype for name, value in state.items() if "tracked" not in name} == {torch.float32}


def test_a_run_folder_means_its_best(tmp_path: Path, saved: tuple[Checkpoint, bytes]) -> None:
    (tmp_path / "best.safetensors").write_bytes(saved[1])
    assert load_checkpoint(str(tmp_path)).config == saved[0].config


def test_any_flipped_bit_is_noticed(path: Path, saved: tuple[Checkpoint, bytes]) -> None:
    """In the tensors, where safetensors itself does not notice it, and in the header's class names."""
    data = saved[1]
    start = 8 + int.from_bytes(data[:8], "little")
    for place in (start, start + 1_234_567, len(data) - 1, data.index(b"cat")):
        flipped = bytearray(data)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        load_file(path)
        with pytest.raises(WeightsError, match="damaged"):
            load_checkpoint(str(path))


def test_incomplete_files(path: Path, saved: tuple[Checkpoint, bytes]) -> None:
    for length in (len(saved[1]) // 2, 100, 0):
        path.write_bytes(saved[1][:length])
        with pytest.raises(WeightsError, match="not a complete safetensors file"):
            load_checkpoint(str(path))


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({}, "not written by detr"),
        ({"format": "detrcli/9"}, "detrcli/9"),
        ({"format": FORMAT, "variant": "dino-9"}, "dino-9"),
        ({"format": FORMAT, "variant": "detr", "config": '{"novelty": 1}'}, "another version of detr"),
    ],
)
def test_files_of_other_programs_and_versions(header: dict[str, str], reason: str, path: Path) -> None:
    tensors = {"a": torch.zeros(1)}
    whole = {"classes": "{}", "preprocessing": "{}", **header} if "config" in header else header
    save_file(tensors, path, {**whole, CHECKSUM: checksum(whole, tensors)} if header else None)
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


def test_names_in_any_language(path: Path) -> None:
    names = np.array(["狗 🐕", 'quo"te\n', "\u202eright"])
    native.save(replace(small_weights(), classes=Classes(ids=np.array([0, 1, 2]), names=names)), path)
    assert load_checkpoint(str(path)).classes.names.tolist() == names.tolist()


@pytest.mark.skipif(os.name == "nt", reason="permissions")
def test_other_users_may_read_it(path: Path) -> None:
    before = os.umask(0o022)
    try:
        native.save(small_weights(), path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644


def test_equal_checkpoints_are_equal_files(tmp_path: Path) -> None:
    for name in "abc":
        native.save(small_weights(), tmp_path / name)
    assert len({(tmp_path / name).read_bytes() for name in "abc"}) == 1
