"""Saved states: written completely or not at all, damage is detected, and the last two are kept."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from detrcli.errors import WeightsError
from detrcli.structures import Prediction
from detrcli.training.run_status import is_unbegun
from detrcli.training.state import EpochMetrics, load_state, redistributed, save_state
from detrcli.training.step import StepResult


def states(run: Path) -> list[Path]:
    return sorted((run / "state").iterdir())


def saved(run: Path, *steps: int) -> None:
    for step in steps:
        save_state(run, {"step": step, "model": {"w": torch.full((50,), float(step))}})


def test_the_last_of_two(tmp_path: Path) -> None:
    saved(tmp_path, 5, 10, 10, 3)
    assert len(states(tmp_path)) == 2
    state, notes = load_state(tmp_path)
    assert state["step"] == 3
    assert notes == []
    assert torch.load(states(tmp_path)[1], weights_only=True)["step"] == 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_state_falls_back_to_the_one_before(damage: str, tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    newest = states(tmp_path)[-1]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes({"cut": newest.read_bytes()[:-9], "flipped": bytes(data), "empty": b""}[damage])
    state, notes = load_state(tmp_path)
    assert state["step"] == 1
    assert len(notes) == 1
    assert notes[0].startswith(f"{newest}: damaged")
    saved(tmp_path, 3)
    assert load_state(tmp_path)[0]["step"] == 3


def test_no_intact_state(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no training state"):
        load_state(tmp_path)
    saved(tmp_path, 1, 2)
    for path in states(tmp_path):
        path.write_bytes(b"x")
    with pytest.raises(WeightsError, match="damaged"):
        load_state(tmp_path)


def test_a_state_of_another_version(tmp_path: Path) -> None:
    save_state(tmp_path, {"format": 99})
    with pytest.raises(WeightsError, match="another version"):
        load_state(tmp_path)


def test_a_failed_write_keeps_the_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 1, 2)
    before = {path: path.read_bytes() for path in states(tmp_path)}

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space") as error:
        saved(tmp_path, 3)
    assert str(tmp_path) in str(error.value.filename)
    assert {path: path.read_bytes() for path in states(tmp_path)} == before


@pytest.mark.parametrize("content", [b"", b"\x80\x02.", pickle.dumps([1]), pickle.dumps(Path("a"))], ids=ascii)
def test_other_contents_with_a_correct_hash(content: bytes, tmp_path: Path) -> None:
    saved(tmp_path, 1)
    name = f"00000002-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    (tmp_path / "state" / name).write_bytes(content)
    state, notes = load_state(tmp_path)
    assert state["step"] == 1
    assert f"{name}: not a training state (" in notes[0]
    assert "()" not in notes[0]
    assert "(UnpicklingError)" not in notes[0]  # but torch's reason


@pytest.mark.parametrize(
    ("names", "unbegun"),
    [
        (["config.toml"], True),
        (["config.toml", "first-batch.png", "tensorboard", "state", f".{'a' * 32}"], True),
        (["config.toml", "state", "state/.unfinished"], True),
        (["config.toml", "state", "state/00000001-bea7f14df9bb86b6.pt"], False),
        (["config.toml", "last.safetensors"], False),
        (["config.toml", "notes.txt"], False),
        (["first-batch.png"], False),
        ([], False),
    ],
)
def test_a_run_without_a_state(names: list[str], unbegun: bool, tmp_path: Path) -> None:
    for name in names:
        path = tmp_path / name
        path.mkdir() if name in ("state", "tensorboard") else path.write_text("# detr train shapes\n")
    assert is_unbegun(tmp_path) == unbegun
    if unbegun:
        with pytest.raises(WeightsError, match="before its first state"):
            load_state(tmp_path)
        (tmp_path / "config.toml").write_text("[project]\n")
        assert not is_unbegun(tmp_path)


def test_sums_are_redistributed_over_processes() -> None:
    """Means over processes stay; sums over processes are divided."""
    first = EpochMetrics(3, 6, 2, 4.0, 1.0, {"loss": 6.0, "matched": 8.0, "wrong": 2.0, "norm": 5.0})
    second = EpochMetrics(3, 6, 2, 2.0, 0.0, {"loss": 4.0, "matched": 4.0, "wrong": 0.0, "norm": 5.0})
    expected = {"loss": 5.0, "matched": 3.0, "wrong": 0.5, "norm": 5.0}
    assert redistributed([first, second], 4) == EpochMetrics(3, 3, 2, 3.0, 0.5, expected)


def test_sums_of_steps() -> None:
    """The norm of a step that fp16 skips does not count."""
    sums, last = EpochMetrics(), Prediction(torch.zeros(1, 1, 2), torch.zeros(1, 1, 4))
    for norm in (0.5, float("inf"), 0.25):
        sums.add(StepResult(2, 3, {"loss": 1.5, "norm": norm}, last), seconds=0.5, waiting=0.125)
    assert sums == EpochMetrics(3, 6, 2, 1.5, 0.375, {"loss": 4.5, "norm": 0.75})
