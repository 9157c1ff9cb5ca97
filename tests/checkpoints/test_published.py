"""Checkpoints of the published training script, and malicious pickles."""

import argparse
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import CONFIG, masked_weights, published_names, small_weights
from torch import Tensor

from detrcli.checkpoints.checkpoint import classes_by_index
from detrcli.checkpoints.coco import NAMES, PANOPTIC_NAMES
from detrcli.checkpoints.load import load_checkpoint
from detrcli.errors import UsageError, WeightsError

ARGS: dict[str, Any] = {
    "lr": 1e-4, "backbone": "resnet50", "dilation": False, "position_embedding": "sine", "enc_layers": 1,
    "dec_layers": 2, "dim_feedforward": 64, "hidden_dim": 32, "dropout": 0.1, "nheads": 4, "num_queries": 9,
    "pre_norm": False, "masks": False, "device": "cuda", "resume": "", "coco_path": None, "distributed": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return published_names()


def save(path: Path, checkpoint: object) -> str:
    torch.save(checkpoint, path)
    return str(path)


@pytest.mark.parametrize("form", ["bare", "model", "distributed"])
def test_forms_of_a_state_dict(tmp_path: Path, state: dict[str, Tensor], form: str) -> None:
    checkpoint: dict[str, Any] = {
        "bare": state,
        "model": {"model": state},
        "distributed": {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
    }[form]
    loaded = load_checkpoint(save(tmp_path / "w.pth", checkpoint))
    # Names and shapes do not determine the number of heads.
    assert replace(loaded.config, heads=4) == CONFIG
    expected = small_weights().tensors
    assert loaded.tensors.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.tensors.items())
    assert loaded.classes.names.tolist() == ["class 0", "class 1", "class 2"]


def test_a_checkpoint_of_the_training_script(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """With optimizer, scheduler, epoch and args, which determine heads and dilation."""
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    checkpoint = {
        "model": state,
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 200).state_dict(),
        "epoch": 12,
        "args": argparse.Namespace(**{**ARGS, "dilation": True, "dropout": 0.25}),
    }
    loaded = load_checkpoint(save(tmp_path / "checkpoint.pth", checkpoint))
    assert loaded.config == replace(CONFIG, dilated=True, dropout=0.25)
    loaded.model()


def test_tensors_determine_normalization_position_and_layers(tmp_path: Path) -> None:
    config = replace(CONFIG, pre_norm=True, position="learned", encoder_layers=2, decoder_layers=3)
    path = save(tmp_path / "w.pth", published_names(config))
    assert replace(load_checkpoint(path).config, heads=4) == config


def test_what_determines_dc5(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """The named model, else the args, else the file's name."""
    plain, named = save(tmp_path / "w.pth", state), save(tmp_path / "my-DC5.pth", state)
    args = argparse.Namespace(**ARGS)
    both = save(tmp_path / "dc5-no.pth", {"model": state, "args": args})
    assert not load_checkpoint(plain).config.dilated
    assert load_checkpoint(plain, model="detr-r50-dc5").config.dilated
    assert load_checkpoint(named).config.dilated
    assert not load_checkpoint(named, model="detr-r50").config.dilated
    assert not load_checkpoint(both).config.dilated
    assert load_checkpoint(both, model="detr-r50-dc5").config.dilated


@pytest.mark.parametrize("before", ["", "module."])
def test_a_mask_head_is_recognized(tmp_path: Path, before: str) -> None:
    """Its tensors determine the number of heads."""
    state = {before + name: tensor for name, tensor in published_names(masks=True).items()}
    loaded = load_checkpoint(save(tmp_path / "w.pth", {"model": state}))
    expected = masked_weights()
    assert loaded.architecture is expected.architecture
    assert loaded.config == expected.config
    assert loaded.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(tensor, expected.tensors[name]) for name, tensor in loaded.tensors.items())
    with pytest.raises(UsageError, match=r"not a detr-r50: it is a detr-masks \(resnet50, masks\)"):
        load_checkpoint(str(tmp_path / "w.pth"), model="detr-r50")


def test_91_and_250_classes_are_those_of_coco() -> None:
    assert [i for i, name in enumerate(NAMES) if name == "N/A"] == [0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83]
    assert [NAMES[i] for i in (1, 17, 63, 75, 90)] == ["person", "cat", "couch", "remote", "toothbrush"]
    assert sum(name != "N/A" for name in PANOPTIC_NAMES) == 80 + 53
    expected = ["banner", "counter", "road", "sky-other-merged", "rug-merged"]
    assert [PANOPTIC_NAMES[i] for i in (92, 107, 149, 187, 200)] == expected
    coco, panoptic = classes_by_index(91), classes_by_index(250)
    assert coco.names.tolist() == panoptic.names[:91].tolist() == NAMES
    assert coco.things is None
    assert panoptic.things is not None
    assert panoptic.things.sum() == panoptic.things[:91].sum() == 91


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"echo was here > {self.marker}",)


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, new_format: bool) -> None:
    marker, path = tmp_path / "marker", tmp_path / "w.pth"
    torch.save({"model": {}, "x": Evil(marker)}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(WeightsError, match=r"refused .*(posix|nt)\.system"):
        load_checkpoint(str(path))
    assert not marker.exists()
    path.write_bytes(pickle.dumps(Evil(marker), protocol=2))
    with pytest.raises(WeightsError):
        load_checkpoint(str(path))
    assert not marker.exists()


def test_other_classes_in_the_args_are_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    args = argparse.Namespace(**ARGS, output_dir=tmp_path)
    path = save(tmp_path / "w.pth", {"model": state, "args": args})
    with pytest.raises(WeightsError, match="pathlib"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[: len(data) // 2], lambda _: b"", lambda _: b"not weights at all"],
    ids=["half", "empty", "text"],
)
def test_damaged_files(tmp_path: Path, state: dict[str, Tensor], damage: Any) -> None:
    path = Path(save(tmp_path / "w.pth", {"class_embed.bias": state["class_embed.bias"]}))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(WeightsError, match=r"w\.pth: (refused|this file cannot be read)"):
        load_checkpoint(str(path))


def test_permissions_are_not_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(torch, "load", denied)
    with pytest.raises(PermissionError):
        load_checkpoint(save(tmp_path / "w.pth", {}))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "contains a list"),
        ({"model": {"conv.weight": torch.zeros(2, 2)}}, "not the weights of a DETR"),
        ({"epoch": 3}, "not the weights of a DETR"),
        ({"model": {"detr.transformer.encoder.layers.0.self_attn.in_proj_weight": torch.zeros(1)}}, "mask head"),
    ],
)
def test_other_content(content: object, reason: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=reason):
        load_checkpoint(save(tmp_path / "w.pth", content))


def test_tensors_that_do_not_fit(tmp_path: Path, state: dict[str, Tensor]) -> None:
    tensors = dict(state)
    del tensors["transformer.decoder.norm.bias"]
    tensors["extra.weight"] = torch.zeros(1)
    tensors["bbox_embed.layers.1.bias"] = torch.zeros(5)
    with pytest.raises(WeightsError) as error:
        load_checkpoint(save(tmp_path / "w.pth", tensors)).model()
    assert "1 missing: decoder.norm.bias" in str(error.value)
    assert "1 left over: extra.weight" in str(error.value)
    assert "1 of another shape: box_head.layers.1.bias is 5 instead of 32" in str(error.value)


def test_half_precision_files_become_float32(tmp_path: Path, state: dict[str, Tensor]) -> None:
    half = {name: tensor.half() for name, tensor in state.items()}
    model = load_checkpoint(save(tmp_path / "w.pth", half)).model()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
