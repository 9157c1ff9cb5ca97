"""Fine-tuning by the family's own loss: its very number, resumed to the same bits, kept as transformers reads it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import folder_of, pictures
from here import Detr
from trainings import comparable, data_of, new, resume, stopped
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.batching import collate
from detrcli.data.make import make_shapes
from detrcli.data.preprocessing import prepare
from detrcli.inference.detector import Detector
from detrcli.structures import Target
from detrcli.training.interrupts import Interrupts

CPU = torch.device("cpu")
QUICK: dict[str, Any] = {
    "model": None, "queries": None, "size": None, "dropout": None, "batch_size": 4, "epochs": 2, "lr": 1e-3,
}  # fmt: skip


def targets() -> list[Target]:
    generator = torch.Generator().manual_seed(1)
    boxes = torch.rand(5, 4, generator=generator) * 0.3 + 0.2
    return [
        Target(torch.tensor([0, 3, 3]), boxes[:3]),
        Target(torch.tensor([4, 1]), boxes[3:]),
        Target(torch.zeros(0, dtype=torch.long), torch.zeros(0, 4)),
    ]


def test_the_loss_is_theirs(name: str, folder: Path) -> None:
    """The same network, told by hand what training tells it, with the same random state."""
    checkpoint = load_checkpoint(str(folder))
    pixels = [prepare(image, checkpoint.preprocessing) for image in pictures()]
    batch = collate([pixels[0], pixels[0].flip(2), pixels[0].flip(1)])
    model = checkpoint.model().train()
    torch.manual_seed(5)
    output = model(batch, targets())
    loss = checkpoint.make_loss()
    breakdown = loss.compute_loss(output, targets())
    network = AutoModelForObjectDetection.from_pretrained(folder).train()
    family = checkpoint.config.family
    by_hand = family.auxiliary and bool(family.norm)
    network.config.auxiliary_loss = family.auxiliary and not by_hand
    labels = [{"class_labels": one.labels, "boxes": one.boxes} for one in targets()]
    torch.manual_seed(5)
    theirs = network(batch.images, labels=labels)
    if not by_hand:
        torch.testing.assert_close(breakdown.total, theirs.loss.float().reshape(()), atol=1e-5, rtol=1e-5)
    # Where the earlier layers' answers are computed beside the network, the last layer's terms are theirs as well.
    parts = {key: value for key, value in theirs.loss_dict.items() if not any(c.isdigit() for c in key)}
    for key, value in parts.items():
        if key.startswith("loss_"):
            torch.testing.assert_close(breakdown.parts[key.removeprefix("loss_")], value, atol=1e-5, rtol=1e-5)
    if by_hand:
        terms = [value for key, value in output.named.items() if key.startswith("loss_bbox")]
        assert len(terms) == 2  # one of each layer
        assert breakdown.total > theirs.loss
    breakdown.total.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert breakdown.matches["decoder"].queries.max() < 20


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_it_resumes_to_the_same_bits(folder: Path, data: Path, tmp_path: Path) -> None:
    facts = {**QUICK, "weights": str(folder), "ema": 0.9}
    seen = data_of(data)
    whole = new(seen, tmp_path / "whole", **facts)
    whole.run(Interrupts())
    stopped(seen, tmp_path / "parts", step=4, **facts)
    parts = resume(seen, tmp_path / "parts")
    parts.run(Interrupts())
    assert comparable(parts) == comparable(whole)


@pytest.mark.slow
def test_what_is_kept_is_read_by_transformers(name: str, folder: Path, data: Path, detr: Detr) -> None:
    """With other classes: rows of those that are known stay, and the names are in its config."""
    wide = data.parent / "renamed"
    if not wide.exists():
        make_shapes(wide, images=8, size=64, objects=3)
        for split in ("train", "val"):
            path = wide / "annotations" / f"instances_{split}.json"
            document = json.loads(path.read_text())
            document["categories"][1]["name"] = "rhombus"
            document["categories"].append({"id": 9, "name": "moon"})
            path.write_text(json.dumps(document))
    more = ("--epochs", 1, "--batch-size", 4, "--set", "workers=0", "--set", "lr=0", "--set", "lr_backbone=0")
    shown = detr("train", wide, "--weights", folder, "--out", "run", *more)
    assert shown.code == 0, shown.err
    assert "kept by name: 4" in shown.err
    kept = Path("run/last")
    assert (kept / "detrcli.json").is_file()
    checkpoint = load_checkpoint(str(kept))
    network = AutoModelForObjectDetection.from_pretrained(kept).eval()
    assert list(network.config.id2label.values()) == ["circle", "rhombus", "triangle", "star", "cross", "moon"]
    processor = AutoImageProcessor.from_pretrained(kept)
    for image in pictures():
        pixels = processor(images=image, return_tensors="pt")["pixel_values"]
        assert torch.equal(pixels[0], prepare(image, checkpoint.preprocessing))
        with torch.no_grad():
            theirs = network(pixels)
            ours = checkpoint.model()(collate([pixels[0]])).last
        torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.boxes, theirs.pred_boxes, atol=1e-5, rtol=1e-5)
    # Nothing was learned, so known classes are as likely as before, where weights decay alone has moved them.
    before = load_checkpoint(str(folder))
    image = next(pictures())
    old = Detector(before, CPU).output([prepare(image, before.preprocessing)]).last.logits
    new_ = Detector(checkpoint, CPU).output([prepare(image, checkpoint.preprocessing)]).last.logits
    if not before.config.family.denoises and name != "deformable-two-stage" and name not in ("lw", "rf"):
        np.testing.assert_allclose(new_[0, :, [0, 2, 3, 4]], old[0, :, [0, 2, 3, 4]], atol=1e-3)
    tensors = kept / "model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\x01")
    assert detr("predict", data / "val" / "000000.png", "--weights", kept).code == 4


@pytest.mark.parametrize(
    ("kind", "frozen"), [("conditional-timm", {"conv1", "layer1"}), ("rt", {"embedder"}), ("yolos", set())]
)
def test_the_stem_alone_is_frozen(kind: str, frozen: set[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """In the blocks behind it the names of its parts come again."""
    model = load_checkpoint(str(folder_of(kind, tmp_path_factory))).model().train()
    backbone = model.backbone
    model.freeze("stem")
    still = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    parts = {next((one for one in frozen if f"{one}." in name), name) for name in still}
    assert parts == frozen
    assert not any("layer2" in name or "stages" in name for name in still)
    assert model.training
    model.freeze("all")
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(module.training for module in backbone.modules())
