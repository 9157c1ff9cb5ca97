"""What stands beside the tensors: every way to resize pictures, the loss, and what earlier versions wrote."""

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from letterbox import Letterbox
from small import CONFIG, TINY, small_weights

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.formats.header import CHECKSUM, checksum, from_header, header_of
from detrcli.config import LossConfig, ModelConfig, Preprocessing
from detrcli.errors import WeightsError
from detrcli.resize import ExactSize, PaddedSquare, Placement, Resize, ShortestEdge


@dataclass(frozen=True)
class Thirds(Resize):
    """A rule of another package: pictures of a third of their size."""

    kind = "test-thirds"
    least: int = 9

    def place(self, height: int, width: int) -> Placement:
        return Placement.filling(max(self.least, height // 3), max(self.least, width // 3))

    def with_size(self, size: int | None, max_size: int | None) -> "Thirds":
        return replace(self, least=size or self.least)

    @property
    def side(self) -> int:
        return self.least


def there_and_back(checkpoint: Checkpoint, **changes: Any) -> Checkpoint:
    """Through a header whose parts are changed: a value takes a part's place, None leaves it out."""
    header = header_of(checkpoint)
    for part, value in changes.items():
        if value is None:
            del header[part]
        else:
            header[part] = json.dumps(value)
    return from_header(header, checkpoint.tensors, "there")


@pytest.mark.parametrize(
    "rule",
    [
        ShortestEdge(600, 999),
        ShortestEdge(600, 999, divisor=32),
        ExactSize(480, 640),
        Letterbox(320, 416),
        PaddedSquare(960, 960),
        Thirds(12),
    ],
    ids=str,
)
def test_preprocessing_goes_in_and_comes_out(rule: Resize) -> None:
    p = Preprocessing(
        rule, "bicubic", antialias=False, blur=True, rescale_first=True, mean=(0.5, 0.4, 0.3), std=(1.0, 2.0, 3.0)
    )
    again = there_and_back(replace(small_weights(), preprocessing=p)).preprocessing
    assert again == p
    assert again.resize.place(200, 300) == rule.place(200, 300)


@pytest.mark.parametrize("config", [CONFIG, TINY, replace(CONFIG, norm="group", position="learned")])
def test_config_and_loss_go_in_and_come_out(config: ModelConfig) -> None:
    loss = LossConfig(matching="last", class_cost="log", no_object=0.3, cost={"class": 2.0, "l1": 0.0, "giou": 1.0})
    again = there_and_back(replace(small_weights(config), loss=loss))
    assert (again.config, again.loss) == (config, loss)
    assert again.make_loss().matcher.weights == {"class": 2.0, "l1": 0.0, "giou": 1.0}


def test_the_checksum_is_of_names_kinds_shapes_and_bytes() -> None:
    """Of two tensors with the same bytes each is another."""
    tensors = {
        (name, kind, shape): torch.zeros(6, dtype=kind).reshape(shape)
        for name in "ab"
        for kind in (torch.float32, torch.int32)
        for shape in ((6,), (2, 3), (3, 2), (6, 1))
    }
    sums = {checksum({}, {key[0]: tensor}) for key, tensor in tensors.items()}
    assert len(sums) == len(tensors)
    assert len({checksum(header, {}) for header in ({}, {"a": "b"}, {"a": "c"}, {"b": "b"})}) == 4
    assert checksum({"a": "b", CHECKSUM: "c"}, {}) == checksum({"a": "b"}, {})
    assert checksum({}, {"a": torch.zeros(2)}) != checksum({}, {"a": torch.tensor([0.0, 1.0])})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"preprocessing": {"resize": {"kind": "spiral"}}}, "unknown resizing rule 'spiral'"),
        ({"preprocessing": {"resize": {"kind": "letterbox", "depth": 3}}}, "another version"),
        ({"preprocessing": {"resize": {"kind": "letterbox"}, "mean": [0, 0, 0]}}, "another version"),
        ({"preprocessing": {"resize": {"kind": "shortest-edge", "size": -4}}}, "size = -4"),
        ({"config": {"encoder_layers": 10**6}}, "encoder_layers = 1000000"),
        ({"config": {"encoder_layers": "6"}}, "encoder_layers = '6'"),
        ({"loss": {"matching": "never"}}, "matching = 'never'"),
        ({"loss": {"cost": {"class": "much"}}}, "cost.class = 'much'"),
        ({"classes": {"ids": [1]}}, "another version"),
        ({"preprocessing": None}, "another version"),
        ({"config": 7}, "another version"),
        ({"preprocessing": 7}, "another version"),
        ({"classes": []}, "another version"),
    ],
    ids=str,
)
def test_headers_that_cannot_be_understood(changes: dict[str, Any], said: str) -> None:
    """Whatever is wrong with them, it is said of which weights."""
    with pytest.raises(WeightsError, match=f"^there: .*{said}"):
        there_and_back(small_weights(), **changes)
