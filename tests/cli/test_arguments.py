"""A bare `--resume`, and options by the names of other programs."""

import os
from pathlib import Path

import pytest
import torch
import typer
from detrcli.cli.arguments import completed, latest_run
from detrcli.cli.other_names import OTHER_NAMES
from here import Detr

from detrcli.cli.app import app
from detrcli.errors import UsageError
from detrcli.training.state import save_state


def a_run(path: Path, written: float) -> Path:
    state = save_state(path, {"step": torch.zeros(1)})
    os.utime(state, (written, written))
    return path


@pytest.mark.parametrize(
    ("given", "filled"),
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
def test_a_bare_resume_takes_the_run_written_last(
    given: str, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At whatever depth; a folder without a training state is no run, however new."""
    monkeypatch.chdir(tmp_path)
    a_run(Path("runs/train"), 1_000)
    a_run(Path("runs/deep/b"), 3_000)
    a_run(Path("runs/train-2"), 2_000)
    Path("runs/train-3").mkdir()
    assert completed(given.split()) == filled.split()
    said = capsys.readouterr().err
    assert said == ("detr: going on with runs/deep/b, the latest run\n" if given != filled else "")


def test_without_a_run_a_bare_resume_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert latest_run(tmp_path) is None
    with pytest.raises(UsageError, match=r"no run below runs.*--resume RUN"):
        completed(["train", "--resume"])


def test_the_command_line_fills_it_in(detr: Detr, tmp_path: Path) -> None:
    shown = detr("train", "--resume")
    assert (shown.code, shown.out) == (2, "")
    assert "there is no run below runs" in shown.err
    a_run(tmp_path / "runs" / "train", 1_000)
    shown = detr("train", "--resume", "--lr", 1)
    assert shown.code == 2
    assert "--resume goes on with the settings of runs/train: --lr cannot be given" in shown.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("predict a.jpg --conf 0.3", "there is no --conf; it is --threshold here"),
        ("predict a.jpg --imgsz 640", "there is no --imgsz; it is --size here"),
        ("predict --source a.jpg", "there is no --source; it is the argument IMAGE here"),
        ("explain --source a.jpg", "there is no --source; it is the argument IMAGE here"),
        ("predict a.jpg --batch 4", "there is no --batch; it is --batch-size here"),
        ("predict a.jpg --batch_size 4", "there is no --batch_size; it is --batch-size here"),
        ("train d --img-size 640", "there is no --img-size; it is --size here"),
        ("train --coco_path d", "there is no --coco_path; it is the argument DATA here"),
        ("train d --num_workers 4", "there is no --num_workers; it is --set workers=N here"),
        ("train d --conf 0.3", "No such option: --conf"),  # nothing there is like it
        ("explain a.jpg --batch 4", "No such option: --batch"),
        ("eval d --frob", "No such option: --frob"),
        ("--conf 0.3", "No such option: --conf"),
    ],
)
def test_options_of_other_programs_are_answered(detr: Detr, given: str, said: str) -> None:
    shown = detr(*given.split())
    assert (shown.code, shown.out) == (2, "")
    first, second = shown.err.splitlines()
    assert first.startswith(f"detr: {said}")
    assert "--help` shows the options" in second


def test_the_names_that_are_answered_exist() -> None:
    """In a command at least, and none of the others' names is one of ours by now."""
    commands = typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]  # a group has them
    options = {name for command in commands for parameter in command.params for name in parameter.opts}
    assert {ours.split()[0] for ours in OTHER_NAMES.values()} <= {*options, "IMAGE", "DATA"}
    assert not OTHER_NAMES.keys() & options
