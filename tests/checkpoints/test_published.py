"""Checkpoints of the published training script: what is read, and damaged or malicious files.

Each of these is a WeightsError, before a model is built from it.
"""

import argparse
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import CONFIG, masked_weights, published_names, small_weights
from torch import Tensor

from detrcli.architectures.adapters.library import check_numbers
from detrcli.architectures.detr import join_projections
from detrcli.checkpoints.checkpoint import classes_by_index
from detrcli.checkpoints.coco import NAMES, PANOPTIC_NAMES
from detrcli.checkpoints.load import load_checkpoint
from detrcli.errors import UsageError, WeightsError

ARGS: dict[str, Any] = {
    "lr": 1e-4, "backbone": "resnet50", "dilation": False, "position_embedding": "sine", "enc_layers": 1,
    "dec_layers": 2, "dim_feedforward": 64, "hidden_dim": 32, "dropout": 0.1, "nheads": 4, "num_queries": 9,
    "pre_norm": False, "masks": False, "device": "cuda", "resume": "", "coco_path": None, "distributed": True,
}  # fmt: skip
HEAD = "class_embed.weight"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return published_names()


@pytest.fixture(scope="module")
def part(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Everything that a config is inferred from: the transformer, and the names in the backbone."""
    return {
        name: tensor[:1, :1].clone() if "backbone" in name and tensor.dim() > 1 else tensor
        for name, tensor in state.items()
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "w.pth"


def save(path: Path, checkpoint: object) -> str:
    torch.save(checkpoint, path)
    return str(path)


def refused(path: Path, content: object, reason: str) -> None:
    with pytest.raises(WeightsError, match=reason) as error:
        load_checkpoint(save(path, content)).model()
    assert str(error.value).startswith(f"{path}: ")
    assert len(str(error.value).splitlines()) <= 3


@pytest.mark.parametrize("form", ["bare", "model", "distributed"])
def test_forms_of_a_state_dict(path: Path, state: dict[str, Tensor], form: str) -> None:
    checkpoint: dict[str, Any] = {
        "bare": state,
        "model": {"model": state},
        "distributed": {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
    }[form]
    loaded = load_checkpoint(save(path, checkpoint))
    # Names and shapes do not determine the number of heads.
    assert replace(loaded.config, heads=4) == CONFIG
    torch.testing.assert_close(loaded.tensors, small_weights().tensors, rtol=0, atol=0)
    assert loaded.classes.names.tolist() == ["class 0", "class 1", "class 2"]


def test_a_checkpoint_of_the_training_script(path: Path, state: dict[str, Tensor]) -> None:
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
    loaded = load_checkpoint(save(path, checkpoint))
    assert loaded.config == replace(CONFIG, dilated=True, dropout=0.25)
    loaded.model()


def test_tensors_determine_normalization_position_and_layers(path: Path) -> None:
    config = replace(CONFIG, pre_norm=True, position="learned", encoder_layers=2, decoder_layers=3)
    assert replace(load_checkpoint(save(path, published_names(config))).config, heads=4) == config


def test_what_determines_dc5(tmp_path: Path, part: dict[str, Tensor]) -> None:
    """The named model, else the args, else the file's name."""
    plain, named = save(tmp_path / "w.pth", part), save(tmp_path / "my-DC5.pth", part)
    both = save(tmp_path / "dc5-no.pth", {"model": part, "args": argparse.Namespace(**ARGS)})
    assert not load_checkpoint(plain).config.dilated
    assert load_checkpoint(plain, model="detr-r50-dc5").config.dilated
    assert load_checkpoint(named).config.dilated
    assert not load_checkpoint(named, model="detr-r50").config.dilated
    assert load_checkpoint(both).config == CONFIG
    assert load_checkpoint(both, model="detr-r50-dc5").config.dilated


@pytest.mark.parametrize("before", ["", "module."])
def test_a_mask_head_is_recognized(path: Path, before: str) -> None:
    """Its tensors determine the number of heads."""
    state = {before + name: tensor for name, tensor in published_names(masks=True).items()}
    loaded = load_checkpoint(save(path, {"model": state}))
    expected = masked_weights()
    assert loaded.architecture is expected.architecture
    assert loaded.config == expected.config
    torch.testing.assert_close(loaded.tensors, expected.tensors, rtol=0, atol=0)
    with pytest.raises(UsageError, match=r"not a detr-r50: it is a detr-masks \(resnet50, masks\)"):
        load_checkpoint(str(path), model="detr-r50")


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


def test_half_precision_files_become_float32(path: Path, state: dict[str, Tensor]) -> None:
    model = load_checkpoint(save(path, {name: tensor.half() for name, tensor in state.items()})).model()
    assert {p.dtype for p in model.parameters()} == {torch.float32}


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"echo was here > {self.marker}",)


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, path: Path, new_format: bool) -> None:
    marker = tmp_path / "marker"
    torch.save({"model": {}, "x": Evil(marker)}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(WeightsError, match=r"refused .*(posix|nt)\.system"):
        load_checkpoint(str(path))
    path.write_bytes(pickle.dumps(Evil(marker), protocol=2))
    with pytest.raises(WeightsError):
        load_checkpoint(str(path))
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not weights at all",
        *(b"\x80\x02.", b"\x80\x02]q\x00.", pickle.dumps({"a": 1}), b"\x80\x02K", b"PK\x03\x04" + bytes(99)),
    ],
)
def test_short_files(path: Path, content: bytes) -> None:
    """Torch's reader raises all kinds of errors, as an IndexError for the shortest."""
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"w\.pth: "):
        load_checkpoint(str(path))


