"""Trainings of several processes under torchrun: stopped, killed, with a broken image, and resumed."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from here import Shown, python
from trainings import rows_of

from detrcli.data.make import make_shapes

SMALL = ["--model", "detr-tiny", "--size", 32, "--batch-size", 2, "--lr", 1e-3, "--epochs", 4, "--no-report"]
SMALL += ["--device", "cpu", "--set", "queries=6", "--set", "workers=0", "--set", "norm=group"]
SMALL += ["--set", "dropout=0", "--set", "save_every=0"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data, and an uninterrupted run of two processes."""
    folder = tmp_path_factory.mktemp("processes")
    make_shapes(folder / "data", images=10, size=32, classes=("circle", "square"), objects=2)
    whole = finished(begin(2, folder / "data", *SMALL, "--out", folder / "whole")).ok()
    assert "4 images per step in 2 processes, 2 steps per epoch" in whole.err
    assert whole.out.count("best epoch") == 1
    return folder


def begin(processes: int, *args: Any) -> "subprocess.Popen[str]":
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = python(*(launcher if processes > 1 else []), "-m", "detrcli", "train", *args)
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def finished(process: "subprocess.Popen[str]") -> Shown:
    out, err = process.communicate(timeout=120)
    return Shown(process.returncode, out, err)


def ours(ended: Shown) -> list[str]:
    """Our lines of stderr; torchrun writes more."""
    return [line for line in ended.err.splitlines() if line.startswith("detr")]


def until(process: "subprocess.Popen[str]", there: Callable[[], bool]) -> None:
    while not there():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def ranks_of(process: "subprocess.Popen[str]") -> list[int]:
    """The ids of the processes that torchrun started, by rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = {}
    for child in children:
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        for entry in environment:
            if entry.startswith(b"RANK="):
                found[int(entry[5:])] = int(child)
    return [found[rank] for rank in sorted(found)]


def test_a_stopped_training_is_resumed(root: Path, tmp_path: Path) -> None:
    """The same number of processes gives the same results, another number nearly the same."""
    run = tmp_path / "run"
    process = begin(2, root / "data", *SMALL, "--out", run)
    until(process, (run / "metrics.csv").exists)
    process.send_signal(signal.SIGTERM)
    assert "stopped and saved" in finished(process).err
    assert 1 <= len(rows_of(run)) < 4
    shutil.copytree(run, tmp_path / "alone")
    finished(begin(2, "--resume", run)).ok()
    assert rows_of(run) == rows_of(root / "whole")

    alone = finished(begin(1, "--resume", tmp_path / "alone", "--no-report")).ok()
    assert "batch_size = 2 and accumulate = 2" in alone.err
    assert len(rows_of(tmp_path / "alone")) == 4
    for own, theirs in zip(rows_of(tmp_path / "alone"), rows_of(root / "whole"), strict=True):
        for name in ("loss", "loss_class", "loss_l1", "loss_giou", "class_error", "grad_norm", "lr"):
            assert float(own[name]) == pytest.approx(float(theirs[name]), rel=2e-3), name


def test_a_killed_process_ends_all(root: Path, tmp_path: Path) -> None:
    """The first process, which writes the run folder."""
    run = tmp_path / "run"
    process = begin(2, root / "data", *SMALL, "--out", run)
    until(process, (run / "metrics.csv").exists)
    os.kill(ranks_of(process)[0], signal.SIGKILL)
    ended = finished(process)
    assert ended.code != 0
    assert "SIGKILL" in ended.err  # torchrun says which
    assert len([line for line in ours(ended) if "Another process of this command has ended" in line]) <= 1
    assert not [line for line in ours(ended) if "Internal error" in line]
    finished(begin(2, "--resume", run)).ok()
    assert rows_of(run) == rows_of(root / "whole")


def test_a_broken_image_ends_all_processes(root: Path, tmp_path: Path) -> None:
    """The process that reads it names it once. All have saved, and resume when the image is restored."""
    shutil.copytree(root / "data", tmp_path / "data")
    run, image = tmp_path / "run", sorted((tmp_path / "data" / "train").iterdir())[3]
    whole = image.read_bytes()
    process = begin(2, tmp_path / "data", *SMALL, "--out", run)
    until(process, (run / "metrics.csv").exists)
    image.write_bytes(whole[: len(whole) // 2])
    ended = finished(process)
    assert ended.code != 0
    assert len([line for line in ours(ended) if image.name in line]) == 1
    assert len([line for line in ours(ended) if "stopped and saved" in line]) <= 1
    image.write_bytes(whole)
    finished(begin(2, "--resume", run)).ok()
    assert rows_of(run) == rows_of(root / "whole")


@pytest.mark.parametrize("model", ["dino-tiny", "dino-tiny-masks", "deformable-tiny-masks"])
def test_small_models_train_in_two_processes(root: Path, tmp_path: Path, model: str) -> None:
    """Processes wait for the gradients of all parameters, and would never get that of an unused one."""
    options = ["--size", 32, "--batch-size", 2, "--epochs", 1, "--no-report", "--device", "cpu"]
    options += ["--set", "workers=0", "--set", "queries=6", "--weights", "none", "--model", model]
    finished(begin(2, root / "data", *options, "--out", tmp_path / "run")).ok()
    (row,) = rows_of(tmp_path / "run")
    assert float(row["loss"]) > 0
    assert ("mask_AP" in row) == ("masks" in model)


def test_a_common_error_is_reported_once(root: Path, tmp_path: Path) -> None:
    ended = finished(begin(2, root / "data", *SMALL, "--set", "queues=6", "--out", tmp_path / "run"))
    assert ended.code != 0
    assert len([line for line in ours(ended) if "queues" in line]) == 1
    resumed = finished(begin(3, "--resume", root / "whole", "--epochs", 5))
    assert resumed.code != 0
    assert len([line for line in ours(resumed) if "3 processes cannot divide equally" in line]) == 1
