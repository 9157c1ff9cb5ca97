"""The loss on the validation split is what the criterion says of its pictures in one batch."""

import csv
import math
from pathlib import Path

import pytest
import torch
from trainings import CPU, data_of, new

from detrcli.data.annotations import annotate
from detrcli.data.batching import collate
from detrcli.data.dataset import DetectionDataset, Example
from detrcli.data.make import make_shapes
from detrcli.inference.detector import Detector
from detrcli.training import validation_loss as room
from detrcli.training.interrupts import Interrupts
from detrcli.training.setup import Data
from detrcli.training.validation_loss import validation_loss

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, images=40, size=32, classes=("circle", "square"), objects=3)
    return data_of(folder)


def test_it_is_that_of_one_batch(data: Data) -> None:
    training = new(data, None)
    model = training.model.eval()
    detector = Detector(training.initial.checkpoint, CPU, model=model)
    truth = annotate(data.val, data.classes)
    found = validation_loss(detector, truth, training.loss)
    dataset = DetectionDataset(truth, detector.preprocessing, augmentation="none")
    examples = [one for i in range(len(dataset)) if isinstance(one := dataset[0, i], Example)]
    assert len(examples) == room.LEAST
    with torch.inference_mode():
        output = model(collate([one.pixels for one in examples]))
        whole = training.loss.compute_loss(output, [one.target for one in examples]).total
    assert found == pytest.approx(float(whole), rel=1e-5)
    before = torch.random.get_rng_state()
    assert validation_loss(detector, truth, training.loss) == found
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.slow
def test_a_training_keeps_it_beside_its_own(data: Data, tmp_path: Path) -> None:
    new(data, tmp_path, epochs=2, eval_every=2).go(Interrupts())
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:3] == ["epoch", "loss", "val_loss"]
    assert rows[0]["val_loss"] == ""
    assert math.isfinite(float(rows[1]["val_loss"]))
