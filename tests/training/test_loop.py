"""A training as a whole: what it leaves, what it never loses, and that it learns."""

import csv
import json
import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from trainings import RecordingReport, comparable, data_of, new, resume, stopped

from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.make import make_shapes
from detrcli.errors import DataError
from detrcli.evaluation.metrics import METRICS
from detrcli.training import loop
from detrcli.training.interrupts import TERMINATED, Interrupts
from detrcli.training.loop import Training
from detrcli.training.run_folder import MACHINE
from detrcli.training.setup import Data
from detrcli.training.state import load_state

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 18  # three epochs of six


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, images=12, size=32, classes=("circle", "square"), objects=2)
    return data_of(folder)


@pytest.fixture(scope="module")
def whole(data: Data, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A training that was never stopped."""
    training = new(data, tmp_path_factory.mktemp("whole"), ema=0.9)
    training.go(Interrupts())
    return comparable(training)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    data: Data, whole: dict[str, Any], tmp_path: Path
) -> None:
    again, other = new(data, tmp_path / "a", ema=0.9), new(data, tmp_path / "b", ema=0.9, seed=1)
    again.go(Interrupts())
    other.go(Interrupts())
    assert comparable(again) == whole
    assert comparable(other)["rows"] != whole["rows"]
    weights = [(tmp_path / run / "last.safetensors").read_bytes() for run in ("a", "b")]
    assert weights[0] != weights[1]


def places(*by_default: int) -> list[Any]:
    """Every place between two steps, the first and last of an epoch included, and two amid an evaluation."""
    every = [{"step": step} for step in range(1, STEPS + 1)] + [{"picture": picture} for picture in (1, 2)]
    return [
        pytest.param(place, marks=[] if i in by_default else pytest.mark.slow, id=str(place))
        for i, place in enumerate(every)
    ]


@pytest.mark.parametrize("place", places(18))
def test_stopped_and_resumed_is_as_never_stopped(
    place: dict[str, int], data: Data, whole: dict[str, Any], tmp_path: Path
) -> None:
    outcome = stopped(data, tmp_path, ema=0.9, **place)
    assert outcome.stopped == TERMINATED
    training = resume(data, tmp_path)
    assert training.go(Interrupts()).stopped is None
    assert comparable(training) == whole


@pytest.mark.slow
@pytest.mark.parametrize("place", places(3))
def test_stopped_and_resumed_with_loader_processes(
    place: dict[str, int], data: Data, whole: dict[str, Any], tmp_path: Path
) -> None:
    stopped(data, tmp_path, ema=0.9, workers=2, **place)
    training = resume(data, tmp_path, workers=2)
    training.go(Interrupts())
    assert comparable(training) == whole


@pytest.mark.slow
def test_stopped_three_times_with_other_workers_each_time(data: Data, whole: dict[str, Any], tmp_path: Path) -> None:
    stopped(data, tmp_path, ema=0.9, step=3)
    for workers, after in ((2, 4), (0, 5)):
        interrupts = Interrupts()
        report = RecordingReport()
        report.at_step = lambda _, report=report, after=after, interrupts=interrupts: (
            setattr(interrupts, "code", TERMINATED) if len(report.steps) == after else None
        )
        assert resume(data, tmp_path, report, workers=workers).go(interrupts).stopped == TERMINATED
    training = resume(data, tmp_path, workers=1)
    training.go(Interrupts())
    assert comparable(training) == whole


def test_the_scale_of_fp16_is_kept(data: Data, tmp_path: Path) -> None:
    training = new(data, tmp_path, precision="fp16")
    training.trainer.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    training.trainer.overflows = 7
    training.seconds = 100.0
    training.save()
    again = resume(data, tmp_path)
    assert (again.trainer.scaler.get_scale(), again.trainer.overflows) == (8.0, 7)
    assert again.seconds > 100


def test_killed_without_a_word_it_goes_on_from_the_last_state(
    data: Data, whole: dict[str, Any], tmp_path: Path
) -> None:
    """As by SIGKILL: nothing is saved but what was."""

    def kill(report: RecordingReport) -> None:
        if len(report.steps) == 8:
            raise KeyboardInterrupt  # which nothing in a training catches

    report = RecordingReport()
    report.at_step = lambda _: kill(report)
    with pytest.raises(KeyboardInterrupt):
        new(data, tmp_path, report, ema=0.9).go(Interrupts())
    training = resume(data, tmp_path)
    assert training.step == 6
    training.go(Interrupts())
    assert comparable(training) == whole


@pytest.mark.slow
def test_a_loader_process_that_is_killed_costs_nothing(data: Data, whole: dict[str, Any], tmp_path: Path) -> None:
    """By the kernel, say, where memory runs out: all steps that were done are saved before it is told."""

    def kill(report: RecordingReport) -> None:
        if len(report.steps) == 4:
            for process in multiprocessing.active_children():
                os.kill(process.pid or 0, signal.SIGKILL)

    report = RecordingReport()
    report.at_step = lambda _: kill(report)
    with pytest.raises(RuntimeError, match=r"^DataLoader worker \(pid"):
        new(data, tmp_path, report, ema=0.9, workers=2).go(Interrupts())
    training = resume(data, tmp_path, workers=0)
    assert training.step == len(report.steps) >= 4
    training.go(Interrupts())
    assert comparable(training) == whole


def test_what_a_run_folder_holds(data: Data, tmp_path: Path) -> None:
    report = RecordingReport()
    outcome = new(data, tmp_path, report).go(Interrupts())
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "best.safetensors", "last.safetensors", "state", "metrics.csv", "curves.png",
        "first-batch.png", "val-predictions.png", "matching.npz",
    }  # fmt: skip
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = ("loss", "val_loss", "loss_class", "loss_l1", "loss_giou", "class_error", "grad_norm", "lr", "lr_backbone")
    assert list(rows[0]) == ["epoch", *losses, *METRICS, *MACHINE]
    assert next(iter(rows[0])) == "epoch"
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [float(row["AP"]) for row in rows] == [row["AP"] for row in report.rows]
    assert outcome.epochs == 3
    assert outcome.best is not None
    assert outcome.best["AP"] == max(row["AP"] or 0 for row in report.rows)
    for name in ("curves.png", "first-batch.png", "val-predictions.png"):
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 100
    checkpoint = load_checkpoint(str(tmp_path))
    assert checkpoint.classes.names.tolist() == ["circle", "square"]
    assert checkpoint.preprocessing.resize.size == 32


@pytest.mark.slow
def test_the_best_is_the_later_of_the_best(data: Data, tmp_path: Path) -> None:
    scores = iter((0.3, 0.5, 0.5, 0.2))
    lasts = []
    training = new(data, tmp_path, report := RecordingReport(), epochs=4)
    training._evaluate = lambda _: ({name: next(scores) if name == "AP" else 0.0 for name in METRICS}, None)
    report.epoch = lambda *_, **__: lasts.append((tmp_path / "last.safetensors").read_bytes())
    outcome = training.go(Interrupts())
    assert outcome.best is not None
    assert outcome.best["epoch"] == 3
    assert [last == (tmp_path / "best.safetensors").read_bytes() for last in lasts] == [False, False, True, False]


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_what_is_kept_is_what_is_evaluated(ema: float, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    training, seen = new(data, None, ema=ema, epochs=1, precision="bf16"), []
    monkeypatch.setattr(loop, "detect_split", lambda detector, *_, **__: seen.append(detector) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        training.go(Interrupts())
    assert not seen[0].model.training
    assert seen[0].precision == "bf16"
    for name, tensor in training.weights().tensors.items():
        assert torch.equal(seen[0].model.state_dict()[name], tensor), name


@pytest.mark.slow
def test_a_backbone_that_has_learned_keeps_its_stem_and_goes_slower(data: Data, tmp_path: Path) -> None:
    new(data, tmp_path / "first", epochs=1).go(Interrupts())
    report = RecordingReport()
    training = new(data, tmp_path / "second", report, epochs=2, weights=str(tmp_path / "first"))

    def parts(training: Training) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        backbone = training.model.backbone
        stem = torch.nn.ModuleList(backbone.stem())
        return ({n: v.clone() for n, v in part.state_dict().items()} for part in (stem, backbone))

    stem, backbone = parts(training)
    rates = {group["name"]: group["lr"] for group in training.trainer.optimiser.param_groups}
    assert rates["backbone"] == pytest.approx(rates["transformer"] / 10)
    report.at_step = lambda _: setattr(interrupts, "code", TERMINATED)
    training.go(interrupts := Interrupts())
    again = resume(data, tmp_path / "second")
    again.go(Interrupts())
    stem_after, backbone_after = parts(again)
    assert all(torch.equal(stem_after[name], value) for name, value in stem.items())
    assert not all(torch.equal(backbone_after[name], value) for name, value in backbone.items())


@pytest.mark.slow
def test_evaluations_now_and_then_and_always_at_the_end(data: Data, tmp_path: Path) -> None:
    report = RecordingReport()
    new(data, tmp_path, report, eval_every=2, epochs=5).go(Interrupts())
    assert [row["epoch"] for row in report.rows if row["AP"] is not None] == [2, 4, 5]
    assert all((row["AP"] is None) == (row[name] is None) for row in report.rows for name in METRICS)


@pytest.mark.slow
def test_patience_ends_it(data: Data, tmp_path: Path) -> None:
    training = new(data, tmp_path, lr=0.0, epochs=50, patience=3, augmentation="none")
    assert training.go(Interrupts()).epochs == 4
    assert resume(data, tmp_path).go(Interrupts()).epochs == 4


@pytest.mark.slow
def test_more_epochs_go_on_from_the_last(data: Data, tmp_path: Path) -> None:
    new(data, tmp_path).go(Interrupts())
    report = RecordingReport()
    outcome = resume(data, tmp_path, report, epochs=5).go(Interrupts())
    assert outcome.epochs == 5
    assert [row["epoch"] for row in report.rows] == [4, 5]


def test_other_data_is_refused(data: Data, tmp_path: Path) -> None:
    new(data, tmp_path / "run", epochs=1).go(Interrupts())
    make_shapes(tmp_path / "other", images=10, size=32, classes=("circle", "square"), objects=2, seed=1)
    with pytest.raises(DataError, match="not those that this run was begun with"):
        resume(data_of(tmp_path / "other"), tmp_path / "run")


def test_other_labels_are_other_data(data: Data) -> None:
    relabelled = replace(data, train=replace(data.train, labels=1 - data.train.labels))
    assert relabelled.fingerprint != data.fingerprint


@pytest.mark.parametrize("part", ["image_ids", "ends", "boxes", "labels"])
def test_the_fingerprint_is_of_all_that_is_trained_on(part: str, data: Data) -> None:
    changed = replace(data, train=replace(data.train, **{part: getattr(data.train, part) + 1}))
    assert changed.fingerprint != data.fingerprint


def test_the_longer_side_grows_with_the_shorter(data: Data) -> None:
    sizes = [new(data, None, size=size).initial.checkpoint.preprocessing.resize.max_size for size in (32, 64)]
    assert sizes[1] == pytest.approx(2 * sizes[0], abs=1)


@pytest.mark.slow
def test_states_are_saved_by_the_clock_too(data: Data, tmp_path: Path) -> None:
    saved = []
    training = new(data, tmp_path, epochs=1, save_every=0.0)
    save = training.save
    training.save = lambda: (saved.append(training.step), save())[1]
    training.go(Interrupts())
    assert saved == [0, 1, 2, 3, 4, 5, 6, 6, 6]  # before each step, after the epoch's last, with its evaluation
    assert load_state(tmp_path)[0]["step"] == 6


@pytest.mark.slow
def test_a_picture_that_breaks_on_the_way_costs_nothing(tmp_path: Path) -> None:
    make_shapes(tmp_path / "data", images=6, size=32, classes=("circle",), objects=2)
    data, report = data_of(tmp_path / "data"), RecordingReport()
    path = data.train.path(3)
    whole = path.read_bytes()
    report.at_step = lambda _: path.write_bytes(b"broken")
    with pytest.raises(DataError, match="cannot be decoded|it is none of"):
        new(data, tmp_path / "run", report, epochs=3, augmentation="none").go(Interrupts())
    path.write_bytes(whole)
    steps = len(report.steps)
    again = resume(data, tmp_path / "run")
    assert again.step == steps
    assert again.go(Interrupts()).epochs == 3


@pytest.mark.slow
def test_without_a_validation_picture_the_last_weights_are_the_best(tmp_path: Path) -> None:
    make_shapes(tmp_path / "made", images=2, size=32, classes=("circle",), objects=2)
    images = json.loads((tmp_path / "made" / "annotations" / "instances_train.json").read_text())
    images["images"] = images["images"][:1]
    images["annotations"] = [entry for entry in images["annotations"] if entry["image_id"] == 1] or [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
    ]
    folder = tmp_path / "one"
    shutil.copytree(tmp_path / "made" / "train", folder / "train")
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(images))
    outcome = new(data_of(folder), tmp_path / "run", epochs=2).go(Interrupts())
    assert outcome.best is None
    assert (tmp_path / "run" / "best.safetensors").read_bytes() == (tmp_path / "run" / "last.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("dropout_by_torch")
def test_compiled_it_learns_the_same(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the compiler's own way through the code, without what it generates."""
    new(data, tmp_path / "plain", epochs=1).go(Interrupts())
    asked = []
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: asked.append(module) or compile(module, backend="eager"))
    new(data, tmp_path / "compiled", epochs=1, compile=True).go(Interrupts())
    assert len(asked) == 1
    plain, compiled = (load_checkpoint(str(tmp_path / run)).tensors for run in ("plain", "compiled"))
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=0, atol=1e-5)
