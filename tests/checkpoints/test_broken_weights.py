"""Weights that are damaged or malicious. Each is a WeightsError, before a model is built from it."""

import argparse
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small import CONFIG, TINY, published_names, small_weights
from torch import Tensor

from detrcli.architectures.adapters.library import check_numbers
from detrcli.architectures.detr_names import join_projections
from detrcli.checkpoints.load import load_checkpoint
from detrcli.config import Preprocessing
from detrcli.errors import UsageError, WeightsError
from detrcli.inference.detector import Detector
from detrcli.resize import MAX_INPUT_PIXELS, ExactSize, ShortestEdge

ARGS = {"backbone": "resnet50", "dilation": False, "nheads": 4}
HEAD = "class_embed.weight"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """What a config is inferred from: the transformer, and the names in the backbone that tell its depth."""
    return {
        name: tensor[:1, :1].clone() if "backbone" in name and tensor.dim() > 1 else tensor
        for name, tensor in published_names(CONFIG).items()
    }


def refused(path: Path, content: object, reason: str) -> None:
    torch.save(content, path)
    with pytest.raises(WeightsError, match=reason) as error:
        load_checkpoint(str(path)).model()
    assert str(error.value).startswith(f"{path}: ")
    assert len(str(error.value).splitlines()) <= 3


def test_the_state_itself_is_read(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save({"model": state, "args": argparse.Namespace(**ARGS)}, tmp_path / "w.pth")
    assert load_checkpoint(str(tmp_path / "w.pth")).config == CONFIG


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
def test_tensors(change: Callable[[Tensor], Tensor], reason: str, tmp_path: Path, state: dict[str, Tensor]) -> None:
    refused(tmp_path / "w.pth", {**state, HEAD: change(state[HEAD])}, reason)


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
def test_names(change: Any, reason: str, tmp_path: Path, state: dict[str, Tensor]) -> None:
    refused(tmp_path / "w.pth", change(state), reason)


@pytest.mark.parametrize(
    ("name", "value"),
    [("dropout", value) for value in (-1, 2, 1.0, float("inf"), float("nan"), "x", None, True)]
    + [("nheads", value) for value in (0, -4, "4", 4.0, None, 10**30, [4], True)],
)
def test_arguments(name: str, value: object, tmp_path: Path, state: dict[str, Tensor]) -> None:
    args = argparse.Namespace(**{**ARGS, name: value})
    refused(tmp_path / "w.pth", {"model": state, "args": args}, "dropout = |heads = ")


def test_short_pickles(tmp_path: Path) -> None:
    """Whatever torch's reader raises, as an IndexError for the shortest."""
    path = tmp_path / "w.pth"
    for data in (b"\x80\x02.", b"\x80\x02]q\x00.", pickle.dumps({"a": 1}), b"\x80\x02K", b"PK\x03\x04" + bytes(99)):
        path.write_bytes(data)
        with pytest.raises(WeightsError, match=r"w\.pth: "):
            load_checkpoint(str(path))


def test_changed_bytes_of_a_pickle(tmp_path: Path) -> None:
    """A few hundred small files of both formats, each with some random bytes."""
    rng = np.random.default_rng(0)
    content = {"model": {HEAD: torch.zeros(4, 8), "class_embed.bias": torch.ones(4)}, "args": argparse.Namespace(a=1)}
    for zipped in (True, False):
        torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        whole = (tmp_path / "w.pth").read_bytes()
        for _ in range(150):
            changed = bytearray(whole)
            for place in rng.integers(0, len(whole), rng.integers(1, 6)):
                changed[place] = rng.integers(256)
            (tmp_path / "w.pth").write_bytes(changed)
            with pytest.raises(WeightsError):
                load_checkpoint(str(tmp_path / "w.pth"))


def test_projections_of_different_shapes_stay_separate() -> None:
    names = [f"a.{part}_proj.weight" for part in "qkv"]
    fitting = dict.fromkeys(names, torch.zeros(4, 3))
    assert join_projections(fitting)["a.in_proj_weight"].shape == (12, 3)
    for odd in (torch.zeros(4, 5), torch.zeros(()), torch.zeros(4)):
        assert join_projections({**fitting, names[1]: odd}).keys() == set(names)


def test_large_inputs_are_refused_before_they_are_allocated() -> None:
    for rule in (ShortestEdge(30_000, 32_000), ShortestEdge(800, 1333, divisor=30_000), ExactSize(32_768, 32_768)):
        with pytest.raises(UsageError, match=r"33,554,432"):
            Preprocessing(rule)
    largest = Preprocessing(ShortestEdge(4096, 8192))
    assert largest.resize.place(5, 10).height * largest.resize.place(5, 10).width == MAX_INPUT_PIXELS
    with pytest.raises(UsageError, match="33,554,432"):
        Preprocessing(ShortestEdge(5000, 32_768)).resize.place(10, 60)


def test_an_image_that_would_be_too_large_ends_the_command() -> None:
    """It is not skipped: other images of its shape would be too large as well."""
    detector = Detector(small_weights(TINY).resized(5000, 32_768), "cpu")
    with pytest.raises(UsageError, match="33,554,432"):
        detector.predict(Image.new("RGB", (60, 10)))


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


def test_numbers_of_usual_configs() -> None:
    check_numbers({"id2label": {"0": 10**9}, "layers": 1000, "size": [100_000], "scale": 1e30, "flag": True})


NESTED = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("text", [NESTED, '{"a": ' * 5000, "[1]", "", '{"model_type": ["detr"]}', "{}"])
def test_invalid_configs_of_transformers(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=rf"^{tmp_path}: .*config\.json"):
        load_checkpoint(str(tmp_path))
