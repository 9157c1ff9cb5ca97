"""Weights of others that are broken, or made to do harm: each is a WeightsError, before a model is built of it."""

import argparse
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from small import CONFIG, TINY, published_names, small_weights
from torch import Tensor

from detrcli.architectures.adapters.config import check_numbers
from detrcli.architectures.detr_names import join_projections
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.formats.header import CHECKSUM, checksum, header_of
from detrcli.checkpoints.load import load_checkpoint
from detrcli.config import Preprocessing
from detrcli.errors import UsageError, WeightsError
from detrcli.inference.detector import Detector
from detrcli.resize import MOST_PIXELS, Letterbox, ShortestEdge
from detrcli.structures import Classes

ARGS = {"backbone": "resnet50", "dilation": False, "nheads": 4}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """What a config is inferred from: the transformer, and of the backbone the names that tell its depth."""
    return {
        name: tensor[:1, :1].clone() if "backbone" in name and tensor.dim() > 1 else tensor
        for name, tensor in published_names(CONFIG).items()
    }


def wrong(path: Path, content: object, said: str) -> None:
    torch.save(content, path)
    with pytest.raises(WeightsError, match=said) as error:
        load_checkpoint(str(path)).model()
    assert str(error.value).startswith(f"{path}: ")
    assert len(str(error.value).splitlines()) <= 3


