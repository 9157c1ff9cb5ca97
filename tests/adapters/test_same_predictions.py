"""Predictions of closed-set detectors are those of transformers: pixels bitwise, boxes, scores and labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import NAMES, folder_of, images, processor_of
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.preprocessing import collate, prepare
from detrcli.inference.detector import Detector

CPU = torch.device("cpu")
# Those whose input sizes vary, and which take a padding mask.
PADDED = [
    name for name in NAMES
    if str(getattr(name, "values", [name])[0]).startswith(("deformable", "conditional", "dab", "table"))
]  # fmt: skip


def test_predictions(name: str, folder: Path) -> None:
    checkpoint = load_checkpoint(str(folder))
    ours = Detector(checkpoint, CPU).predict(list(images()), threshold=0.0)
    network, processor = AutoModelForObjectDetection.from_pretrained(folder).eval(), processor_of(name)
    for image, detections in zip(images(), ours, strict=True):
        with torch.no_grad():
            output = network(processor(images=image, return_tensors="pt")["pixel_values"])
        (expected,) = processor.post_process_object_detection(
            output, threshold=0.0, target_sizes=[(image.height, image.width)]
        )
        assert len(detections) == len(expected["scores"])
        theirs = {key: value.numpy() for key, value in expected.items()}
        if checkpoint.config.family.scoring == "softmax":  # in the order of the queries
            order = np.arange(len(detections))
        else:
            order = matching_order(detections, theirs)
        np.testing.assert_allclose(detections.scores[order], theirs["scores"], atol=1e-4)
        np.testing.assert_allclose(detections.boxes[order], theirs["boxes"], atol=0.05)
        assert (detections.category_ids[order] == theirs["labels"]).all()


def matching_order(detections: Any, theirs: dict[str, np.ndarray]) -> np.ndarray:
    """Return the order of the nearest boxes of the same class, since nearly equal scores may be exchanged."""
    distance = np.abs(detections.boxes[:, None] - theirs["boxes"][None]).max(-1)  # (N, N)
    distance += 1e3 * (detections.category_ids[:, None] != theirs["labels"][None])
    order = distance.argmin(0)
    assert sorted(order) == list(range(len(detections)))
    return order


def test_batches_do_not_change_predictions(folder: Path) -> None:
    detector = Detector(load_checkpoint(str(folder)), CPU, engine="plain")
    several = [*images()][:1] * 2 + [*images()][2:]
    together = detector.predict(several, threshold=0.0, batch_size=3)
    alone = [detector.predict(image, threshold=0.0) for image in several]
    for a, b in zip(together, alone, strict=True):
        order = matching_order(a, {"boxes": b.boxes, "labels": b.category_ids})
        np.testing.assert_allclose(a.scores[order], b.scores, atol=1e-4)


@pytest.mark.parametrize("kind", PADDED)
def test_padding(kind: str) -> None:
    """A batch is padded and masked as by the processor."""
    folder = folder_of(kind)
    checkpoint, several = load_checkpoint(str(folder)), list(images())[:2]
    theirs = AutoImageProcessor.from_pretrained(folder)(images=several, return_tensors="pt")
    batch = collate([prepare(image, checkpoint.preprocessing) for image in several])
    assert batch.padding is not None
    assert torch.equal(batch.images, theirs["pixel_values"])
    network = AutoModelForObjectDetection.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = network(pixel_values=theirs["pixel_values"], pixel_mask=theirs["pixel_mask"])
        ours = checkpoint.model()(batch).last
    torch.testing.assert_close(ours.logits, expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.boxes, expected.pred_boxes, atol=1e-4, rtol=1e-4)
