"""Each thing that a training notices, provoked."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from trainings import RecordingReport, data_of, new, resume

from detrcli.data.make import make_shapes
from detrcli.errors import DivergedError
from detrcli.structures import Prediction
from detrcli.training import monitor
from detrcli.training.interrupts import Interrupts
from detrcli.training.monitor import Monitor
from detrcli.training.setup import Data
from detrcli.training.step import StepResult

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, images=12, size=32, classes=("circle", "square"), objects=2)
    return data_of(folder)


def notes_of(data: Data, **chosen: Any) -> list[str]:
    report = RecordingReport()
    training = new(data, None, report, **chosen)
    training.count_queries()
    training.go(Interrupts())
    return report.notes


def test_a_healthy_training_gives_no_reason(data: Data) -> None:
    assert notes_of(data, epochs=2) == []


def test_no_boxes_in_the_first_batches(data: Data) -> None:
    none = replace(
        data.train, ends=torch.zeros_like(data.train.ends), boxes=data.train.boxes[:0], labels=data.train.labels[:0]
    )
    notes = notes_of(replace(data, train=none), batch_size=1, epochs=1)
    assert len(notes) == 1
    assert notes[0].startswith("no boxes in the first 10 batches:")
    assert "detr data show" in notes[0]


def test_the_same_boxes_for_every_image(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "COLLAPSED_AFTER", 4)
    report = RecordingReport()
    training = new(data, None, report, epochs=1, lr=0.0)

    for layer in training.model.decoder.layers:  # a model that does not look at the picture
        layer.cross_attention.register_forward_hook(lambda *a: (torch.zeros_like(a[2][0]), None))
    training.go(Interrupts())
    assert len(report.notes) == 1
    assert report.notes[0].startswith("the model gives the same boxes for every image")
    assert "lower lr" in report.notes[0]


@pytest.mark.slow
def test_a_class_error_that_is_stuck(data: Data) -> None:
    report = RecordingReport()
    training = new(data, None, report, epochs=7, lr=0.0, eval_every=9)
    with torch.no_grad():
        training.model.class_head.bias[-1] = 100.0  # everything is no object
    training.go(Interrupts())
    assert len(report.notes) == 1
    assert report.notes[0].startswith("the class error has stood at 100% for 5 epochs")


def test_more_objects_than_queries(data: Data) -> None:
    notes = notes_of(data, queries=1, epochs=1)
    assert len(notes) == 1
    assert "more objects than the model has queries (2 > 1)" in notes[0]
    assert notes[0].endswith("--set queries=2")
    crowded = int((data.train.counts > 1).sum())
    assert notes[0].startswith(f"{crowded} pictures ")


@pytest.mark.slow
def test_a_loss_that_is_not_finite(data: Data, tmp_path: Path) -> None:
    report = RecordingReport()
    training = new(data, tmp_path, report, epochs=2)
    good: dict[str, torch.Tensor] = {}

    def poison(_: Any) -> None:
        if len(report.steps) == 3:
            good.update({name: value.clone() for name, value in training.model.state_dict().items()})
            handle = training.model.class_head.register_forward_hook(lambda *a: a[2] * torch.nan)
            report.at_step = lambda _: handle.remove()

    report.at_step = poison
    with pytest.raises(DivergedError) as error:
        training.go(Interrupts())
    assert error.value.exit_code == 5
    text = str(error.value)
    assert len(text.splitlines()) <= 3
    assert "epoch 1, step 4 (images " in text
    assert "lower --lr" in text
    kept = torch.load(tmp_path / "diverged.pt", weights_only=True)
    assert kept["step"] == 3
    assert all(str(i) in text for batch in kept["batches"] for i in batch["image_ids"])
    again = resume(data, tmp_path)
    assert again.step == 3
    assert all(torch.equal(value, good[name]) for name, value in again.model.state_dict().items())
    assert again.go(Interrupts()).epochs == 2


def test_a_gradient_that_is_not_finite_changes_nothing(data: Data, tmp_path: Path) -> None:
    training = new(data, tmp_path)
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    training.model.class_head.weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(DivergedError, match="gradient's norm"):
        training.go(Interrupts())
    assert all(torch.equal(value, before[name]) for name, value in training.model.state_dict().items())


def test_a_note_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "COLLAPSED_AFTER", 2)
    same = Prediction(torch.zeros(2, 3, 4), torch.full((2, 3, 4), 0.5))
    step = StepResult(2, 1, 1.0, {}, 1, 0.0, 1.0, same)
    watching = Monitor()
    said = [note for i in range(9) for note in watching.after_step(i, step)]
    assert len(said) == 1
    one = replace(step, last=Prediction(same.logits[:1], same.boxes[:1]))  # of two accumulated batches
    assert [note for i in range(9) for note in Monitor().after_step(i, one)] == []
    moved = Prediction(same.logits, same.boxes + torch.tensor([0.0, 0.1])[:, None, None])
    assert Monitor(same_boxes=1).after_step(5, replace(step, last=moved)) == []
