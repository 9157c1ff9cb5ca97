"""Detectors of torchvision, compared with torchvision's own predictions and losses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import images
from here import Detr
from torchvision.models import get_model
from torchvision.transforms.v2.functional import pil_to_tensor
from trainings import assert_resumes_to_the_same_bits

from detrcli.architectures.torchvision_detectors import ARCHITECTURE, TorchvisionConfig
from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.preprocessing import collate, prepare
from detrcli.errors import WeightsError
from detrcli.inference.detector import Detector
from detrcli.structures import Target

CPU = torch.device("cpu")
MOBILE = "fasterrcnn_mobilenet_v3_large_fpn"
DETECTORS = [
    pytest.param(name, marks=() if name == MOBILE else pytest.mark.slow) for name in ARCHITECTURE.presets
]  # fmt: skip


@pytest.fixture(scope="module", params=DETECTORS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def network_of(name: str) -> Any:
    torch.manual_seed(0)
    network = get_model(name, weights=None, weights_backbone=None, num_classes=6, min_size=96, max_size=160).eval()
    with torch.no_grad():  # scores above its threshold
        for key, parameter in network.named_parameters():
            if "cls_score" in key or "cls_logits" in key:
                parameter.add_(torch.randn_like(parameter) * (0.5 if parameter.dim() == 1 else 0.05))
                if "cls_logits.bias" in key:
                    parameter.add_(3)
    return network


def saved(name: str, folder: Path) -> str:
    path = folder / f"{name}.pth"
    torch.save(network_of(name).state_dict(), path)
    return f"torchvision:{name}={path}"


@pytest.fixture(scope="module")
def source(name: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(name, tmp_path_factory.mktemp("weights"))


def test_predictions(name: str, source: str) -> None:
    detector = Detector(load_checkpoint(source).resized(96, 160), CPU, engine="plain")
    network = network_of(name)
    total = 0
    for image in images():
        with torch.no_grad():
            (theirs,) = network([pil_to_tensor(image) / 255])
        detections = detector.predict(image, threshold=0.0)
        objects = (theirs["labels"] > 0).numpy()
        expected = {key: value.numpy()[objects] for key, value in theirs.items()}
        assert len(detections) == len(expected["scores"])
        total += len(detections)
        np.testing.assert_allclose(detections.scores, expected["scores"], atol=1e-4)
        ours_order = np.lexsort((detections.boxes[:, 0].round(1), detections.category_ids))
        their_order = np.lexsort((expected["boxes"][:, 0].round(1), expected["labels"]))
        assert (detections.category_ids[ours_order] == expected["labels"][their_order]).all()
        np.testing.assert_allclose(np.sort(detections.boxes, 0), np.sort(expected["boxes"], 0), atol=0.05)
    assert total > 10


def test_the_loss(name: str, source: str) -> None:
    checkpoint = load_checkpoint(source).resized(96, 160)
    pixels = [prepare(image, checkpoint.preprocessing) for image in list(images())[:2]]
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.3], [0.3, 0.4, 0.2, 0.5]])
    targets = [Target(torch.tensor([0, 4]), boxes), Target(torch.zeros(0, dtype=torch.long), boxes[:0])]
    torch.manual_seed(1)
    output = checkpoint.model().train()(collate(pixels), targets)
    breakdown = checkpoint.make_loss().compute_loss(output, targets)
    network = network_of(name).train()
    network.transform.resize = lambda image, target=None: (image, target)
    network.transform.image_mean, network.transform.image_std = [0.0] * 3, [1.0] * 3
    labeled = []
    for image, target in zip(pixels, targets, strict=True):
        h, w = image.shape[1:]
        cx, cy, bw, bh = target.boxes.unbind(-1)
        absolute = torch.stack([cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2], -1)
        labeled.append({"boxes": absolute * torch.tensor([w, h, w, h]), "labels": target.labels + 1})
    torch.manual_seed(1)
    theirs = network(pixels, labeled)
    assert breakdown.total.item() == pytest.approx(sum(theirs.values()).item(), rel=1e-4)
    assert breakdown.parts.keys() == {key.removeprefix("loss_") for key in theirs}


def test_class_rows(name: str) -> None:
    """The rows of a class are adjacent in the state dict, and return to their places when it is loaded."""
    config = TorchvisionConfig(model=name, classes=5)  # type: ignore[arg-type]  # one of the names
    model = ARCHITECTURE.build(config)
    before = {key: value.clone() for key, value in model.network.state_dict().items()}
    state = model.state_dict()
    ends = ("box_predictor.cls_score.bias", "classification_head.cls_logits.bias")
    (key,) = [key for key in state if key.endswith(ends)]
    per_anchor = before[key.removeprefix("network.")].view(-1, 6)  # (anchors, background and classes)
    assert torch.equal(state[key][2], per_anchor[:, 3])
    assert torch.equal(state[key][5], per_anchor[:, 0])
    model.load_state_dict(state)
    assert all(torch.equal(value, before[key]) for key, value in model.network.state_dict().items())
    rows = ARCHITECTURE.fresh_rows(config, "classes")
    layers = {key.rpartition(".")[0].rpartition(".")[2] for key in rows}
    assert layers == ({"cls_score", "bbox_pred"} if name.startswith("faster") else {"cls_logits"})
    assert all(len(row.tensor) == 6 for row in rows.values())


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_it_resumes_to_the_same_bits(data: Path, tmp_path: Path) -> None:
    facts = {"model": None, "weights": saved(MOBILE, tmp_path), "queries": None, "size": 64, "lr": 1e-4}
    assert_resumes_to_the_same_bits(data, tmp_path, step=4, **facts)


@pytest.mark.slow
@pytest.mark.parametrize("detector", [MOBILE, "retinanet_resnet50_fpn"])
def test_commands(detector: str, data: Path, detr: Detr, tmp_path: Path) -> None:
    source, image = saved(detector, tmp_path), data / "val" / "000000.png"
    assert detr("predict", image, "--weights", source, "--size", 96, "--no-images").code == 0
    more = ("--epochs", 1, "--batch-size", 4, "--size", 64, "--set", "workers=0")
    detr("train", data, "--weights", source, "--out", "run", *more).ok()
    assert load_checkpoint("run").classes.names.tolist() == ["circle", "square", "triangle", "star", "cross"]
    assert detr("eval", data, "--weights", "run").code == 0
    for command in (("visualize-attn", image), ("match-debug", data)):
        assert detr(*command, "--weights", "run").code == 2


def test_unsuitable_weights(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="fcos_resnet50_fpn"):
        load_checkpoint(f"torchvision:fcos_resnet50_fpn={tmp_path / 'other.pth'}")
