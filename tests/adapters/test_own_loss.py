"""Fine-tuning of closed-set detectors by their own loss."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import folder_of, images
from here import Detr
from trainings import assert_resumes_to_the_same_bits, change_annotations
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.make import make_shapes
from detrcli.data.preprocessing import collate, prepare
from detrcli.inference.detector import Detector
from detrcli.structures import Target

CPU = torch.device("cpu")


def targets() -> list[Target]:
    boxes = torch.rand(5, 4, generator=torch.Generator().manual_seed(1)) * 0.3 + 0.2
    return [
        Target(torch.tensor([0, 3, 3]), boxes[:3]),
        Target(torch.tensor([4, 1]), boxes[3:]),
        Target(torch.zeros(0, dtype=torch.long), torch.zeros(0, 4)),
    ]


def test_the_loss_is_that_of_transformers(folder: Path) -> None:
    """For the same network, labels and random state."""
    checkpoint = load_checkpoint(str(folder))
    pixels = prepare(next(images()), checkpoint.preprocessing)
    batch = collate([pixels, pixels.flip(2), pixels.flip(1)])
    model = checkpoint.model().train()
    torch.manual_seed(5)
    output = model(batch, targets())
    breakdown = checkpoint.make_loss().compute_loss(output, targets())
    network = AutoModelForObjectDetection.from_pretrained(folder).train()
    family = checkpoint.config.family
    beside = family.auxiliary and bool(family.norm)  # earlier layers are computed beside the network
    network.config.auxiliary_loss = family.auxiliary and not beside
    labels = [{"class_labels": target.labels, "boxes": target.boxes} for target in targets()]
    torch.manual_seed(5)
    theirs = network(batch.images, labels=labels)
    parts = {key: value for key, value in theirs.loss_dict.items() if not any(c.isdigit() for c in key)}
    for key, value in parts.items():  # of the last layer
        if key.startswith("loss_"):
            torch.testing.assert_close(breakdown.parts[key.removeprefix("loss_")], value, atol=1e-5, rtol=1e-5)
    if beside:
        assert len([key for key in output.named if key.startswith("loss_bbox")]) == 2  # one per layer
        assert breakdown.total > theirs.loss
    else:
        torch.testing.assert_close(breakdown.total, theirs.loss.float().reshape(()), atol=1e-5, rtol=1e-5)
    breakdown.total.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert breakdown.matches["decoder"].queries.max() < 20


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_it_resumes_to_the_same_bits(folder: Path, data: Path, tmp_path: Path) -> None:
    facts: dict[str, Any] = {"weights": str(folder), "model": None, "queries": None, "size": None}
    assert_resumes_to_the_same_bits(data, tmp_path, step=4, **facts)


@pytest.mark.slow
def test_transformers_reads_the_checkpoint_of_a_training(name: str, folder: Path, data: Path, detr: Detr) -> None:
    """On other classes. The rows of known classes are kept, and the names are in config.json."""
    renamed = data.parent / "renamed"
    if not renamed.exists():
        make_shapes(renamed, images=8, size=64, objects=3)
        moon = {"id": 9, "name": "moon"}
        change_annotations(renamed, lambda document: document["categories"].append(moon))
        change_annotations(renamed, lambda document: document["categories"][1].update(name="rhombus"))
    more = ("--epochs", 1, "--batch-size", 4, "--set", "workers=0", "--set", "lr=0", "--set", "lr_backbone=0")
    shown = detr("train", renamed, "--weights", folder, "--out", "run", *more).ok()
    assert "kept by name: 4" in shown.err
    last = Path("run/last")
    assert (last / "detrcli.json").is_file()
    checkpoint = load_checkpoint(str(last))
    network = AutoModelForObjectDetection.from_pretrained(last).eval()
    assert list(network.config.id2label.values()) == ["circle", "rhombus", "triangle", "star", "cross", "moon"]
    processor = AutoImageProcessor.from_pretrained(last)
    for image in images():
        pixels = processor(images=image, return_tensors="pt")["pixel_values"]
        assert torch.equal(pixels[0], prepare(image, checkpoint.preprocessing))
        with torch.no_grad():
            theirs, ours = network(pixels), checkpoint.model()(collate([pixels[0]])).last
        # Queries that start as proposals of nearly equal scores may be exchanged.
        order = torch.cdist(ours.boxes[0], theirs.pred_boxes[0]).argmin(0)
        assert order.sort().values.tolist() == list(range(20))
        torch.testing.assert_close(ours.logits[:, order], theirs.logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.boxes[:, order], theirs.pred_boxes, atol=1e-5, rtol=1e-5)
    # The learning rate is 0, so the logits of known classes are as before where queries are not chosen by the scores.
    if name.startswith(("conditional", "dab", "table", "yolos")) or name in ("deformable", "deformable-refine"):
        before = load_checkpoint(str(folder))
        old, new_ = (
            Detector(own, CPU).output([prepare(next(images()), own.preprocessing)]).last.logits[0, :, [0, 2, 3, 4]]
            for own in (before, checkpoint)
        )
        np.testing.assert_allclose(new_, old, atol=1e-3)
    tensors = last / "model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\x01")
    assert detr("predict", data / "val" / "000000.png", "--weights", last).code == 4


@pytest.mark.parametrize(
    ("kind", "stem"), [("conditional-timm", {"conv1", "layer1"}), ("rt", {"embedder"}), ("yolos", set())]
)
def test_freezing(kind: str, stem: set[str]) -> None:
    """The names of the stem's parts recur in the blocks behind it, which are not frozen with it."""
    model = load_checkpoint(str(folder_of(kind))).model().train()
    backbone = model.backbone
    model.freeze("stem")
    frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    assert {next((part for part in stem if f"{part}." in name), name) for name in frozen} == stem
    assert not any("layer2" in name or "stages" in name for name in frozen)
    assert model.training
    model.freeze("all")
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(module.training for module in backbone.modules())
