"""Where a training starts from."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small import TINY, published_names, small_weights

from detrcli.errors import UsageError
from detrcli.structures import Classes
from detrcli.training.settings import of, to_toml
from detrcli.training.setup import begin
from detrcli.variants.detr import DETRConfig
from detrcli.variants.tiny import TinyConfig
from detrcli.weights.formats import native

CLASSES = Classes(np.array([3, 7]), np.array(["cat", "owl"]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Weights of a tiny model; and those of a usual one, published-style, under a name that does not say DC5."""
    native.save(small_weights(TINY), tmp_path / "tiny.safetensors")
    torch.save(published_names(), tmp_path / "w.pth")
    return tmp_path


def test_model_says_what_a_pth_cannot(folder: Path) -> None:
    """Else a DC5 would be trained at stride 32, without a word."""
    for model, dilated in ((None, False), ("detr-r50", False), ("detr-r50-dc5", True)):
        given = {"weights": str(folder / "w.pth")} | ({"model": model} if model else {})
        config = begin(given, CLASSES, 10).weights.config
        assert isinstance(config, DETRConfig)
        assert config.dilated is dilated


def test_weights_say_what_they_are(folder: Path) -> None:
    weights = str(folder / "tiny.safetensors")
    assert isinstance(begin({"weights": weights}, CLASSES, 10).weights.config, TinyConfig)
    with pytest.raises(UsageError, match="not a detr-r50: it is a detr-tiny"):
        begin({"weights": weights, "model": "detr-r50"}, CLASSES, 10)
    assert "model" not in to_toml(of({"weights": weights}))
