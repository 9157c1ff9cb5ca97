"""Config values: their bounds, and the setting that an error names."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest

from detrcli.architectures.detr import DETRConfig
from detrcli.architectures.tiny import TinyConfig
from detrcli.config import Config, LossConfig, Preprocessing, Weight
from detrcli.errors import UsageError
from detrcli.resize import ShortestEdge


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("encoder_layers", 10**6, "between 0 and 100"),
        ("encoder_layers", -1, "between 0 and 100"),
        ("encoder_layers", True, "integer"),
        ("encoder_layers", 6.0, "integer"),
        ("encoder_layers", None, "integer"),
        ("dim", 10**9, "between 1 and 65536"),
        ("dim", 0, "between 1 and 65536"),
        ("queries", 0, "between 1 and 100000"),
        ("classes", 10**6, "between 1 and 100000"),
        ("dropout", 1, "at least 0 and below 1"),
        ("dropout", -0.1, "at least 0 and below 1"),
        ("dropout", "x", "number"),
        ("dropout", math.nan, "number"),
        ("dropout", math.inf, "number"),
        ("dropout", False, "number"),
        ("pre_norm", 1, "true or false"),
        ("norm", "layer", "'frozen', 'batch', 'group'"),
        ("norm", 3, "'frozen', 'batch', 'group'"),
        ("backbone", "resnet18", "'resnet50', 'resnet101'"),
        ("dim", 30, "multiple of 4 and of the 8 heads"),
        ("dim", 4, "multiple of 4 and of the 8 heads"),
    ],
)
def test_invalid_model_values(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(UsageError, match=rf"^{name} = .*{allowed}"):
        replace(DETRConfig(), **{name: value})


def test_bounds_are_allowed() -> None:
    config = DETRConfig(encoder_layers=0, decoder_layers=100, dropout=0, queries=1, classes=100_000)
    assert (config.encoder_layers, config.dropout) == (0, 0)
    assert TinyConfig(dim=65_536, dropout=0.999).dim == 65_536
    with pytest.raises(UsageError, match="norm = 'frozen'.*'batch', 'group'"):  # its backbone has no published weights
        TinyConfig(norm="frozen")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"no_object": -0.1}, "no_object = -0.1: .*at least 0"),
        ({"no_object": math.nan}, "no_object = nan: .*number"),
        ({"class_cost": "square"}, "class_cost = 'square'.*'probability', 'log', 'focal'"),
        ({"matching": "first"}, "matching = 'first'.*'each', 'last'"),
        ({"cost": {"class": -1.0}}, "cost.class = -1.0: .*at least 0"),
        ({"loss": {"l1": "5"}}, "loss.l1 = '5': .*number"),
        ({"loss": 5}, "loss = 5: .*table"),
    ],
)
def test_invalid_loss_values(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LossConfig(**choices)


def test_weights_of_some_terms() -> None:
    published = LossConfig()
    changed = published.with_weights({"class": 2.0}, {"giou": 0.0})
    assert changed.cost == {"class": 2.0, "l1": 5.0, "giou": 2.0}
    assert changed.loss == {"class": 1.0, "l1": 5.0, "giou": 0.0}
    assert published == LossConfig()
    assert changed.with_weights({}, {}) == changed
    for weights, name in ((({}, {"mask": 1.0}), "loss.mask"), (({"dice": 1.0}, {}), "cost.dice")):
        with pytest.raises(UsageError, match=name):
            published.with_weights(*weights)
    with pytest.raises(UsageError, match="cost.l1 = -5: .*at least 0"):
        published.with_weights({"l1": -5}, {})


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"mean": (0.5, 0.5)}, "3 values"),
        ({"mean": [0.5, 0.5, 0.5]}, "3 values"),
        ({"std": (0.5, "a", 0.5)}, "std = 'a': .*number"),
        ({"std": (0.5, 0.0, 0.5)}, "deviation of 0"),
        ({"filter": "lanczos"}, "'bilinear', 'bicubic', 'nearest'"),
        ({"antialias": 1}, "true or false"),
        ({"resize": 800}, "resize = 800"),
    ],
)
def test_invalid_preprocessing_values(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Preprocessing(**choices)
    assert Preprocessing(resize=ShortestEdge(64, 64)).filter == "bilinear"


@dataclass(frozen=True)
class Own(Config):
    """Types of values that configs of other packages may have."""

    kind: Literal["a", "b"] | None = None
    share: Weight | None = None
    sizes: tuple[int, ...] = ()


def test_optional_values_and_tuples_of_any_length() -> None:
    assert Own(kind=None, share=0.5, sizes=(1, 2, 3)).sizes == (1, 2, 3)
    for choices, message in (
        ({"kind": "c"}, "'a', 'b'"),
        ({"share": -1.0}, "at least 0"),
        ({"sizes": (1, "2")}, "integer"),
    ):
        with pytest.raises(UsageError, match=message):
            Own(**choices)
