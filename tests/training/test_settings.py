"""Settings from files and pairs, and the weights and settings that a training starts from."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import TINY, small_weights

from detrcli.architectures import tiny
from detrcli.architectures.architecture import DataFacts
from detrcli.architectures.tiny import TinyConfig
from detrcli.checkpoints.formats import native
from detrcli.config import LossConfig
from detrcli.errors import UsageError
from detrcli.structures import Classes
from detrcli.training.settings import Settings, given_settings, make_settings, to_toml
from detrcli.training.setup import Initial, initialize


def given(*args: Any, **facts: Any) -> Settings:
    return make_settings(given_settings(*args, **facts))


def test_defaults_are_the_published_recipe() -> None:
    s = Settings()
    assert (s.lr, s.weight_decay, s.grad_clip, s.batch_size) == (1e-4, 1e-4, 0.1, 2)
    assert (s.schedule, s.augmentation) == ("step", "published")
    loss = s.loss_config(LossConfig())
    assert loss.loss == loss.cost == {"class": 1, "l1": 5, "giou": 2}
    assert (loss.matching, loss.class_cost, loss.no_object) == ("each", "probability", 0.1)
    changes = {"matching": "last", "no_object": 0.5}
    assert make_settings(changes).loss_config(LossConfig()) == LossConfig(**changes)


def test_weights_of_terms(tmp_path: Path) -> None:
    """As pairs, in tables written by people, and in `config.toml`, also with integers."""
    assert given(None, {}, ["loss.class=3", "cost.l1=4", "loss.giou=1"]).loss == {"class": 3, "giou": 1}
    file = tmp_path / "a.toml"
    file.write_text("[loss]\nl1 = 4\nclass = 3\nno_such = 0.5\n[cost]\ngiou = 3\nl1 = 1.5\n")
    chosen = given(file)
    assert chosen.loss == {"l1": 4, "class": 3, "no_such": 0.5}
    assert chosen.cost == {"giou": 3, "l1": 1.5}
    file.write_text(to_toml(chosen))
    assert given(file) == chosen
    assert given(file, pairs=["loss.class=2"]).loss == {"l1": 4, "class": 2, "no_such": 0.5}
    with pytest.raises(UsageError, match=r"loss\.no_such: .* class, l1, giou"):
        chosen.loss_config(LossConfig())
    with pytest.raises(UsageError, match=r"cost\.center"):
        given(pairs=["cost.center=2"]).loss_config(LossConfig())


def test_settings_override_a_models_recipe() -> None:
    recipe = {"lr": 1e-3, "grad_clip": 1.0, "loss": {"class": 2.0}}
    settings = make_settings({"lr": 2e-3, "loss.l1": 1}, recipe)
    assert (settings.lr, settings.grad_clip, settings.loss) == (2e-3, 1.0, {"class": 2, "l1": 1})


def test_pairs_override_options_and_options_override_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('epochs = 7\nlr = 2e-4\nbatch_size = 3\nweights = "none"\n')
    chosen = given(file, {"lr": 3e-4, "batch_size": 5, "size": None}, ["batch_size=9", "ema = 0.9"])
    assert (chosen.epochs, chosen.lr, chosen.batch_size, chosen.weights) == (7, 3e-4, 9, "none")
    assert chosen.ema == 0.9
    assert given(pairs=["lr=.5e-3"]).lr == 5e-4


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"weights": 'C:\\a "b"\n', "ema": 0.999, "tensorboard": True, "workers": 0, "lr": 1, "norm": "group"},
        {"weights": "\N{GRINNING FACE}\x7f\x1b"},
        {"loss": {"class": 3.0}, "cost": {"l1": 1.0, "giou": 0.0}, "no_object": 0.2},
    ],
)
def test_the_config_of_a_run_gives_the_same_settings(values: dict[str, object], tmp_path: Path) -> None:
    chosen = make_settings(values)
    file = tmp_path / "config.toml"
    file.write_text(to_toml(chosen), encoding="utf-8")
    assert given(file) == chosen
    assert make_settings(asdict(chosen)) == chosen


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("lr_backbon=1", "Did you mean lr_backbone?"),
        ("batchsize=1", "Did you mean batch_size?"),
        ("xyzzy=1", "model, weights,"),
        ("epochs", "KEY=VALUE"),
        ("epochs=1.5", ""),
        ("epochs=true", ""),
        ("size=100000", "between 1 and"),
        ("lr=fast", "number"),
        ("lr=inf", "number"),
        ("ema=1", "below 1"),
        (f"seed={2**63}", "below"),
        ("dropout=1", "below 1"),
        ("tensorboard=1", "true or false"),
        ("schedule=linear", "'step', 'cosine'"),
        ("norm=layer", "'frozen', 'batch', 'group'"),
        ("precision=int8", "'fp32', 'bf16', 'fp16'"),
        ("loss.class=-1", "at least 0"),
    ],
)
def test_invalid_values(pair: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        given_settings(pairs=[pair])
    assert message in str(error.value)
    assert pair.partition("=")[0] in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = ", "TOML"),
        (None, "cannot be read"),
        ("[x]\n", "'x'"),
        ("loss = 3\n", "loss = 3"),
        ("[loss]\nclass = 'much'\n", "loss.class = 'much'"),
        ("[cost]\nl1 = nan\n", "cost.l1 = nan"),
        ("[cost]\nl1 = -1\n", "cost.l1 = -1"),
    ],
)
def test_invalid_files(text: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError) as error:
        given_settings(file)
    assert message in str(error.value)


CLASSES = Classes(np.array([3, 7]), np.array(["cat", "owl"]))


@pytest.fixture
def saved(tmp_path: Path) -> str:
    """Weights of a tiny model."""
    native.save(small_weights(TINY), tmp_path / "tiny.safetensors")
    return str(tmp_path / "tiny.safetensors")


def initial(**given: object) -> Initial:
    return initialize(given, CLASSES, DataFacts(10))


def test_weights_of_another_kind(saved: str) -> None:
    assert isinstance(initial(weights=saved).checkpoint.config, TinyConfig)
    with pytest.raises(UsageError, match=r"detr-r50.* detr-tiny"):
        initial(weights=saved, model="detr-r50")
    with pytest.raises(UsageError, match="norm"):
        initial(weights=saved, norm="group")
    assert "model" not in to_toml(make_settings({"weights": saved}))


@pytest.mark.parametrize("from_scratch", [True, False])
def test_a_models_recipe_is_the_default(from_scratch: bool, saved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From scratch and from weights; settings override it everywhere."""
    recipe = {"lr": 3e-3, "grad_clip": 1.0, "dropout": 0.2, "size": 48, "freeze": "all", "queries": 4}
    recipe["loss"] = {"class": 2.0, "l1": 4.0}
    monkeypatch.setattr(tiny.TinyArchitecture, "recipe", lambda *_: recipe)
    start = {"weights": "none" if from_scratch else saved, "model": "detr-tiny"}

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
