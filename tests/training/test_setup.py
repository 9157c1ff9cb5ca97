"""Where a training starts from."""

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
from detrcli.training.setup import initialize

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
        config = initialize(given, CLASSES, DataFacts(10)).checkpoint.config
        assert isinstance(config, DETRConfig)
        assert config.dilated is dilated


def test_weights_say_what_they_are(folder: Path) -> None:
    weights = str(folder / "tiny.safetensors")
    assert isinstance(initialize({"weights": weights}, CLASSES, DataFacts(10)).checkpoint.config, TinyConfig)
    with pytest.raises(UsageError, match="not a detr-r50: it is a detr-tiny"):
        initialize({"weights": weights, "model": "detr-r50"}, CLASSES, DataFacts(10))
    assert "model" not in to_toml(make_settings({"weights": weights}))


@pytest.mark.parametrize("weights", ["none", "tiny.safetensors"])
def test_a_models_recipe_where_the_user_says_nothing(
    weights: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From scratch and from weights; it reaches all that is set up, and so does what is said over it."""
    recipe = {"lr": 3e-3, "grad_clip": 1.0, "dropout": 0.2, "size": 48, "freeze": "all", "queries": 4}
    recipe["loss"] = {"class": 2.0, "l1": 4.0}
    monkeypatch.setattr(tiny.TinyArchitecture, "recipe", lambda *_: recipe)
    given = {"weights": weights if weights == "none" else str(folder / weights), "model": "detr-tiny"}

    plain = initialize(given, CLASSES, DataFacts(10))
    assert (plain.settings.lr, plain.settings.grad_clip, plain.settings.epochs) == (3e-3, 1.0, 50)
    assert plain.checkpoint.loss.loss == {"class": 2, "l1": 4, "giou": 2}
    assert (plain.checkpoint.config.dropout, plain.checkpoint.config.queries) == (0.2, 4)
    assert plain.checkpoint.preprocessing.resize.size == 48
    assert plain.freeze == plain.settings.freeze == "all"

    said = {"lr": 1e-2, "dropout": 0.0, "size": 32, "freeze": "none", "queries": 5, "loss.class": 6}
    initial = initialize(given | said, CLASSES, DataFacts(10))
    assert (initial.settings.lr, initial.settings.grad_clip) == (1e-2, 1.0)
    assert initial.checkpoint.loss.loss == {"class": 6, "l1": 4, "giou": 2}
    assert (initial.checkpoint.config.dropout, initial.checkpoint.config.queries) == (0.0, 5)
    assert initial.checkpoint.preprocessing.resize.size == 32
    assert initial.freeze == initial.settings.freeze == "none"


def test_the_recipes_seed_decides_what_is_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_tensor(given: dict[str, object]) -> torch.Tensor:
        tensors = initialize(
            {"weights": "none", "model": "detr-tiny", **given}, CLASSES, DataFacts(10)
        ).checkpoint.tensors
        return tensors[min(name for name in tensors if name.startswith("class"))]

    asked = first_tensor({"seed": 7})
    assert not torch.equal(first_tensor({}), asked)
    monkeypatch.setattr(tiny.TinyArchitecture, "recipe", lambda *_: {"seed": 7})
    assert torch.equal(first_tensor({}), asked)
