"""Weights by name, told right from wrong without torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from detrcli.checkpoints.known import check_weights
from detrcli.checkpoints.registry import PUBLISHED, SHIPPED
from detrcli.errors import WeightsError

# All commands that take weights, with what else they need.
COMMANDS = (
    ("predict", "a.jpg"),
    ("visualize-attn", "a.jpg"),
    ("explain", "a.jpg"),
    ("eval", "shapes"),
    ("match-debug", "shapes"),
    ("train", "shapes"),
)


@pytest.mark.parametrize("source", [*PUBLISHED, *SHIPPED, "hf:a/b@c", "http://a/b.pth", "https://a/b-12345678.pth"])
def test_what_has_a_name_or_must_be_fetched_passes(source: str) -> None:
    check_weights(source)


def test_paths_pass_where_they_lead_somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "w.pth").touch()
    for source in (str(tmp_path), str(tmp_path / "w.pth"), "~/w.pth"):
        check_weights(source)
    with pytest.raises(WeightsError, match="~/v.pth: no such file or folder"):
        check_weights("~/v.pth")


@pytest.mark.parametrize(("wrong", "right"), [("detr-r5", "detr-r50"), ("Shapes", "shapes")])
def test_the_nearest_name_is_told(wrong: str, right: str) -> None:
    with pytest.raises(WeightsError, match=rf"{wrong}: .* Did you mean {right}\?"):
        check_weights(wrong)


def test_a_name_like_no_other_gets_no_guess() -> None:
    with pytest.raises(WeightsError, match="no name of weights. `detr models`"):
        check_weights("yolov8n")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_commands_tell_it_before_torch_is_imported(command: tuple[str, str], tmp_path: Path) -> None:
    """A torch that ends the process stands in for the real one."""
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    (tmp_path / "numpy.py").write_text("raise SystemExit('numpy was imported')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from detrcli.cli.app import main; main()"
    shown = subprocess.run(
        [sys.executable, "-c", code, *command, "--weights", "detr-r5"], capture_output=True, text=True
    )
    assert shown.returncode == 4
    assert shown.stderr == (
        "detr: detr-r5: no such file or folder, and no name of weights. Did you mean detr-r50? "
        "`detr models` lists the names.\n"
    )


@pytest.mark.slow
def test_train_starts_from_scratch_with_none(tmp_path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "detrcli", "train", str(tmp_path / "nodata"), "--weights", "none"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert shown.returncode == 3
    assert "nodata" in shown.stderr
