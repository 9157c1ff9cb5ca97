"""The validation loss is the criterion's loss of the images in a single batch."""

import pytest
import torch
from trainings import CPU, new, shapes_fixture

from detrcli.data.annotations import annotate
from detrcli.data.dataset import DetectionDataset, Example
from detrcli.data.preprocessing import collate
from detrcli.inference.detector import Detector
from detrcli.training.evaluation import MIN_IMAGES, validation_loss
from detrcli.training.setup import Data

pytestmark = pytest.mark.usefixtures("one_thread")
data = shapes_fixture(images=40, objects=3)


def test_it_is_the_loss_of_one_batch(data: Data) -> None:
    training = new(data, None)
    model = training.model.eval()
    detector = Detector(training.initial.checkpoint, CPU, model=model)
    truth = annotate(data.val, data.classes)
    found = validation_loss(detector, truth, training.loss)
    dataset = DetectionDataset(truth, detector.preprocessing, augmentation="none")
    examples = [example for i in range(len(dataset)) if isinstance(example := dataset[0, i], Example)]
    assert len(examples) == MIN_IMAGES
    with torch.inference_mode():
        output = model(collate([example.pixels for example in examples]))
        whole = training.loss.compute_loss(output, [example.target for example in examples]).total
    assert found == pytest.approx(float(whole), rel=1e-5)
    before = torch.random.get_rng_state()
    assert validation_loss(detector, truth, training.loss) == found
    assert torch.equal(torch.random.get_rng_state(), before)