def test_damaged_files(path: Path) -> None:
    """A few hundred small files of both formats, each with some random bytes, and half of a file."""
    rng = np.random.default_rng(0)
    content = {"model": {HEAD: torch.zeros(4, 8), "class_embed.bias": torch.ones(4)}, "args": argparse.Namespace(a=1)}
    for zipped in (True, False):
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        whole = path.read_bytes()
        files = [whole[: len(whole) // 2]]
        for _ in range(150):
            changed = bytearray(whole)
            for place in rng.integers(0, len(whole), rng.integers(1, 6)):
                changed[place] = rng.integers(256)
            files.append(bytes(changed))
        for file in files:
            path.write_bytes(file)
            with pytest.raises(WeightsError):
                load_checkpoint(str(path))


def test_permissions_are_not_damage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(torch, "load", denied)
    with pytest.raises(PermissionError):
        load_checkpoint(save(path, {}))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "contains a list"),
        ({"model": {"conv.weight": torch.zeros(2, 2)}}, "not the weights of a DETR"),
        ({"epoch": 3}, "not the weights of a DETR"),
        ({"model": {"detr.transformer.encoder.layers.0.self_attn.in_proj_weight": torch.zeros(1)}}, "mask head"),
        ({"args": argparse.Namespace(**ARGS, output_dir=Path("a"))}, "pathlib"),
    ],
)
def test_other_content(content: object, reason: str, path: Path) -> None:
    refused(path, content, reason)


def test_tensors_that_do_not_fit(path: Path, state: dict[str, Tensor]) -> None:
    tensors = dict(state)
    del tensors["transformer.decoder.norm.bias"]
    tensors["extra.weight"] = torch.zeros(1)
    tensors["bbox_embed.layers.1.bias"] = torch.zeros(5)
    shape = "1 of another shape: box_head.layers.1.bias is 5 instead of 32"
    refused(path, tensors, f"1 missing: decoder.norm.bias; 1 left over: extra.weight; {shape}")


@pytest.mark.filterwarnings("ignore")  # quantized tensors are deprecated, sparse ones experimental
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.sum(), "not the weights of a DETR"),
        (lambda t: t.to_sparse(), f"{HEAD} is sparse"),
        (lambda t: t.to_sparse_csr(), f"{HEAD} is sparse"),
        (lambda t: t.to("meta"), f"{HEAD} is on the device meta"),
        (lambda t: t.to(torch.float8_e4m3fn), f"{HEAD} is of float8_e4m3fn"),
        (lambda t: t.to(torch.complex64), f"{HEAD} is of complex64"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), f"{HEAD} is of qint8"),
        (lambda t: t[:1].expand(10**9, -1), f"{HEAD} has 32,000,000,000 numbers"),
        (lambda t: t[:1].clone().expand(4, -1), f"{HEAD} has 128 numbers"),
    ],
    ids=["scalar", "sparse", "sparse rows", "meta", "8 bits", "complex", "quantized", "a billion rows", "few rows"],
)
def test_tensors(change: Callable[[Tensor], Tensor], reason: str, path: Path, part: dict[str, Tensor]) -> None:
    refused(path, {**part, HEAD: change(part[HEAD])}, reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: dict(enumerate(state.values())), "the name 0,"),
        (lambda state: {**state, None: torch.zeros(1)}, "the name None"),
        (lambda state: {name.encode(): value for name, value in state.items()}, "the name b'"),
        (lambda state: {**state, "transformer.encoder.layers.3000000.x": torch.zeros(1)}, "encoder_layers = 3000001"),
        (lambda state: {**state, f"transformer.decoder.layers.{'9' * 5000}.x": torch.zeros(1)}, "another name"),
        (lambda state: {**state, "query_embed.weight": torch.zeros(9)}, "a tensor has another name or shape"),
    ],
    ids=["numbers", "none", "bytes", "3000000 layers", "layers of 5000 digits", "queries in a row"],
)  # fmt: skip
def test_names(change: Any, reason: str, path: Path, part: dict[str, Tensor]) -> None:
    refused(path, change(part), reason)


@pytest.mark.parametrize(
    ("name", "value"),
    [("dropout", value) for value in (-1, 2, 1.0, float("inf"), float("nan"), "x", None, True)]
    + [("nheads", value) for value in (0, -4, "4", 4.0, None, 10**30, [4], True)],
)
def test_arguments(name: str, value: object, path: Path, part: dict[str, Tensor]) -> None:
    refused(path, {"model": part, "args": argparse.Namespace(**{**ARGS, name: value})}, "dropout = |heads = ")


def test_projections_of_different_shapes_stay_separate() -> None:
    names = [f"a.{part}_proj.weight" for part in "qkv"]
    fitting = dict.fromkeys(names, torch.zeros(4, 3))
    assert join_projections(fitting)["a.in_proj_weight"].shape == (12, 3)
    for odd in (torch.zeros(4, 5), torch.zeros(()), torch.zeros(4)):
        assert join_projections({**fitting, names[1]: odd}).keys() == set(names)


@pytest.mark.parametrize(
    "facts",
    [
        {"decoder_layers": 10**6},
        {"decoder_layers": 1001},
        {"backbone_config": {"depths": [3, 10**9]}},
        {"hidden_size": 100_001},
        {"sizes": [[10**30]]},
    ],
)
def test_large_numbers_in_the_config_of_transformers(facts: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="at most"):
        check_numbers(facts)
    check_numbers({"id2label": {"0": 10**9}, "layers": 1000, "size": [100_000], "scale": 1e30, "flag": True})


@pytest.mark.parametrize(
    "text", ["[" * 100_000 + "]" * 100_000, '{"a": ' * 5000, "[1]", "", '{"model_type": ["detr"]}', "{}"]
)
def test_invalid_configs_of_transformers(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=rf"^{tmp_path}: .*config\.json"):
        load_checkpoint(str(tmp_path))
