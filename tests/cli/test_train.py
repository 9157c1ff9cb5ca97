"""`detr train`: runs, plans, errors and interruptions."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from here import Detr, python
from PIL import Image
from trainings import rows_of

from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.make import make_shapes
from detrcli.system.lock import LOCK, locked
from detrcli.training.settings import given_settings, make_settings
from detrcli.training.state import load_state, save_state

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ["--model", "detr-tiny", "--size", 32, "--batch-size", 2, "--lr", 1e-3]
SMALL += ["--device", "cpu", "--set", "queries=6", "--set", "workers=0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, images=10, size=32, classes=("circle", "square"), objects=2)
    return folder


def command(*args: Any) -> list[str]:
    return python("-m", "detrcli", "train", *args)


def test_a_run_and_its_output(detr: Detr, data: Path, tmp_path: Path) -> None:
    shown = detr("train", data, *SMALL, "--epochs", 2).ok()
    assert "runs/train" in shown.out
    assert "detr-tiny from scratch, backbone: random, norm: batch" in shown.err
    assert "runs/train: 10 images, 2 classes, 2 images per step, 5 steps per epoch, epochs 1 to 2" in shown.err
    assert [line.split("  ")[0] for line in shown.err.splitlines()][-4:-2] == ["epoch 1", "epoch 2"]
    assert shown.err.endswith("detr report runs/train\n")
    assert "\x1b" not in shown.out + shown.err
    again = detr("train", data, *SMALL, "--epochs", 1, "--json")
    assert again.json.keys() == {"schema", "run", "epochs", "best", "seconds", "report", "findings"}
    assert again.json["schema"] == "detr.train/1"
    assert again.json["run"] == "runs/train-2"
    assert again.json["epochs"] == again.json["best"]["epoch"] == 1
    assert again.json["best"]["AP"] == float(rows_of(tmp_path / "runs" / "train-2")[0]["AP"])


def test_fine_tuning_reports_kept_and_dropped_classes(detr: Detr, data: Path, tmp_path: Path) -> None:
    make_shapes(tmp_path / "other", images=4, size=32, classes=("square", "star", "moon"), objects=2)
    assert detr("train", data, *SMALL, "--epochs", 1, "--out", "first").code == 0
    shown = detr("train", "other", "--weights", "first", "--epochs", 1, "--set", "workers=0").ok()
    assert "kept by name: 1 (square); new: 2 (star, moon); dropped: 1 (circle)" in shown.err
    assert "all 6 queries kept" in shown.err
    assert load_checkpoint("runs/train").classes.names.tolist() == ["square", "star", "moon"]


@pytest.mark.slow
def test_a_runs_config_makes_the_same_run(detr: Detr, data: Path, tmp_path: Path) -> None:
    assert detr("train", data, *SMALL, "--epochs", 1, "--out", "a").code == 0
    assert detr("train", data, "--config", "a/config.toml", "--device", "cpu", "--out", "b").code == 0
    for name in ("best.safetensors", "config.toml"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")


@pytest.mark.parametrize("file", ["annotations/instances_train.json", "annotations/instances_val.json", "one.json"])
def test_an_annotation_file_is_data(detr: Detr, data: Path, tmp_path: Path, file: str) -> None:
    """The splits beside the file are read. A single file is train, with a part held out."""
    shutil.copytree(data, tmp_path / "data")
    shutil.copy(tmp_path / "data" / "annotations" / "instances_train.json", tmp_path / "data" / "one.json")
    plan = detr("train", tmp_path / "data" / file, *SMALL, "--dry-run", "--json").json["data"]
    images = {split: plan[split]["images"] for split in plan}
    assert images == ({"train": 8, "val": 2} if file == "one.json" else {"train": 10, "val": 2})


def test_a_dry_run_measures_and_leaves_nothing(detr: Detr, data: Path, tmp_path: Path) -> None:
    shown = detr("train", data, *SMALL, "--dry-run", "--set", "freeze=stem").ok()
    assert not list(tmp_path.iterdir())
    for said in ("train", "val", "transformer", "backbone", "frozen", "per step: 2 images", "50 epochs"):
        assert said in shown.out
    plan = detr("train", data, *SMALL, "--dry-run", "--json").json
    assert plan["steps_per_epoch"] == 5
    assert plan["data"]["train"]["images"] == 10
    assert plan["seconds_of_training"] == pytest.approx(250 * plan["seconds_per_step"], abs=2)
    assert {group["group"] for group in plan["parameters"]} == {"transformer", "backbone", "frozen"}


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["DATA", "--model", "detr-r5"], 2, "detr-r50-dc5"),
        (["DATA", "--weights", "none", "--set", "backbone_weights=none"], 2, "norm"),
        (["DATA", "--weights", "nowhere"], 4, "nowhere"),
        (["DATA", "--weights", "w.safetensors", "--set", "norm=group"], 2, "norm"),
        (["nodata"], 3, "nodata"),
        (["--resume", "nowhere"], 4, "nowhere"),
        (["--resume", "nowhere", "--skip-bad"], 2, "skip"),
        (["--resume", "nowhere", "--set", "lr=1"], 2, "lr"),
        (["DATA", "--size", "100000", "--dry-run", *SMALL[:2]], 2, "size = 100000: must be between 1 and 32768"),
        (["DATA", "--size", "19000", "--dry-run", *SMALL[:2]], 2, "33,554,432"),
        (["--resume", "a" * 300], 4, "no training state"),
    ],
)
def test_mistakes(args: list[str], code: int, said: str, detr: Detr, data: Path, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").touch()
    shown = detr("train", *[str(data) if arg == "DATA" else arg for arg in args])
    shown.fails(code, said)
    assert len(shown.err.splitlines()) <= 3
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_resumed_run_remembers_how_its_data_was_read(detr: Detr, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "new\nline")
    (tmp_path / "new\nline" / "train" / "000002.png").write_bytes(b"no image")
    assert detr("train", "new\nline", *SMALL, "--epochs", 1, "--skip-bad", "--out", "run").code == 0
    (tmp_path / "new\nline").rename(tmp_path / "moved")
    detr("train", "moved", "--resume", "run", "--epochs", 2).ok()
    assert make_settings(given_settings(tmp_path / "run" / "config.toml")).epochs == 2
    assert "done after 2" in detr("train", "--resume", "run").err


def test_a_run_without_a_state_can_be_started_again(detr: Detr, data: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "state").mkdir(parents=True)
    (tmp_path / "run" / "config.toml").write_text("# detr train data\nseed = 3\n")
    detr("train", "--resume", "run").fails(4, "stopped before its first state")
    assert detr("train", data, *SMALL, "--epochs", 1, "--out", "run").code == 0
    assert make_settings(given_settings(tmp_path / "run" / "config.toml")).seed == 0
    shown = detr("train", data, *SMALL, "--epochs", 1, "--out", "run")
    assert (shown.code, "run exists" in shown.err) == (2, True)


@pytest.mark.slow
def test_a_changed_image_of_equal_size(detr: Detr, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    assert detr("train", "data", *SMALL, "--epochs", 1, "--out", "run").code == 0
    path = sorted((tmp_path / "data" / "train").glob("*.png"))[3]
    before = path.read_bytes()
    with Image.open(path) as image:
        image.transpose(Image.Transpose.ROTATE_180).save(path)
    shown = detr("train", "--resume", "run", "--epochs", 2)
    shown.fails(3, f"{path.name} changed since this run was started", "weights")
    path.write_bytes(before)
    assert detr("train", "--resume", "run", "--epochs", 2).code == 0


@pytest.mark.slow
def test_a_state_with_missing_contents(detr: Detr, data: Path, tmp_path: Path) -> None:
    assert detr("train", data, *SMALL, "--epochs", 1, "--out", "run").code == 0
    broken = {"optimizer": {}, "sums": [5], "settings": 7, "source": {}, "weights": {"format": "detrcli/9"}}
    for name, value in broken.items():
        state, _ = load_state(tmp_path / "run")
        save_state(tmp_path / "other", {**state, name: value})
        detr("train", "--resume", "other", "--epochs", 2).fails(4, "written by another version of detr")
        shutil.rmtree(tmp_path / "other")


def test_a_dry_run_of_a_single_step(detr: Detr, data: Path) -> None:
    shown = detr("train", data, *SMALL, "--batch-size", 99, "--epochs", 1, "--set", "queries=1", "--dry-run").ok()
    assert "more objects than the model has queries" in shown.err


def test_errors_of_the_data(detr: Detr, tmp_path: Path) -> None:
    make_shapes(tmp_path / "data", images=5, size=32, classes=("circle",), objects=2)
    (tmp_path / "data" / "train" / "000002.png").write_bytes(b"no image")
    detr("train", "data", *SMALL, "--epochs", 1).fails(3, "000002.png", "--skip-bad leaves out")
    assert not (tmp_path / "runs").exists()
    assert "runs/train: 4 images" in detr("train", "data", *SMALL, "--epochs", 1, "--skip-bad").ok().err


@pytest.mark.slow
def test_few_images_for_training_from_scratch(detr: Detr, data: Path) -> None:
    shown = detr(
        "train", data, "--weights", "none", "--size", 32, "--set", "norm=group", "--set", "backbone_weights=none",
        "--set", "workers=0", "--dry-run",
    ).ok()  # fmt: skip
    assert "warning: 10 images are few for training from scratch" in shown.err
    assert "118,287" in shown.err


@pytest.mark.slow
def test_busy_cpus_are_reported_once(detr: Detr, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detrcli.training.machine.CpuContention.__init__.__defaults__", (0.0, 3, 0.0))
    monkeypatch.setattr("detrcli.training.machine.running_elsewhere", lambda: 1000)
    assert detr("train", data, *SMALL, "--epochs", 2).err.count("warning: about 1000 threads of other programs") == 1
    monkeypatch.setattr("detrcli.training.machine.running_elsewhere", lambda: 0)
    assert "threads of other programs" not in detr("train", data, *SMALL, "--epochs", 1).err


@pytest.mark.slow
def test_two_trainings_at_once_do_not_share_a_folder(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    both = [
        subprocess.Popen(command(data, *SMALL, "--epochs", 8, "--out", run), stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = {process.communicate()[1]: process.returncode for process in both}
    assert sorted(said.values()) == [0, 2], said
    (refused,) = (text for text, code in said.items() if code)
    assert "run is being written by process" in refused or "run exists" in refused
    assert [row["epoch"] for row in rows_of(run)] == [str(epoch) for epoch in range(1, 9)]
    assert LOCK not in {path.name for path in run.iterdir()}


@pytest.mark.slow
def test_a_folder_that_another_process_writes_to(detr: Detr, data: Path, tmp_path: Path) -> None:
    """Neither an empty folder nor a run is changed while another process has locked it."""
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"):
        shown = detr("train", data, *SMALL, "--epochs", 1, "--out", "run")
        assert (shown.code, [path.name for path in (tmp_path / "run").iterdir()]) == (2, [LOCK])
        assert f"run is being written by process {os.getpid()} on" in shown.err
    assert detr("train", data, *SMALL, "--epochs", 1, "--out", "run").code == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    with locked(tmp_path / "run"):
        detr("train", "--resume", "run", "--epochs", 2).fails(2, "is being written by process")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before
    assert detr("train", "--resume", "run", "--epochs", 2).code == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_saves_and_resume_ends_in_the_same_bytes(name: str, data: Path, tmp_path: Path) -> None:
    """With loader processes; the signal is sent to the whole process group, as by a terminal."""
    options = [data, *SMALL, "--epochs", 6, "--set", "workers=2"]
    whole = subprocess.run(command(*options, "--out", tmp_path / "whole"), capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr

    run = tmp_path / "run"
    process = subprocess.Popen(
        command(*options, "--out", run), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (run / "metrics.csv").exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, getattr(signal, name))
    _, error = process.communicate(timeout=60)
    assert process.returncode == (130 if name == "SIGINT" else 143), error
    assert f"detr train --resume {run}" in error
    assert "Traceback" not in error
    assert 1 <= len(rows_of(run)) < 6

    resumed = subprocess.run(command("--resume", run), capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert rows_of(run) == rows_of(tmp_path / "whole")
    for file in ("best.safetensors", "last.safetensors"):
        assert (run / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.slow
def test_eight_images_are_memorized(detr: Detr, tmp_path: Path) -> None:
    make_shapes(tmp_path / "eight", images=8, size=64, classes=("circle", "square", "star"), objects=3)
    val = tmp_path / "eight" / "annotations" / "instances_val.json"
    val.write_bytes((val.parent / "instances_train.json").read_bytes())
    for image in (tmp_path / "eight" / "val").iterdir():
        image.unlink()
    for image in (tmp_path / "eight" / "train").iterdir():
        (tmp_path / "eight" / "val" / image.name).write_bytes(image.read_bytes())
    shown = detr(
        "train", "eight", "--model", "detr-tiny", "--size", 64, "--batch-size", 8, "--epochs", 75, "--lr", 1e-3,
        "--set", "augmentation=none", "--set", "eval_every=25", "--set", "workers=0", "--device", "cpu", "--json",
    ).ok()  # fmt: skip
    evaluated = detr("eval", "eight", "--weights", "runs/train", "--device", "cpu", "--json")
    assert evaluated.json["metrics"]["AP50"] > 0.9
    assert evaluated.json["metrics"]["AP"] == pytest.approx(shown.json["best"]["AP"], abs=0.02)
