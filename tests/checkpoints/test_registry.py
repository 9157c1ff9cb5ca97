"""Named weights, which are checked without importing torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from detrcli.checkpoints.registry import PUBLISHED, SHIPPED, check_weights
from detrcli.errors import WeightsError

# All commands that take weights, with their other arguments.
COMMANDS = (
    ("predict", "a.jpg"),
    ("visualize-attn", "a.jpg"),
    ("explain", "a.jpg"),
    ("eval", "shapes"),
    ("match-debug", "shapes"),
    ("train", "shapes"),
)


@pytest.mark.parametrize("source", [*PUBLISHED, *SHIPPED, "hf:a/b@c", "http://a/b.pth", "https://a/b-12345678.pth"])
def test_names_and_downloads_pass(source: str) -> None:
    check_weights(source)


def test_existing_paths_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "w.pth").touch()
    for source in (str(tmp_path), str(tmp_path / "w.pth"), "~/w.pth"):
        check_weights(source)
    with pytest.raises(WeightsError, match="~/v.pth: no such file"):
        check_weights("~/v.pth")


@pytest.mark.parametrize(("wrong", "right"), [("detr-r5", "detr-r50"), ("Shapes", "shapes"), ("yolov8n", None)])
def test_the_nearest_name_is_suggested(wrong: str, right: str | None) -> None:
    with pytest.raises(WeightsError, match=rf"{wrong}: .*`detr models`") as error:
        check_weights(wrong)
    assert ("Did you mean" in str(error.value)) is (right is not None)
    assert f"Did you mean {right}?" in str(error.value) or right is None


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_commands_report_it_before_torch_is_imported(command: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    (tmp_path / "numpy.py").write_text("raise SystemExit('numpy was imported')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from detrcli.cli.app import main; main()"
    shown = subprocess.run(
        [sys.executable, "-c", code, *command, "--weights", "detr-r5"], capture_output=True, text=True
    )
    assert shown.returncode == 4
    assert shown.stderr.startswith("detr: detr-r5: ")
    assert "Did you mean detr-r50?" in shown.stderr


@pytest.mark.slow
def test_train_starts_from_scratch_with_none(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "detrcli", "train", str(tmp_path / "nodata"), "--weights", "none"]
    shown = subprocess.run(command, capture_output=True, text=True)
    assert shown.returncode == 3
    assert "nodata" in shown.stderr
