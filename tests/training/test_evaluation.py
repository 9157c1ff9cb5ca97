"""The evaluation of an epoch: custom evaluators, and the validation loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from trainings import CPU, SMALL, Recorder, data_of, finished, new, resume, shapes_fixture

from detrcli.data.annotations import annotate
from detrcli.data.dataset import DetectionDataset, Example
from detrcli.data.make import make_shapes
from detrcli.data.preprocessing import collate
from detrcli.evaluation.metrics import METRICS
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth
from detrcli.inference.detector import Detector
from detrcli.training.evaluation import MIN_IMAGES, validation_loss
from detrcli.training.interrupts import Interrupts
from detrcli.training.run_folder import read_rows
from detrcli.training.setup import Data

pytestmark = pytest.mark.usefixtures("one_thread")
data = shapes_fixture(images=6)


@dataclass
class Scripted:
    """Returns given values for any detections."""

    values: Sequence[float]
    names: Sequence[str] = ("score",)
    best: str = "score"
    calls: list[tuple[Truth, Results]] = field(default_factory=list)

    def evaluate(self, truth: Truth, results: Results) -> Mapping[str, float]:
        self.calls.append((truth, results))
        return {"score": self.values[len(self.calls) - 1]}


def column(run: Path) -> list[float]:
    rows = read_rows(run)
    assert not set(METRICS) & set(rows[0])
    return [row["score"] for row in rows]


def test_it_fills_its_column_and_decides_which_weights_are_best(data: Data, tmp_path: Path) -> None:
    """The latest of equal epochs is the best, and patience counts from the first."""
    evaluator, recorder, lasts = Scripted([2.0, 7.0, 7.0, 5.0, 9.0]), Recorder(), []
    recorder.epoch = lambda row, *, best: lasts.append((best, (tmp_path / "last.safetensors").read_bytes()))
    outcome = new(data, tmp_path, recorder, evaluator, epochs=5, patience=2).run(Interrupts())
    assert column(tmp_path) == [2, 7, 7, 5]
    assert (outcome.best["epoch"], outcome.best["score"]) == (3, 7.0)
    assert [best for best, _ in lasts] == [True, True, True, False]
    best = (tmp_path / "best.safetensors").read_bytes()
    assert [last == best for _, last in lasts] == [False, False, True, False]
    for truth, results in evaluator.calls:  # of the validation split
        np.testing.assert_array_equal(truth.image_ids, data.truth.image_ids)
        assert len(results) == len(truth.images) * SMALL["queries"]


def test_a_resumed_training_uses_it_too(data: Data, tmp_path: Path) -> None:
    finished(new(data, tmp_path, None, Scripted([7.0]), epochs=1))
    best = (tmp_path / "best.safetensors").read_bytes()
    outcome = resume(data, tmp_path, None, Scripted([5.0]), epochs=2).run(Interrupts())
    assert column(tmp_path) == [7, 5]
    assert outcome.best["epoch"] == 1
    assert (tmp_path / "best.safetensors").read_bytes() == best != (tmp_path / "last.safetensors").read_bytes()


def test_the_validation_loss_is_the_loss_of_a_single_batch(tmp_path: Path) -> None:
    make_shapes(tmp_path / "data", images=40, size=32, classes=("circle", "square"), objects=3)
    data = data_of(tmp_path / "data")
    training = new(data, None)
    model = training.model.eval()
    detector = Detector(training.initial.checkpoint, CPU, model=model)
    truth = annotate(data.val, data.classes)
    loss = validation_loss(detector, truth, training.loss)
    dataset = DetectionDataset(truth, detector.preprocessing, augmentation="none")
    examples = [example for i in range(len(dataset)) if isinstance(example := dataset[0, i], Example)]
    assert len(examples) == MIN_IMAGES
    with torch.inference_mode():
        output = model(collate([example.pixels for example in examples]))
        whole = training.loss.compute_loss(output, [example.target for example in examples]).total
    assert loss == pytest.approx(float(whole), rel=1e-5)
    before = torch.random.get_rng_state()
    assert validation_loss(detector, truth, training.loss) == loss
    assert torch.equal(torch.random.get_rng_state(), before)