def test_the_state_itself_is_read(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save({"model": state, "args": argparse.Namespace(**ARGS)}, tmp_path / "w.pth")
    assert load_checkpoint(str(tmp_path / "w.pth")).config == CONFIG


HEAD = "class_embed.weight"
ODD: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "a number": (lambda t: t.sum(), "not the weights of a DETR"),
    "sparse": (lambda t: t.to_sparse(), "class_embed.weight is sparse or nested"),
    "sparse rows": (lambda t: t.to_sparse_csr(), "class_embed.weight is sparse or nested"),
    "without numbers": (lambda t: t.to("meta"), "class_embed.weight is on the device meta"),
    "8 bits": (lambda t: t.to(torch.float8_e4m3fn), "class_embed.weight is of float8_e4m3fn"),
    "complex": (lambda t: t.to(torch.complex64), "class_embed.weight is of complex64"),
    "a billion rows of one": (lambda t: t[:1].expand(10**9, -1), "has 32,000,000,000 numbers, and the file holds"),
    "few rows of one": (lambda t: t[:1].clone().expand(4, -1), "has 128 numbers, and the file holds fewer"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:Validating sparse")
@pytest.mark.parametrize("kind", ODD)
def test_odd_tensors(kind: str, tmp_path: Path, state: dict[str, Tensor]) -> None:
    change, said = ODD[kind]
    wrong(tmp_path / "w.pth", {**state, HEAD: change(state[HEAD])}, said)


@pytest.mark.filterwarnings("ignore")  # torch's quantised tensors are deprecated
def test_quantised_tensors(tmp_path: Path, state: dict[str, Tensor]) -> None:
    quantised = torch.quantize_per_tensor(state[HEAD], 0.1, 0, torch.qint8)
    wrong(tmp_path / "w.pth", {**state, HEAD: quantised}, "class_embed.weight is of qint8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: dict(enumerate(state.values())), "a tensor has the name 0, which is no word"),
        (lambda state: {**state, None: torch.zeros(1)}, "a tensor has the name None"),
        (lambda state: {name.encode(): value for name, value in state.items()}, "a tensor has the name b'"),
        (lambda state: {**state, "transformer.encoder.layers.3000000.x": torch.zeros(1)}, "encoder_layers = 3000001"),
        (lambda state: {**state, f"transformer.decoder.layers.{'9' * 5000}.x": torch.zeros(1)}, "another name"),
        (lambda state: {**state, "query_embed.weight": torch.zeros(9)}, "a tensor has another name or shape"),
    ],
    ids=["numbers", "none", "bytes", "3000000 layers", "layers of 5000 digits", "queries in a row"],
)  # fmt: skip
def test_odd_names(change: Any, said: str, tmp_path: Path, state: dict[str, Tensor]) -> None:
    wrong(tmp_path / "w.pth", change(state), said)


@pytest.mark.parametrize(
    ("name", "value"),
    [("dropout", value) for value in (-1, 2, 1.0, float("inf"), float("nan"), "x", None, True)]
    + [("nheads", value) for value in (0, -4, "4", 4.0, None, 10**30, [4], True)],
)
def test_odd_args(name: str, value: object, tmp_path: Path, state: dict[str, Tensor]) -> None:
    args = argparse.Namespace(**{**ARGS, name: value})
    wrong(tmp_path / "w.pth", {"model": state, "args": args}, "dropout = |attention heads|heads = True")


def test_what_is_hardly_a_pickle(tmp_path: Path) -> None:
    """Whatever torch's reader raises: an IndexError of the shortest one."""
    path = tmp_path / "w.pth"
    for data in (b"\x80\x02.", b"\x80\x02]q\x00.", pickle.dumps({"a": 1}), b"\x80\x02K", b"PK\x03\x04" + bytes(99)):
        path.write_bytes(data)
        with pytest.raises(WeightsError, match=r"w\.pth: "):
            load_checkpoint(str(path))


def test_changed_bytes_of_a_pickle(tmp_path: Path) -> None:
    """A few hundred small files of both formats, some bytes of each changed."""
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


def test_projections_that_do_not_fit_each_other_stay_apart() -> None:
    names = [f"a.{part}_proj.weight" for part in "qkv"]
    fitting = dict.fromkeys(names, torch.zeros(4, 3))
    assert join_projections(fitting)["a.in_proj_weight"].shape == (12, 3)
    for odd in (torch.zeros(4, 5), torch.zeros(()), torch.zeros(4)):
        assert join_projections({**fitting, names[1]: odd}).keys() == set(names)


# Our own files


def own_file(path: Path, checkpoint: Checkpoint, **parts: Any) -> str:
    """With other parts in its header, and a checksum that fits them."""
    header = header_of(checkpoint)
    header |= {part: value if isinstance(value, str) else json.dumps(value) for part, value in parts.items()}
    header[CHECKSUM] = checksum(header, checkpoint.tensors)
    save_file(dict(checkpoint.tensors), path, header)
    return str(path)


def part(name: str, **changes: Any) -> dict[str, Any]:
    return {name: {**json.loads(header_of(small_weights(TINY))[name]), **changes}}


NESTED = "[" * 100_000 + "]" * 100_000
HUGE = {"kind": "shortest-edge", "size": 30_000, "max_size": 32_000}
HEADERS: dict[str, tuple[dict[str, Any], str]] = {
    **{f"{name} nested": ({name: NESTED}, "another version") for name in ("config", "classes", "loss")},
    "preprocessing nested": ({"preprocessing": NESTED}, "another version"),
    **{f"{name} without end": ({name: "{"}, "another version") for name in ("config", "classes")},
    "a million layers": (part("config", encoder_layers=10**6), "encoder_layers = 1000000"),
    "ids too few": (part("classes", ids=[1, 2]), "3 class names for ids of shape"),
    "ids that are words": (part("classes", ids=["a", "b", "c"]), "another version"),
    "ids beyond 64 bits": (part("classes", ids=[2**70, 1, 2]), "another version"),
    "names too few": (part("classes", ids=[1], names=["a"]), "1 classes have a name, and the model has 3"),
    "names that are a word": (part("classes", names="abc"), "the class names are no list of words"),
    "names that are numbers": (part("classes", names=[1, 2, 3]), "the class names are no list of words"),
    "names of two million": (part("classes", names=["x" * 2_000_000] * 3), "has 2,000,000 characters"),
    "a mean of NaN": (part("preprocessing", mean=[float("nan")] * 3), "mean = nan"),
    "a deviation of NaN": (part("preprocessing", std=[1, 1, float("nan")]), "std = nan"),
    "a deviation below 0": (part("preprocessing", std=[-1, 1, 1]), "no values of pixels"),
    "a deviation of nearly 0": (part("preprocessing", std=[1e-40] * 3), "no values of pixels"),
    "a mean beyond all": (part("preprocessing", mean=[1e300] * 3), "no values of pixels"),
    "grey beyond white": (part("preprocessing", resize=Letterbox(64, 64).facts() | {"fill": 999}), "from 0 to 255"),
    "huge pictures": (part("preprocessing", resize=HUGE), "30,000 x 30,000 pixels is more than"),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_a_checksum_fits(case: str, tmp_path: Path) -> None:
    parts, said = HEADERS[case]
    path = own_file(tmp_path / "w.safetensors", small_weights(TINY), **parts)
    with pytest.raises(WeightsError, match=rf"w\.safetensors: (.|\n)*{said}") as error:
        load_checkpoint(path)
    assert len(str(error.value)) < 700


def test_odd_tensors_of_our_own_file(tmp_path: Path) -> None:
    checkpoint = small_weights(TINY)
    for odd, said in (
        (torch.zeros(()), "of another shape"),
        (torch.zeros(4, 3).to(torch.float8_e4m3fn), "is of float8"),
    ):
        changed = replace(checkpoint, tensors={**checkpoint.tensors, "class_head.weight": odd})
        with pytest.raises(WeightsError, match=said):
            load_checkpoint(own_file(tmp_path / "w.safetensors", changed)).model()


def test_weights_name_each_of_their_classes() -> None:
    with pytest.raises(WeightsError, match="small: 2 classes have a name, and the model has 3"):
        replace(small_weights(TINY), classes=Classes.of([1, 2], ["a", "b"]))


# What would fill the memory


def test_inputs_beyond_all_measure_are_refused_before_they_are_made() -> None:
    for rule in (ShortestEdge(30_000, 32_000), ShortestEdge(800, 1333, divisor=30_000), Letterbox(32_768, 32_768)):
        with pytest.raises(UsageError, match=r"pixels is more than the 33,554,432 allowed.\nGive a smaller --size"):
            Preprocessing(rule)
    largest = Preprocessing(ShortestEdge(4096, 8192))
    assert largest.resize.place(5, 10).height * largest.resize.place(5, 10).width == MOST_PIXELS
    with pytest.raises(UsageError, match="--max-size"):
        Preprocessing(ShortestEdge(5000, 32_768)).resize.place(10, 60)


def test_a_picture_that_would_be_too_large_ends_the_command(tmp_path: Path) -> None:
    """And is no picture that is passed over: all of its kind would be."""
    detector = Detector(small_weights(TINY).resized(5000, 32_768), "cpu")
    with pytest.raises(UsageError, match="Give a smaller --size"):
        detector.predict(Image.new("RGB", (60, 10)))


@pytest.mark.parametrize(
    "facts",
    [
        {"decoder_layers": 10**6},
        {"backbone_config": {"depths": [3, 10**9]}},
        {"hidden_size": 10**8},
        {"sizes": [[10**30]]},
    ],
)
def test_numbers_of_another_librarys_config(facts: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="it is at most"):
        check_numbers(facts)
    check_numbers({"id2label": {"0": 10**9}, "layers": 1000, "size": [100_000], "scale": 1e30, "flag": True})


@pytest.mark.parametrize("text", [NESTED, '{"a": ' * 5000, "[1]", "", '{"model_type": ["detr"]}', "{}"])
def test_configs_of_hugging_face_that_are_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=r"config\.json") as error:
        load_checkpoint(str(tmp_path))
    assert str(error.value).startswith(f"{tmp_path}: ")
