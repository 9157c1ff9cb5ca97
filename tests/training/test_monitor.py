"""Each warning of a training, provoked."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from trainings import Recorder, new, resume, shapes_fixture

from detrcli.errors import DivergedError
from detrcli.structures import Prediction
from detrcli.training import monitor
from detrcli.training.interrupts import Interrupts
from detrcli.training.loop import Training
from detrcli.training.monitor import Monitor
from detrcli.training.setup import Data
from detrcli.training.step import StepResult

pytestmark = pytest.mark.usefixtures("one_thread")
data = shapes_fixture()


def notes_of(training: Training) -> list[str]:
    training.check_queries()
    training.run(Interrupts())
    return training.reporter.notes


def test_a_healthy_training(data: Data) -> None:
    assert notes_of(new(data, None, epochs=2)) == []


def test_no_boxes_in_the_first_steps(data: Data) -> None:
    train = data.train
    empty = replace(train, ends=torch.zeros_like(train.ends), boxes=train.boxes[:0], labels=train.labels[:0])
    (note,) = notes_of(new(replace(data, train=empty), None, batch_size=1, epochs=1))
    assert "no boxes in the first 10 steps" in note


def test_the_same_boxes_for_every_image(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "COLLAPSED_AFTER", 4)
    training = new(data, None, epochs=1, lr=0.0)
    for layer in training.model.decoder.layers:  # the model ignores the image
        layer.cross_attention.register_forward_hook(lambda *a: (torch.zeros_like(a[2][0]), None))
    (note,) = notes_of(training)
    assert "same boxes for every image" in note


@pytest.mark.slow
def test_a_class_error_that_is_stuck(data: Data) -> None:
    training = new(data, None, epochs=7, lr=0.0, eval_every=9)
    with torch.no_grad():
        training.model.class_head.bias[-1] = 100.0  # everything is no-object
    (note,) = notes_of(training)
    assert "class error has been at 100% for 5 epochs" in note


def test_more_objects_than_queries(data: Data) -> None:
    (note,) = notes_of(new(data, None, queries=1, epochs=1))
    assert f"{int((data.train.counts > 1).sum())} images" in note
    assert "`queries=2`" in note


@pytest.mark.slow
def test_a_loss_that_is_not_finite(data: Data, tmp_path: Path) -> None:
    good: dict[str, torch.Tensor] = {}

    def poison() -> None:
        good.update({name: value.clone() for name, value in training.model.state_dict().items()})
        training.model.class_head.register_forward_hook(lambda *a: a[2] * torch.nan)

    training = new(data, tmp_path, Recorder(after={3: poison}), epochs=2)
    with pytest.raises(DivergedError) as error:
        training.run(Interrupts())
    assert error.value.exit_code == 5
    text = str(error.value)
    assert "epoch 1, step 4 (images " in text
    kept = torch.load(tmp_path / "diverged.pt", weights_only=True)
    assert kept["step"] == 3
    assert all(str(i) in text for batch in kept["batches"] for i in batch["image_ids"])
    again = resume(data, tmp_path)
    assert again.state.step == 3
    assert all(torch.equal(value, good[name]) for name, value in again.model.state_dict().items())
    assert again.run(Interrupts()).epochs == 2


def test_a_gradient_that_is_not_finite_changes_nothing(data: Data, tmp_path: Path) -> None:
    training = new(data, tmp_path)
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    training.model.class_head.weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(DivergedError, match="norm of the gradient"):
        training.run(Interrupts())
    assert all(torch.equal(value, before[name]) for name, value in training.model.state_dict().items())


def test_a_warning_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "COLLAPSED_AFTER", 2)
    same = Prediction(torch.zeros(2, 3, 4), torch.full((2, 3, 4), 0.5))
    step = StepResult(2, 1, {}, same)
    collapsed = Monitor()
    assert [len(collapsed.after_step(i, step)) for i in range(9)] == [0, 1, 0, 0, 0, 0, 0, 0, 0]
    single = replace(step, last=Prediction(same.logits[:1], same.boxes[:1]))  # of two accumulated batches
    assert [warning for i in range(9) for warning in Monitor().after_step(i, single)] == []
    moved = Prediction(same.logits, same.boxes + torch.tensor([0.0, 0.1])[:, None, None])
    assert Monitor(same_boxes=1).after_step(5, replace(step, last=moved)) == []
