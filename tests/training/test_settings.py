"""Settings: defaults as published, files, pairs, and mistakes that are met with help."""

from dataclasses import asdict
from pathlib import Path

import pytest

from detrcli.errors import UsageError
from detrcli.training.settings import Settings, of, settings, to_toml


def test_defaults_are_the_published_recipe() -> None:
    s = Settings()
    assert (s.lr, s.weight_decay, s.clip, s.batch_size, s.no_object) == (1e-4, 1e-4, 0.1, 2, 0.1)
    assert (s.loss_class, s.loss_l1, s.loss_giou) == (s.cost_class, s.cost_l1, s.cost_giou) == (1, 5, 2)
    assert (s.schedule, s.matching, s.class_cost, s.augmentation) == (
        "step",
        "each",
        "probability",
        "published",
    )


def test_pairs_go_over_options_and_options_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('epochs = 7\nlr = 2e-4\nbatch_size = 3\nweights = "none"\n')
    chosen = settings(file, {"lr": 3e-4, "batch_size": 5, "size": None}, ["batch_size=9", "ema = 0.9"])
    assert (chosen.epochs, chosen.lr, chosen.batch_size, chosen.weights) == (7, 3e-4, 9, "none")
    assert chosen.ema == 0.9
    assert settings(pairs=["lr=.5e-3"]).lr == 5e-4


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"weights": 'C:\\a "b"\n', "ema": 0.999, "tensorboard": True, "workers": 0, "lr": 1, "norm": "group"},
        {"weights": "\N{GRINNING FACE}\x7f\x1b"},
    ],
)
def test_a_runs_file_gives_the_same_settings(values: dict[str, object], tmp_path: Path) -> None:
    chosen = of(values)
    file = tmp_path / "config.toml"
    file.write_text(to_toml(chosen), encoding="utf-8")
    assert settings(file) == chosen
    assert of(asdict(chosen)) == chosen


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("lr_backbon=1", "Did you mean lr_backbone?"),
        ("batchsize=1", "Did you mean batch_size?"),
        ("xyzzy=1", "There is model, weights,"),
        ("epochs", "it is KEY=VALUE"),
        ("epochs=1.5", "a whole number"),
        ("epochs=true", "a whole number"),
        ("epochs=0", "at least 1"),
        ("lr=fast", "a number"),
        ("lr=-1", "at least 0"),
        ("lr=nan", "at least 0"),
        ("lr=inf", "at least 0"),
        ("ema=1", "below 1"),
        (f"seed={2**64}", "below"),
        ("dropout=1", "below 1"),
        ("tensorboard=1", "true or false"),
        ("schedule=linear", "'step', 'cosine'"),
        ("norm=layer", "'frozen', 'batch', 'group'"),
        ("precision=int8", "'fp32', 'bf16', 'fp16'"),
    ],
)
def test_mistakes_are_met_with_help(pair: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        settings(pairs=[pair])
    assert said in str(error.value)
    assert pair.partition("=")[0] in str(error.value)


@pytest.mark.parametrize(("text", "said"), [("a = ", "no TOML"), (None, "cannot be read"), ("[x]\n", "'x'")])
def test_files_that_are_none(text: str | None, said: str, tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError) as error:
        settings(file)
    assert said in str(error.value)
