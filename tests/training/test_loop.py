"""Whole trainings: their files, resuming to the last bit, and that nothing saved is lost."""

import csv
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from trainings import Recorder, comparable, data_of, finished, new, resume, shapes_fixture, stopped

from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.make import make_shapes
from detrcli.errors import DataError
from detrcli.evaluation.metrics import METRICS
from detrcli.training import loop
from detrcli.training.interrupts import TERMINATED, Interrupts
from detrcli.training.loop import Training
from detrcli.training.run_folder import MACHINE_COLUMNS
from detrcli.training.setup import Data
from detrcli.training.state import load_state

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 18  # three epochs of six
data = shapes_fixture()


@pytest.fixture(scope="module")
def whole(data: Data, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A training that never stopped."""
    return comparable(finished(new(data, tmp_path_factory.mktemp("whole"), ema=0.9)))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(
    data: Data, whole: dict[str, Any], tmp_path: Path
) -> None:
    assert comparable(finished(new(data, tmp_path / "a", ema=0.9))) == whole
    assert comparable(finished(new(data, tmp_path / "b", ema=0.9, seed=1)))["rows"] != whole["rows"]
    weights = [(tmp_path / run / "last.safetensors").read_bytes() for run in ("a", "b")]
    assert weights[0] != weights[1]


def places(*by_default: int) -> list[Any]:
    """Every place between two steps, the first and last of an epoch included, and two within an evaluation."""
    every = [{"step": step} for step in range(1, STEPS + 1)] + [{"image": image} for image in (1, 2)]
    return [
        pytest.param(place, marks=[] if i in by_default else pytest.mark.slow, id=str(place))
        for i, place in enumerate(every)
    ]


@pytest.mark.parametrize("place", places(18))
def test_stopped_and_resumed_equals_never_stopped(
    place: dict[str, int], data: Data, whole: dict[str, Any], tmp_path: Path
) -> None:
    assert stopped(data, tmp_path, ema=0.9, **place).stopped == TERMINATED
    assert comparable(finished(resume(data, tmp_path))) == whole


@pytest.mark.slow
@pytest.mark.parametrize("place", places(3))
def test_stopped_and_resumed_with_loader_processes(
    place: dict[str, int], data: Data, whole: dict[str, Any], tmp_path: Path
) -> None:
    stopped(data, tmp_path, ema=0.9, workers=2, **place)
    assert comparable(finished(resume(data, tmp_path, workers=2))) == whole


@pytest.mark.slow
def test_stopped_three_times_with_another_number_of_workers(data: Data, whole: dict[str, Any], tmp_path: Path) -> None:
    stopped(data, tmp_path, ema=0.9, step=3)
    for workers, after in ((2, 4), (0, 5)):
        interrupts = Interrupts()
        recorder = Recorder(after={after: lambda interrupts=interrupts: setattr(interrupts, "code", TERMINATED)})
        assert resume(data, tmp_path, recorder, workers=workers).run(interrupts).stopped == TERMINATED
    assert comparable(finished(resume(data, tmp_path, workers=1))) == whole


def test_the_loss_scale_of_fp16_is_saved(data: Data, tmp_path: Path) -> None:
    training = new(data, tmp_path, precision="fp16")
    training.trainer.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    training.trainer.overflows = 7
    training.state._earlier_seconds = 100.0
    training.save()
    again = resume(data, tmp_path)
    assert (again.trainer.scaler.get_scale(), again.trainer.overflows) == (8.0, 7)
    assert again.state.seconds > 100


def test_killed_it_resumes_from_the_last_state(data: Data, whole: dict[str, Any], tmp_path: Path) -> None:
    """As by SIGKILL: nothing is saved at the end."""

    def kill() -> None:
        raise KeyboardInterrupt  # not caught by a training

    with pytest.raises(KeyboardInterrupt):
        new(data, tmp_path, Recorder(after={8: kill}), ema=0.9).run(Interrupts())
    training = resume(data, tmp_path)
    assert training.state.step == 6
    assert comparable(finished(training)) == whole


@pytest.mark.slow
def test_a_killed_loader_process_costs_nothing(data: Data, whole: dict[str, Any], tmp_path: Path) -> None:
    """As by the kernel when memory runs out: all completed steps are saved before the error is raised."""

    def kill() -> None:
        for process in multiprocessing.active_children():
            os.kill(process.pid or 0, signal.SIGKILL)

    recorder = Recorder(after={4: kill})
    with pytest.raises(RuntimeError, match=r"^DataLoader worker \(pid"):
        new(data, tmp_path, recorder, ema=0.9, workers=2).run(Interrupts())
    training = resume(data, tmp_path, workers=0)
    assert training.state.step == len(recorder.steps) >= 4
    assert comparable(finished(training)) == whole


def test_the_files_of_a_run_folder(data: Data, tmp_path: Path) -> None:
    recorder = Recorder()
    outcome = new(data, tmp_path, recorder).run(Interrupts())
    assert {path.name for path in tmp_path.iterdir()} == {
        "best.safetensors", "last.safetensors", "state", "metrics.csv", "curves.png",
        "first-batch.png", "val-predictions.png", "matching.npz",
    }  # fmt: skip
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = ("loss", "val_loss", "loss_class", "loss_l1", "loss_giou", "class_error", "grad_norm", "lr", "lr_backbone")
    assert list(rows[0]) == ["epoch", *losses, *METRICS, *MACHINE_COLUMNS]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [float(row["AP"]) for row in rows] == [row["AP"] for row in recorder.rows]
    assert outcome.epochs == 3
    assert outcome.best["AP"] == max(row["AP"] or 0 for row in recorder.rows)
    for name in ("curves.png", "first-batch.png", "val-predictions.png"):
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 100
    checkpoint = load_checkpoint(str(tmp_path))
    assert checkpoint.classes.names.tolist() == ["circle", "square"]
    assert checkpoint.preprocessing.resize.size == 32


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_saved_weights_are_those_evaluated(ema: float, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    training, detectors = new(data, None, ema=ema, epochs=1, precision="bf16"), []
    monkeypatch.setattr(loop, "detect_split", lambda detector, *_, **__: detectors.append(detector) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        training.run(Interrupts())
    assert not detectors[0].model.training
    assert detectors[0].precision == "bf16"
    for name, tensor in training.weights().tensors.items():
        assert torch.equal(detectors[0].model.state_dict()[name], tensor), name


@pytest.mark.slow
def test_a_trained_backbone_keeps_its_stem_and_has_a_lower_rate(data: Data, tmp_path: Path) -> None:
    finished(new(data, tmp_path / "first", epochs=1))
    interrupts = Interrupts()
    recorder = Recorder(after={1: lambda: setattr(interrupts, "code", TERMINATED)})
    training = new(data, tmp_path / "second", recorder, epochs=2, weights=str(tmp_path / "first"))

    def parts(training: Training) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        backbone = training.model.backbone
        stem = torch.nn.ModuleList(backbone.stem())
        return ({n: v.clone() for n, v in part.state_dict().items()} for part in (stem, backbone))

    stem, backbone = parts(training)
    rates = {group["name"]: group["lr"] for group in training.trainer.optimizer.param_groups}
    assert rates["backbone"] == pytest.approx(rates["transformer"] / 10)
    training.run(interrupts)
    stem_after, backbone_after = parts(finished(resume(data, tmp_path / "second")))
    assert all(torch.equal(stem_after[name], value) for name, value in stem.items())
    assert not all(torch.equal(backbone_after[name], value) for name, value in backbone.items())


@pytest.mark.slow
def test_evaluations_every_few_epochs_and_at_the_end(data: Data, tmp_path: Path) -> None:
    recorder = Recorder()
    new(data, tmp_path, recorder, eval_every=2, epochs=5).run(Interrupts())
    assert [row["epoch"] for row in recorder.rows if row["AP"] is not None] == [2, 4, 5]
    measured = (*METRICS, "val_loss")
    assert all((row["AP"] is None) == (row[name] is None) for row in recorder.rows for name in measured)


@pytest.mark.slow
def test_patience_ends_it(data: Data, tmp_path: Path) -> None:
    training = new(data, tmp_path, lr=0.0, epochs=50, patience=3, augmentation="none")
    assert training.run(Interrupts()).epochs == 4
    assert resume(data, tmp_path).run(Interrupts()).epochs == 4


@pytest.mark.slow
def test_resumed_with_more_epochs(data: Data, tmp_path: Path) -> None:
    finished(new(data, tmp_path))
    recorder = Recorder()
    assert resume(data, tmp_path, recorder, epochs=5).run(Interrupts()).epochs == 5
    assert [row["epoch"] for row in recorder.rows] == [4, 5]


def test_other_data_is_refused(data: Data, tmp_path: Path) -> None:
    finished(new(data, tmp_path / "run", epochs=1))
    make_shapes(tmp_path / "other", images=10, size=32, classes=("circle", "square"), objects=2, seed=1)
    with pytest.raises(DataError, match="other"):
        resume(data_of(tmp_path / "other"), tmp_path / "run")


@pytest.mark.parametrize("part", ["image_ids", "ends", "boxes", "labels"])
def test_the_fingerprint_depends_on_everything_trained_on(part: str, data: Data) -> None:
    changed = replace(data, train=replace(data.train, **{part: getattr(data.train, part) + 1}))
    assert changed.fingerprint != data.fingerprint


def test_the_longer_side_grows_with_the_shorter(data: Data) -> None:
    sizes = [new(data, None, size=size).initial.checkpoint.preprocessing.resize.max_size for size in (32, 64)]
    assert sizes[1] == pytest.approx(2 * sizes[0], abs=1)


@pytest.mark.slow
def test_states_are_saved_by_the_clock(data: Data, tmp_path: Path) -> None:
    saved = []
    training = new(data, tmp_path, epochs=1, save_every=0.0)
    save = training.save
    training.save = lambda: (saved.append(training.state.step), save())[1]
    training.run(Interrupts())
    assert saved == [0, 1, 2, 3, 4, 5, 6, 6, 6]  # before each step, after the last, before and after the evaluation
    assert load_state(tmp_path)[0]["step"] == 6


@pytest.mark.slow
def test_an_image_that_breaks_costs_nothing(tmp_path: Path) -> None:
    make_shapes(tmp_path / "data", images=6, size=32, classes=("circle",), objects=2)
    data, recorder = data_of(tmp_path / "data"), Recorder()
    path = data.train.path(3)
    whole = path.read_bytes()
    recorder.at_step = lambda _: path.write_bytes(b"broken")
    with pytest.raises(DataError, match=path.name):
        new(data, tmp_path / "run", recorder, epochs=3, augmentation="none").run(Interrupts())
    path.write_bytes(whole)
    again = resume(data, tmp_path / "run")
    assert again.state.step == len(recorder.steps)
    assert again.run(Interrupts()).epochs == 3


@pytest.mark.slow
def test_without_validation_images_the_last_weights_are_the_best(data: Data, tmp_path: Path) -> None:
    empty = replace(data, truth=data.truth.part(np.zeros(len(data.truth.images), dtype=bool)))
    assert new(empty, tmp_path, epochs=2).run(Interrupts()).best is None
    assert (tmp_path / "best.safetensors").read_bytes() == (tmp_path / "last.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("dropout_by_torch")
def test_compiled_it_learns_the_same(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiler's front end, without code generation."""
    finished(new(data, tmp_path / "plain", epochs=1))
    compiled_modules = []
    compile = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda module: compiled_modules.append(module) or compile(module, backend="eager")
    )
    finished(new(data, tmp_path / "compiled", epochs=1, compile=True))
    assert len(compiled_modules) == 1
    plain, compiled = (load_checkpoint(str(tmp_path / run)).tensors for run in ("plain", "compiled"))
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=0, atol=1e-5)
