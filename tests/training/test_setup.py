"""The weights and settings that a training starts from."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small import TINY, published_names, small_weights

from detrcli.architectures import tiny
from detrcli.architectures.architecture import DataFacts
from detrcli.architectures.detr import DETRConfig
from detrcli.architectures.tiny import TinyConfig
from detrcli.checkpoints.formats import native
from detrcli.errors import UsageError
from detrcli.structures import Classes
from detrcli.training.settings import make_settings, to_toml
from detrcli.training.setup import Initial, initialize

CLASSES = Classes(np.array([3, 7]), np.array(["cat", "owl"]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Weights of a tiny model, and published-style weights of a DETR under a name that does not tell DC5."""
    native.save(small_weights(TINY), tmp_path / "tiny.safetensors")
    torch.save(published_names(), tmp_path / "w.pth")
    return tmp_path


def initial(**given: object) -> Initial:
    return initialize(given, CLASSES, DataFacts(10))


@pytest.mark.parametrize(("model", "dilated"), [(None, False), ("detr-r50", False), ("detr-r50-dc5", True)])
def test_the_model_tells_what_a_pth_cannot(model: str | None, dilated: bool, folder: Path) -> None:
    """Otherwise a DC5 model would be trained with stride 32."""
    config = initial(weights=str(folder / "w.pth"), **({"model": model} if model else {})).checkpoint.config
    assert isinstance(config, DETRConfig)
    assert config.dilated is dilated


def test_weights_of_another_kind(folder: Path) -> None:
    weights = str(folder / "tiny.safetensors")
    assert isinstance(initial(weights=weights).checkpoint.config, TinyConfig)
    with pytest.raises(UsageError, match=r"detr-r50.* detr-tiny"):
        initial(weights=weights, model="detr-r50")
    with pytest.raises(UsageError, match="norm"):
        initial(weights=weights, norm="group")
    assert "model" not in to_toml(make_settings({"weights": weights}))


@pytest.mark.parametrize("weights", ["none", "tiny.safetensors"])
def test_a_models_recipe_is_the_default(weights: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From scratch and from weights; settings override it everywhere."""
    recipe = {"lr": 3e-3, "grad_clip": 1.0, "dropout": 0.2, "size": 48, "freeze": "all", "queries": 4}
    recipe["loss"] = {"class": 2.0, "l1": 4.0}
    monkeypatch.setattr(tiny.TinyArchitecture, "recipe", lambda *_: recipe)
    start = {"weights": weights if weights == "none" else str(folder / weights), "model": "detr-tiny"}

    plain = initial(**start)
    assert (plain.settings.lr, plain.settings.grad_clip, plain.settings.epochs) == (3e-3, 1.0, 50)
    assert plain.checkpoint.loss.loss == {"class": 2, "l1": 4, "giou": 2}
    assert (plain.checkpoint.config.dropout, plain.checkpoint.config.queries) == (0.2, 4)
    assert plain.checkpoint.preprocessing.resize.size == 48
    assert plain.freeze == plain.settings.freeze == "all"

    settings = {"lr": 1e-2, "dropout": 0.0, "size": 32, "freeze": "none", "queries": 5, "loss.class": 6}
    changed = initial(**start, **settings)
    assert (changed.settings.lr, changed.settings.grad_clip) == (1e-2, 1.0)
    assert changed.checkpoint.loss.loss == {"class": 6, "l1": 4, "giou": 2}
    assert (changed.checkpoint.config.dropout, changed.checkpoint.config.queries) == (0.0, 5)
    assert changed.checkpoint.preprocessing.resize.size == 32
    assert changed.freeze == changed.settings.freeze == "none"


def test_the_seed_of_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_tensor(**given: object) -> torch.Tensor:
        tensors = initial(weights="none", model="detr-tiny", **given).checkpoint.tensors
        return tensors[min(name for name in tensors if name.startswith("class"))]

    expected = first_tensor(seed=7)
    assert not torch.equal(first_tensor(), expected)
    monkeypatch.setattr(tiny.TinyArchitecture, "recipe", lambda *_: {"seed": 7})
    assert torch.equal(first_tensor(), expected)
