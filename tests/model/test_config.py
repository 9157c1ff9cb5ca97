"""Choices as values: what they may be, and what is said of what they may not."""

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
    ("name", "value", "said"),
    [
        ("encoder_layers", 10**6, "between 0 and 100"),
        ("encoder_layers", -1, "between 0 and 100"),
        ("encoder_layers", True, "an integer"),
        ("encoder_layers", 6.0, "an integer"),
        ("encoder_layers", None, "an integer"),
        ("dim", 10**9, "between 1 and 65536"),
        ("dim", 0, "between 1 and 65536"),
        ("queries", 0, "between 1 and 100000"),
        ("classes", 10**6, "between 1 and 100000"),
        ("dropout", 1, "at least 0 and below 1"),
        ("dropout", -0.1, "at least 0 and below 1"),
        ("dropout", "x", "a number"),
        ("dropout", math.nan, "a number"),
        ("dropout", math.inf, "a number"),
        ("dropout", False, "a number"),
        ("pre_norm", 1, "true or false"),
        ("norm", "layer", "one of 'frozen', 'batch', 'group'"),
        ("norm", 3, "one of 'frozen', 'batch', 'group'"),
        ("backbone", "resnet18", "one of 'resnet50', 'resnet101'"),
        ("dim", 30, "a multiple of 4 and of the 8 heads"),
        ("dim", 4, "a multiple of 4 and of the 8 heads"),
    ],
)
def test_what_a_model_cannot_be(name: str, value: Any, said: str) -> None:
    with pytest.raises(UsageError, match=rf"^{name} = .*{said}"):
        replace(DETRConfig(), **{name: value})


def test_the_edges_are_allowed() -> None:
    at = DETRConfig(encoder_layers=0, decoder_layers=100, dropout=0, queries=1, classes=100_000)
    assert (at.encoder_layers, at.dropout) == (0, 0)
    assert TinyConfig(dim=65_536, dropout=0.999).dim == 65_536


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"no_object": -0.1}, "no_object = -0.1: must be at least 0"),
        ({"no_object": math.nan}, "no_object = nan: must be a number"),
        ({"class_cost": "square"}, "class_cost = 'square'.*'probability', 'log', 'focal'"),
        ({"cost": {"class": -1.0}}, "cost.class = -1.0: must be at least 0"),
        ({"loss": {"l1": "5"}}, "loss.l1 = '5': must be a number"),
        ({"loss": 5}, "loss = 5: must be a table"),
    ],
)
def test_what_a_loss_cannot_be(choices: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        LossConfig(**choices)


def test_weights_of_some_terms() -> None:
    published = LossConfig()
    changed = published.with_weights({"class": 2.0}, {"giou": 0.0})
    assert changed.cost == {"class": 2.0, "l1": 5.0, "giou": 2.0}
    assert changed.loss == {"class": 1.0, "l1": 5.0, "giou": 0.0}
    assert published == LossConfig()
    assert changed.with_weights({}, {}) == changed
    with pytest.raises(UsageError, match="loss.mask: this model has no such term; it has class, l1, giou"):
        published.with_weights({}, {"mask": 1.0})
    with pytest.raises(UsageError, match="cost.dice: this model has no such term"):
        published.with_weights({"dice": 1.0}, {})
    with pytest.raises(UsageError, match="cost.l1 = -5: must be at least 0"):
        published.with_weights({"l1": -5}, {})


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"mean": (0.5, 0.5)}, "3 values"),
        ({"mean": [0.5, 0.5, 0.5]}, "3 values"),
        ({"std": (0.5, "a", 0.5)}, "std = 'a': must be a number"),
        ({"std": (0.5, 0.0, 0.5)}, "a deviation of 0"),
        ({"filter": "lanczos"}, "one of 'bilinear', 'bicubic', 'nearest'"),
        ({"antialias": 1}, "true or false"),
        ({"resize": 800}, "resize = 800: must be a Resize"),
    ],
)
def test_what_preprocessing_cannot_be(choices: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Preprocessing(**choices)
    assert Preprocessing(resize=ShortestEdge(64, 64)).filter == "bilinear"


@dataclass(frozen=True)
class Own(Config):
    """Kinds of values that members of other packages may have."""

    kind: Literal["a", "b"] | None = None
    share: Weight | None = None
    sizes: tuple[int, ...] = ()


def test_values_that_may_be_missing_and_rows_of_any_length() -> None:
    assert Own(kind=None, share=0.5, sizes=(1, 2, 3)).sizes == (1, 2, 3)
    for choices, said in (
        ({"kind": "c"}, "one of 'a', 'b'"),
        ({"share": -1.0}, "at least 0"),
        ({"sizes": (1, "2")}, "an integer"),
    ):
        with pytest.raises(UsageError, match=said):
            Own(**choices)
