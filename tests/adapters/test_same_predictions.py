"""What transformers says with a folder is what is said here: pixels to the bit, boxes, scores and labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import folder_of, pictures, processor_of
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.batching import collate
from detrcli.data.preprocessing import prepare
from detrcli.inference.detector import Detector

CPU = torch.device("cpu")


def test_predictions_are_theirs(name: str, folder: Path) -> None:
    checkpoint = load_checkpoint(str(folder))
    ours = Detector(checkpoint, CPU).predict(list(pictures()), threshold=0.0)
    network, processor = AutoModelForObjectDetection.from_pretrained(folder).eval(), processor_of(name)
    for image, found in zip(pictures(), ours, strict=True):
        given = processor(images=image, return_tensors="pt")
        with torch.no_grad():
            output = network(given["pixel_values"])
        (wanted,) = processor.post_process_object_detection(
            output, threshold=0.0, target_sizes=[(image.height, image.width)]
        )
        assert len(found) == len(wanted["scores"])
        theirs = {key: value.numpy() for key, value in wanted.items()}
        if checkpoint.config.family.scoring == "softmax":  # queries in their order
            order = np.arange(len(found))
        else:
            order = matching_order(found, theirs)
        np.testing.assert_allclose(found.scores[order], theirs["scores"], atol=1e-4)
        np.testing.assert_allclose(found.boxes[order], theirs["boxes"], atol=0.05)
        assert (found.category_ids[order] == theirs["labels"]).all()


def matching_order(found: Any, theirs: dict[str, Any]) -> np.ndarray:
    """Ours in their order: members of a selection are compared as sets, for scores may be nearly tied."""
    apart = np.abs(found.boxes[:, None] - theirs["boxes"][None]).max(-1)  # (N, N)
    apart += 1e3 * (found.category_ids[:, None] != theirs["labels"][None])
    order = apart.argmin(0)
    assert sorted(order) == list(range(len(found)))
    return order


def test_pixels_are_theirs(name: str, folder: Path) -> None:
    weights, processor = load_checkpoint(str(folder)), processor_of(name)
    for image in pictures():
        wanted = processor(images=image, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(prepare(image, weights.preprocessing), wanted)


@pytest.mark.parametrize("kind", ["conditional", "yolos", "table"])
def test_sizes_are_theirs(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Rounding to sides, at many proportions."""
    weights, processor = load_checkpoint(str(folder_of(kind, tmp_path_factory))), processor_of(kind)
    for height in (37, 64, 90, 96, 97, 150, 151, 223):
        for width in (36, 45, 96, 99, 150, 181, 301):
            image = Image.new("RGB", (width, height))
            wanted = processor(images=image, return_tensors="pt")["pixel_values"].shape[2:]
            assert prepare(image, weights.preprocessing).shape[1:] == wanted, (height, width)


def test_batches_say_what_pictures_say_alone(folder: Path) -> None:
    detector = Detector(load_checkpoint(str(folder)), CPU, engine="plain")
    several = [*pictures()][:1] * 2 + [*pictures()][2:]
    together = detector.predict(several, threshold=0.0, batch_size=3)
    alone = [detector.predict(image, threshold=0.0) for image in several]
    for a, b in zip(together, alone, strict=True):
        order = matching_order(a, {"boxes": b.boxes, "labels": b.category_ids})
        np.testing.assert_allclose(a.scores[order], b.scores, atol=1e-4)


def test_padding_is_told(folder: Path) -> None:
    """As their processor pads a batch: what is said of the smaller picture does not hang on what is beside it."""
    checkpoint = load_checkpoint(str(folder))
    if not checkpoint.config.family.masked or checkpoint.preprocessing.resize.kind == "exact-size":
        pytest.skip("pictures of one size")
    processor = AutoImageProcessor.from_pretrained(folder)
    several = list(pictures())[:2]
    theirs = processor(images=several, return_tensors="pt")
    batch = collate([prepare(image, checkpoint.preprocessing) for image in several])
    assert torch.equal(batch.images, theirs["pixel_values"])
    network = AutoModelForObjectDetection.from_pretrained(folder).eval()
    with torch.no_grad():
        wanted = network(pixel_values=theirs["pixel_values"], pixel_mask=theirs["pixel_mask"])
        found = checkpoint.model()(batch).last
    torch.testing.assert_close(found.logits, wanted.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.boxes, wanted.pred_boxes, atol=1e-4, rtol=1e-4)
