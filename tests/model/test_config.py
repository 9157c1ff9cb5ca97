"""Config values: their bounds, and the setting that an error names."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from detrcli.architectures.detr import DETRConfig
from detrcli.architectures.tiny import TinyConfig
from detrcli.config import Config, LossConfig, Preprocessing, Weight
from detrcli.errors import UsageError


@pytest.mark.parametrize(
    ("config", "name", "value", "allowed"),
    [
        (DETRConfig, "encoder_layers", 10**6, "between 0 and 100"),
        (DETRConfig, "encoder_layers", -1, "between 0 and 100"),
        (DETRConfig, "encoder_layers", True, "integer"),
        (DETRConfig, "encoder_layers", 6.0, "integer"),
        (DETRConfig, "encoder_layers", None, "integer"),
        (DETRConfig, "dim", 10**9, "between 1 and 65536"),
        (DETRConfig, "dim", 0, "between 1 and 65536"),
        (DETRConfig, "queries", 0, "between 1 and 100000"),
        (DETRConfig, "classes", 10**6, "between 1 and 100000"),
        (DETRConfig, "dropout", 1, "at least 0 and below 1"),
        (DETRConfig, "dropout", -0.1, "at least 0 and below 1"),
        (DETRConfig, "dropout", "x", "number"),
        (DETRConfig, "dropout", math.nan, "number"),
        (DETRConfig, "dropout", math.inf, "number"),
        (DETRConfig, "dropout", False, "number"),
        (DETRConfig, "pre_norm", 1, "true or false"),
        (DETRConfig, "norm", "layer", "'frozen', 'batch', 'group'"),
        (DETRConfig, "norm", 3, "'frozen', 'batch', 'group'"),
        (DETRConfig, "backbone", "resnet18", "'resnet50', 'resnet101'"),
        (DETRConfig, "dim", 30, "multiple of 4 and of the 8 heads"),
        (DETRConfig, "dim", 4, "multiple of 4 and of the 8 heads"),
        (TinyConfig, "norm", "frozen", "'batch', 'group'"),  # its backbone has no published weights
        (LossConfig, "no_object", -0.1, "at least 0"),
        (LossConfig, "no_object", math.nan, "number"),
        (LossConfig, "class_cost", "square", "'probability', 'log', 'focal'"),
        (LossConfig, "matching", "first", "'each', 'last'"),
        (LossConfig, "cost", {"class": -1.0}, r"class = -1.0: .*at least 0"),
        (LossConfig, "loss", {"l1": "5"}, r"l1 = '5': .*number"),
        (LossConfig, "loss", 5, "table"),
        (Preprocessing, "mean", (0.5, 0.5), "3 values"),
        (Preprocessing, "mean", [0.5, 0.5, 0.5], "3 values"),
        (Preprocessing, "std", (0.5, "a", 0.5), "number"),
        (Preprocessing, "std", (0.5, 0.0, 0.5), "deviation of 0"),
        (Preprocessing, "filter", "lanczos", "'bilinear', 'bicubic', 'nearest'"),
        (Preprocessing, "antialias", 1, "true or false"),
        (Preprocessing, "resize", 800, "Resize"),
    ],
)
def test_invalid_values(config: type[Config], name: str, value: Any, allowed: str) -> None:
    with pytest.raises(UsageError, match=rf"^{name}\b.*{allowed}"):
        config(**{name: value})


def test_bounds_are_allowed() -> None:
    config = DETRConfig(encoder_layers=0, decoder_layers=100, dropout=0, queries=1, classes=100_000)
    assert (config.encoder_layers, config.dropout) == (0, 0)
    assert TinyConfig(dim=65_536, dropout=0.999).dim == 65_536


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


@dataclass(frozen=True)
class Custom(Config):
    """A config with types that configs of other packages may have."""

    kind: Literal["a", "b"] | None = None
    share: Weight | None = None
    sizes: tuple[int, ...] = ()


def test_optional_values_and_tuples_of_any_length() -> None:
    assert Custom(kind=None, share=0.5, sizes=(1, 2, 3)).sizes == (1, 2, 3)
    for choices, message in (
        ({"kind": "c"}, "'a', 'b'"),
        ({"share": -1.0}, "at least 0"),
        ({"sizes": (1, "2")}, "integer"),
    ):
        with pytest.raises(UsageError, match=message):
            Custom(**choices)
