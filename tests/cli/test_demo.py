"""The complete `detr demo`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from browser import opened
from here import python

from detrcli.checkpoints.registry import SHIPPED
from detrcli.cli import demo, tour


def run(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "detrcli", "demo", *args], cwd=folder, capture_output=True, text=True
    )


@pytest.mark.slow
def test_a_failed_step_ends_the_demo_with_its_exit_code(tmp_path: Path) -> None:
    ended = run(tmp_path, "--device", "cuda:99")
    assert ended.returncode in (2, 6)
    assert "cuda:99" in ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert "detr eval" in last
    assert f"exit code {ended.returncode}" in last


def test_existing_output_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    ended = run(tmp_path, "--out", "mine")
    assert ended.returncode == 2
    assert "mine exists" in ended.stderr


@pytest.mark.slow
def test_an_interrupted_demo_saves_its_training(tmp_path: Path) -> None:
    """By a scheduler's signal, which reaches the demo alone."""
    process = subprocess.Popen(
        python("-P", "-m", "detrcli", "demo"),
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    run = tmp_path / demo.FOLDER / tour.SCRATCH  # its first training
    while not (run / "first-batch.png").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143, error
    assert "detr train --resume from-scratch" in error
    assert "Traceback" not in error
    assert list((run / "state").iterdir())


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Return the folder of a completed demo: DETR_DEMO if set, else of a new run."""
    if "DETR_DEMO" in os.environ:
        return Path(os.environ["DETR_DEMO"])
    ended = run(tmp_path, "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == json.loads((tmp_path / demo.FOLDER / tour.DOCUMENT).read_text())
    return tmp_path


@pytest.mark.slow
def test_the_complete_demo(made: Path) -> None:
    document = json.loads((made / demo.FOLDER / tour.DOCUMENT).read_text())
    assert document["schema"] == "detr.demo/1"
    assert document["folder"] == demo.FOLDER
    assert document["before"]["AP50"] < 0.4
    assert document["after"]["AP50"] >= 0.8
    assert document["from_nothing"]["AP50"] < document["after"]["AP50"]
    recorded = SHIPPED["shapes"].record["metrics"]
    assert document["shapes"] == pytest.approx(recorded, abs=0.002)  # another machine rounds otherwise

    with opened(made / document["page"]) as page:
        text = page.inner_text("body")
        for command in document["commands"]:
            assert command in text
        pictures = page.evaluate("[...document.images].map(image => image.naturalWidth)")
        assert len(pictures) >= 3
        assert all(width > 300 for width in pictures)
