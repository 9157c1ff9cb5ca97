"""RF-DETR: what differs from the other closed-set detectors."""

import numpy as np
import pytest
import torch
from families import folder_of
from PIL import Image

from detrcli.checkpoints.load import load_checkpoint
from detrcli.inference.detector import Detector
from detrcli.structures import Batch, Prediction


@pytest.mark.parametrize(("name", "clipped"), [("rf", True), ("lw", False)])
def test_boxes_are_clipped_to_the_image(name: str, clipped: bool) -> None:
    """As by the package `rfdetr`; with any engine, which exported models have instead of a network."""
    boxes = torch.tensor([[0.1, 0.9, 0.4, 0.4], [0.9, 0.1, 0.4, 0.4], [0.5, 0.5, 0.2, 0.2]])

    def engine(_batch: Batch) -> Prediction:
        return Prediction(torch.tensor([[[2.0] + [-9] * 4, [1.0] + [-9] * 4, [0.0] + [-9] * 4]]), boxes[None])

    detector = Detector(load_checkpoint(str(folder_of(name))), "cpu", engine=engine)
    found = detector.predict(Image.new("RGB", (200, 100)), threshold=0.4)
    expected = [[-20, 70, 60, 110], [140, -10, 220, 30], [80, 40, 120, 60]]
    if clipped:
        expected = [[0, 70, 60, 100], [140, 0, 200, 30], [80, 40, 120, 60]]
    np.testing.assert_allclose(found.boxes, expected, atol=1e-4)
