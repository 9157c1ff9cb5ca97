"""The command line in words: arguments in messages, options of other programs, and `--resume` without a value."""

import os
from pathlib import Path

import pytest
import torch
import typer
from documents import command_of
from here import Detr

from detrcli.cli.app import app
from detrcli.cli.naming import OTHER_NAMES, complete_resume, words_of
from detrcli.errors import UsageError
from detrcli.messages import argument, word
from detrcli.training.state import save_state


@pytest.mark.parametrize(
    ("command", "mention", "words"),
    [
        ("train", argument("batch_size"), "--batch-size"),
        ("train", argument("size", 480), "--size 480"),
        ("train", argument("workers"), "--set workers=VALUE"),
        ("train", argument("norm", "group"), "--set norm=group"),
        ("train", argument("loss.class", 2), "--set loss.class=2"),
        ("train", argument("data"), "DATA"),
        ("predict", argument("images"), "IMAGE"),
        ("predict", argument("ids_from", "a.json"), "--ids-from a.json"),
        ("match-debug", argument("whole_split"), "--all"),  # by the name of the parameter, and of the option
        ("match-debug", argument("layer", 9), "--layer 9"),
        ("match-debug", argument("cost.l1"), "--cost-l1"),
        ("visualize-attn", argument("points", "1,2"), "--encoder 1,2"),
        ("data check", argument("val_ann"), "--val-ann"),
        ("explain", argument("workers"), "`workers`"),  # this command has no settings
        ("explain", argument("engine", "fast"), "`engine=fast`"),
    ],
)
def test_arguments_are_worded_as_options(command: str, mention: str, words: str) -> None:
    assert word(f"Use {mention}.", words_of(command_of(command))) == f"Use {words}."


def test_an_error_is_worded_for_its_command(detr: Detr, tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    shown = detr("predict", "a.png", "--weights", "shapes", "--format", "panoptic", "--classes", "star")
    shown.fails(2, "--threshold", "--classes")


def a_run(path: Path, written: float) -> Path:
    state = save_state(path, {"step": torch.zeros(1)})
    os.utime(state, (written, written))
    return path


@pytest.mark.parametrize(
    ("given", "completed"),
    [
        ("train --resume", "train --resume runs/deep/b"),
        ("train --resume --epochs 9", "train --resume runs/deep/b --epochs 9"),
        ("train data --resume --json", "train data --resume runs/deep/b --json"),
        ("train --resume runs/train", "train --resume runs/train"),
        ("train --resume=runs/train", "train --resume=runs/train"),
        ("predict --resume", "predict --resume"),
        ("train data", "train data"),
        ("", ""),
    ],
)
def test_resume_without_a_value_takes_the_latest_run(
    given: str, completed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At any depth; a folder without a training state is not a run, however new."""
    monkeypatch.chdir(tmp_path)
    a_run(Path("runs/train"), 1_000)
    a_run(Path("runs/deep/b"), 3_000)
    a_run(Path("runs/train-2"), 2_000)
    Path("runs/train-3").mkdir()
    assert complete_resume(given.split()) == completed.split()
    assert ("runs/deep/b" in capsys.readouterr().err) == (given != completed)


def test_resume_without_a_run(detr: Detr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="--resume RUN"):
        complete_resume(["train", "--resume"])
    detr("train", "--resume").fails(2)
    a_run(tmp_path / "runs" / "train", 1_000)
    detr("train", "--resume", "--lr", 1).fails(2, "runs/train", "--lr")


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ("predict a.jpg --conf 0.3", "--threshold"),
        ("predict a.jpg --imgsz 640", "--size"),
        ("predict --source a.jpg", "IMAGE"),
        ("explain --source a.jpg", "IMAGE"),
        ("predict a.jpg --batch_size 4", "--batch-size"),
        ("train --coco_path d", "DATA"),
        ("train d --num_workers 4", "--set workers=N"),
        ("train d --conf 0.3", None),  # it has no threshold
        ("explain a.jpg --batch 4", None),
        ("eval d --frob", None),
        ("--conf 0.3", None),
    ],
)
def test_options_of_other_programs_are_translated(detr: Detr, given: str, ours: str | None) -> None:
    shown = detr(*given.split())
    shown.fails(2)
    first, second = shown.err.splitlines()
    assert next(part for part in given.split() if part.startswith("--")) in first
    assert ("Use " in first) == (ours is not None)
    assert (ours or "") in first
    assert "--help" in second


def test_translations_exist_in_a_command() -> None:
    commands = typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]  # it is a group
    by_command = [{name for parameter in command.params for name in parameter.opts} for command in commands]
    options = set().union(*by_command)
    assert {ours.split()[0] for ours in OTHER_NAMES.values()} <= {*options, "IMAGE", "DATA"}
    for own in by_command:
        assert not {other for other, ours in OTHER_NAMES.items() if ours.split()[0] in own} & own
