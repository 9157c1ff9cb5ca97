"""The header of a checkpoint, and headers with invalid content."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from letterbox import Letterbox
from members.stranger import Square
from small import CONFIG, TINY, masked_weights, small_weights

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.formats.header import CHECKSUM, checksum, from_header, header_of
from detrcli.config import LossConfig, ModelConfig, Preprocessing
from detrcli.errors import WeightsError
from detrcli.resize import ExactSize, PaddedSquare, Resize, ShortestEdge


def round_trip(checkpoint: Checkpoint, **parts: Any) -> Checkpoint:
    """Through a header with other parts: a string as it is, other values as JSON, None without the part."""
    header = header_of(checkpoint)
    header |= {part: value if isinstance(value, str) else json.dumps(value) for part, value in parts.items()}
    header = {part: value for part, value in header.items() if parts.get(part, value) is not None}
    return from_header(header, checkpoint.tensors, "w.pth")


@pytest.mark.parametrize(
    "rule",
    [
        *(ShortestEdge(600, 999), ShortestEdge(600, 999, divisor=32), ExactSize(480, 640)),
        *(Letterbox(320, 416), PaddedSquare(960, 960), Square(12)),  # the last is a rule of another package
    ],
    ids=str,
)
def test_preprocessing(rule: Resize) -> None:
    p = Preprocessing(
        rule, "bicubic", antialias=False, blur=True, rescale_first=True, mean=(0.5, 0.4, 0.3), std=(1.0, 2.0, 3.0)
    )
    again = round_trip(replace(small_weights(), preprocessing=p)).preprocessing
    assert again == p
    assert again.resize.place(200, 300) == rule.place(200, 300)


@pytest.mark.parametrize("config", [CONFIG, TINY, replace(CONFIG, norm="group", position="learned")])
def test_config_and_loss(config: ModelConfig) -> None:
    loss = LossConfig(matching="last", class_cost="log", no_object=0.3, cost={"class": 2.0, "l1": 0.0, "giou": 1.0})
    again = round_trip(replace(small_weights(config), loss=loss))
    assert (again.config, again.loss) == (config, loss)
    assert again.make_loss().matcher.weights == {"class": 2.0, "l1": 0.0, "giou": 1.0}


def test_the_header_names_the_architecture() -> None:
    """Two architectures with configs of the same type."""
    plain, masked = small_weights(CONFIG), masked_weights()
    assert header_of(plain)["config"] == header_of(masked)["config"]
    for checkpoint, name in ((plain, "detr"), (masked, "detr-masks")):
        assert header_of(checkpoint)["variant"] == name
        assert round_trip(checkpoint).architecture is checkpoint.architecture


def test_the_checksum_covers_names_dtypes_shapes_and_bytes() -> None:
    """Tensors with the same bytes differ by everything else."""
    tensors = {
        (name, dtype, shape): torch.zeros(6, dtype=dtype).reshape(shape)
        for name in "ab"
        for dtype in (torch.float32, torch.int32)
        for shape in ((6,), (2, 3), (3, 2), (6, 1))
    }
    sums = {checksum({}, {key[0]: tensor}) for key, tensor in tensors.items()}
    assert len(sums) == len(tensors)
    assert len({checksum(header, {}) for header in ({}, {"a": "b"}, {"a": "c"}, {"b": "b"})}) == 4
    assert checksum({"a": "b", CHECKSUM: "c"}, {}) == checksum({"a": "b"}, {})
    assert checksum({}, {"a": torch.zeros(2)}) != checksum({}, {"a": torch.tensor([0.0, 1.0])})


def part(name: str, **changes: Any) -> dict[str, Any]:
    return {name: {**json.loads(header_of(small_weights(TINY))[name]), **changes}}


def resize(**facts: Any) -> dict[str, Any]:
    return part("preprocessing", resize=facts)


NESTED = "[" * 100_000 + "]" * 100_000
INVALID: dict[str, tuple[dict[str, Any], str]] = {
    **{f"{name} nested": ({name: NESTED}, "") for name in ("config", "classes", "loss", "preprocessing")},
    **{f"{name} incomplete": ({name: "{"}, "") for name in ("config", "classes")},
    **{f"{name} a number": ({name: 7}, "") for name in ("config", "preprocessing")},
    "no format": ({"format": None}, "format None"),
    "another format": ({"format": "detrcli/9"}, "detrcli/9"),
    "an unknown architecture": ({"variant": "dino-9"}, "dino-9"),
    "no preprocessing": ({"preprocessing": None}, ""),
    "a list of classes": ({"classes": []}, ""),
    "an unknown rule": (resize(kind="spiral"), "spiral"),
    "an unknown field of a rule": (resize(kind="letterbox", depth=3), ""),
    "a negative size": (resize(kind="shortest-edge", size=-4), "size = -4"),
    "huge images": (resize(kind="shortest-edge", size=30_000, max_size=32_000), "30,000 x 30,000 pixels"),
    "a mean of NaN": (part("preprocessing", mean=[float("nan")] * 3), "mean = nan"),
    "a mean out of range": (part("preprocessing", mean=[1e300] * 3), "pixel"),
    "a deviation of NaN": (part("preprocessing", std=[1, 1, float("nan")]), "std = nan"),
    "a negative deviation": (part("preprocessing", std=[-1, 1, 1]), "pixel"),
    "a deviation of nearly 0": (part("preprocessing", std=[1e-40] * 3), "pixel"),
    "a million layers": (part("config", encoder_layers=10**6), "encoder_layers = 1000000"),
    "layers in a string": (part("config", encoder_layers="6"), "encoder_layers = '6'"),
    "an unknown matching": (part("loss", matching="never"), "matching = 'never'"),
    "a weight in a string": (part("loss", cost={"class": "much"}), "cost.class = 'much'"),
    "classes without names": ({"classes": {"ids": [1]}}, "names"),
    "too few ids": (part("classes", ids=[1, 2]), "3 class names"),
    "ids in strings": (part("classes", ids=["a", "b", "c"]), ""),
    "ids beyond 64 bits": (part("classes", ids=[2**70, 1, 2]), ""),
    "too few classes": (part("classes", ids=[1], names=["a"]), "1 class names for a model with 3"),
    "names in a string": (part("classes", names="abc"), "class names"),
    "numbers as names": (part("classes", names=[1, 2, 3]), "class names"),
    "names of two million": (part("classes", names=["x" * 2_000_000] * 3), "2,000,000 characters"),
}  # fmt: skip


@pytest.mark.parametrize("case", INVALID)
def test_invalid_headers(case: str) -> None:
    """The error names the file and the invalid value."""
    parts, value = INVALID[case]
    with pytest.raises(WeightsError, match=rf"^w\.pth: (.|\n)*{value}") as error:
        round_trip(small_weights(TINY), **parts)
    assert len(str(error.value)) < 700
