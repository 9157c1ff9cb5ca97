"""Our own file: what goes in comes out, and not with a flipped bit."""

import json
import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small import CONFIG, MASKED, TINY, small_weights

from detrcli.architectures.detr import build
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.formats import native
from detrcli.checkpoints.formats.header import FORMAT, checksum
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


def test_round_trip(tmp_path: Path, saved: tuple[Checkpoint, bytes]) -> None:
    weights, data = saved
    (tmp_path / "w.safetensors").write_bytes(data)
    loaded = load_checkpoint(str(tmp_path / "w.safetensors"))
    assert loaded.config == weights.config
    assert loaded.preprocessing == weights.preprocessing
    assert loaded.loss == weights.loss
    assert loaded.classes.ids.tolist() == [7, 1, 4_000_000_007]
    assert loaded.classes.names.tolist() == ["cat", "dog", "Żubr"]
    assert loaded.tensors.keys() == weights.tensors.keys()
    assert all(torch.equal(tensor, weights.tensors[name]) for name, tensor in loaded.tensors.items())
    loaded.model()


def test_every_member_goes_in_and_comes_out(tmp_path: Path) -> None:
    for config in (CONFIG, TINY, replace(TINY, norm="group", width=8)):
        native.save(small_weights(config), tmp_path / "w.safetensors")
        loaded = load_checkpoint(str(tmp_path / "w.safetensors"))
        assert loaded.config == config
        state = loaded.model().state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in small_weights(config).tensors.items())


def test_which_classes_are_things_goes_along(tmp_path: Path) -> None:
    checkpoint = small_weights(MASKED)
    things = replace(checkpoint, classes=replace(checkpoint.classes, things=np.array([True, False, True])))
    native.save(things, tmp_path / "w.safetensors")
    loaded = load_checkpoint(str(tmp_path / "w.safetensors"))
    assert loaded.config == MASKED
    assert loaded.classes.things is not None
    assert loaded.classes.things.tolist() == [True, False, True]
    native.save(checkpoint, tmp_path / "v.safetensors")
    assert load_checkpoint(str(tmp_path / "v.safetensors")).classes.things is None
    for wrong in ([True, False], [1, 0, 1]):
        with pytest.raises(ValueError, match="which classes are things"):
            Classes.of([1, 2, 3], ["a", "b", "c"], wrong)


def test_what_batch_norm_counts_stays_a_whole_number(tmp_path: Path) -> None:
    """More than float16 or float32 could hold, saved beside tensors of half precision."""
    config = replace(CONFIG, norm="batch")
    tensors = {name: torch.zeros_like(value) for name, value in build(config).state_dict().items()}
    tensors = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
    counter = "backbone.body.bn1.num_batches_tracked"
    tensors[counter] = torch.tensor(2**24 + 1)
    native.save(replace(small_weights(), config=config, tensors=tensors), tmp_path / "w.safetensors")
    state = load_checkpoint(str(tmp_path / "w.safetensors")).model().state_dict()
    assert state[counter].dtype == torch.int64
    assert state[counter].item() == 2**24 + 1
    assert {value.dtype for name, value in state.items() if "tracked" not in name} == {torch.float32}


def test_a_run_folder_means_its_best(tmp_path: Path, saved: tuple[Checkpoint, bytes]) -> None:
    (tmp_path / "best.safetensors").write_bytes(saved[1])
    assert load_checkpoint(str(tmp_path)).config == saved[0].config


def test_any_flipped_bit_is_noticed(tmp_path: Path, saved: tuple[Checkpoint, bytes]) -> None:
    """In the tensors (which safetensors itself does not notice), and in the header's class names."""
    _, data = saved
    path = tmp_path / "w.safetensors"
    start = 8 + struct.unpack("<Q", data[:8])[0]
    for place in (start, start + 1_234_567, len(data) - 1, data.index(b"cat")):
        flipped = bytearray(data)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        load_file(path)
        with pytest.raises(WeightsError, match="damaged"):
            load_checkpoint(str(path))


def test_half_a_file(tmp_path: Path, saved: tuple[Checkpoint, bytes]) -> None:
    for length in (len(saved[1]) // 2, 100, 0):
        (tmp_path / "w.safetensors").write_bytes(saved[1][:length])
        with pytest.raises(WeightsError, match="no whole safetensors file"):
            load_checkpoint(str(tmp_path / "w.safetensors"))


def test_foreign_and_future_files(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="not one of detr's"):
        load_checkpoint(str(path))
    save_file({"a": torch.zeros(1)}, path, {"format": "detrcli/9"})
    with pytest.raises(WeightsError, match="another version of detr"):
        load_checkpoint(str(path))
    header = {
        "format": FORMAT,
        "variant": "detr",
        "config": json.dumps({"novelty": 1}),
        "classes": "{}",
        "preprocessing": "{}",
    }
    tensors = {"a": torch.zeros(1)}
    save_file(tensors, path, {**header, "checksum": checksum(header, tensors)})
    with pytest.raises(WeightsError, match="another version of detr"):
        load_checkpoint(str(path))


def test_a_model_of_another_kind(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors", {"format": FORMAT, "variant": "dino-9"})
    with pytest.raises(WeightsError, match="of a kind that is not known here .*dino-9"):
        load_checkpoint(str(tmp_path / "w.safetensors"))


def test_names_of_any_language_survive(tmp_path: Path) -> None:
    names = np.array(["狗 🐕", 'quo"te\n', "\u202eright"])
    checkpoint = replace(small_weights(), classes=Classes(ids=np.array([0, 1, 2]), names=names))
    native.save(checkpoint, tmp_path / "w.safetensors")
    assert load_checkpoint(str(tmp_path / "w.safetensors")).classes.names.tolist() == names.tolist()


@pytest.mark.skipif(os.name == "nt", reason="permissions")
def test_others_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        native.save(small_weights(), tmp_path / "w.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "w.safetensors").stat().st_mode & 0o777 == 0o644


def test_equal_weights_are_equal_files(tmp_path: Path) -> None:
    for name in "abc":
        native.save(small_weights(), tmp_path / name)
    assert len({(tmp_path / name).read_bytes() for name in "abc"}) == 1
