"""Detectors of torchvision: what it says is what is said here, and they train, with rows of classes kept by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import pictures
from here import Detr
from torchvision.models import get_model
from torchvision.transforms.v2.functional import pil_to_tensor
from trainings import comparable, data_of, new, resume, stopped

from detrcli.architectures.torchvision_detectors import ARCHITECTURES, TorchvisionConfig, TorchvisionDetector
from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.batching import collate
from detrcli.data.preprocessing import prepare
from detrcli.errors import UsageError, WeightsError
from detrcli.inference.detector import Detector
from detrcli.structures import Target
from detrcli.training.interrupts import Interrupts

CPU = torch.device("cpu")
SMALL = {"min_size": 96, "max_size": 160}
QUICK = [
    "fasterrcnn_mobilenet_v3_large_fpn",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES if "mobilenet" not in name),
]


@pytest.fixture(scope="module", params=QUICK)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def network_of(architecture: str) -> Any:
    torch.manual_seed(0)
    network = get_model(architecture, weights=None, weights_backbone=None, num_classes=6, **SMALL).eval()
    with torch.no_grad():  # scores above the threshold that it has
        for name, parameter in network.named_parameters():
            if "cls_score" in name or "cls_logits" in name:
                parameter.add_(torch.randn_like(parameter) * (0.5 if parameter.dim() == 1 else 0.05))
                if "cls_logits.bias" in name:
                    parameter.add_(3)
    return network


def kept(architecture: str, folder: Path) -> str:
    path = folder / f"{architecture}.pth"
    torch.save(network_of(architecture).state_dict(), path)
    return f"torchvision:{architecture}={path}"


@pytest.fixture(scope="module")
def source(architecture: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return kept(architecture, tmp_path_factory.mktemp("weights"))


def test_predictions_are_theirs(architecture: str, source: str) -> None:
    detector = Detector(load_checkpoint(source).resized(96, 160), CPU, engine="plain")
    network = network_of(architecture)
    seen = 0
    for image in pictures():
        with torch.no_grad():
            (theirs,) = network([pil_to_tensor(image) / 255])
        found = detector.predict(image, threshold=0.0)
        real = (theirs["labels"] > 0).numpy()
        wanted = {key: value.numpy()[real] for key, value in theirs.items()}
        assert len(found) == len(wanted["scores"])
        seen += len(found)
        np.testing.assert_allclose(found.scores, wanted["scores"], atol=1e-4)
        order = np.lexsort((found.boxes[:, 0].round(1), found.category_ids))
        theirs_order = np.lexsort((wanted["boxes"][:, 0].round(1), wanted["labels"]))
        assert (found.category_ids[order] == wanted["labels"][theirs_order]).all()
        np.testing.assert_allclose(np.sort(found.boxes, 0), np.sort(wanted["boxes"], 0), atol=0.05)
    assert seen > 10


def test_the_loss_is_theirs(architecture: str, source: str) -> None:
    weights = load_checkpoint(source).resized(96, 160)
    pixels = [prepare(image, weights.preprocessing) for image in list(pictures())[:2]]
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.3], [0.3, 0.4, 0.2, 0.5]])
    targets = [Target(torch.tensor([0, 4]), boxes), Target(torch.zeros(0, dtype=torch.long), boxes[:0])]
    torch.manual_seed(1)
    model = weights.model().train()
    output = model(collate(pixels), targets)
    breakdown = weights.make_loss().compute_loss(output, targets)
    network = network_of(architecture).train()
    network.transform.resize = lambda image, target=None: (image, target)
    network.transform.image_mean, network.transform.image_std = [0.0] * 3, [1.0] * 3
    labelled = []
    for image, target in zip(pixels, targets, strict=True):
        h, w = image.shape[1:]
        cx, cy, bw, bh = target.boxes.unbind(-1)
        absolute = torch.stack([cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2], -1)
        labelled.append({"boxes": absolute * torch.tensor([w, h, w, h]), "labels": target.labels + 1})
    torch.manual_seed(1)
    theirs = network(pixels, labelled)
    assert breakdown.total.item() == pytest.approx(sum(theirs.values()).item(), rel=1e-4)
    assert breakdown.parts.keys() == {name.removeprefix("loss_") for name in theirs}


def test_class_rows(architecture: str, source: str) -> None:
    """Rows of a class stand together, wherever the network has them, and go back to where they were."""
    config = TorchvisionConfig(architecture=architecture, classes=5)  # type: ignore[arg-type]  # one of them
    model = TorchvisionDetector(config)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    state = model.state_dict()
    ends = ("box_predictor.cls_score.bias", "classification_head.cls_logits.bias")
    heads = [name for name in state if name.endswith(ends)]
    (bias,) = [state[name] for name in heads]
    (theirs,) = [before[name.removeprefix("network.")] for name in heads]
    per_anchor = theirs.view(-1, 6)  # (anchors, background and classes)
    assert torch.equal(bias[2], per_anchor[:, 3])
    assert torch.equal(bias[5], per_anchor[:, 0])
    model.load_state_dict(state)
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_it_trains_and_resumes_to_the_same_bits(data: Path, tmp_path: Path) -> None:
    seen, source = data_of(data), kept("fasterrcnn_mobilenet_v3_large_fpn", tmp_path)
    facts: dict[str, Any] = {
        "model": None, "weights": source, "queries": None, "dropout": None, "size": 64, "batch_size": 2, "epochs": 2,
        "lr": 1e-4,
    }  # fmt: skip
    whole = new(seen, tmp_path / "whole", **facts)
    whole.run(Interrupts())
    stopped(seen, tmp_path / "parts", step=3, **facts)
    parts = resume(seen, tmp_path / "parts")
    parts.run(Interrupts())
    assert comparable(parts) == comparable(whole)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["fasterrcnn_mobilenet_v3_large_fpn", "retinanet_resnet50_fpn"])
def test_commands(architecture: str, data: Path, detr: Detr, tmp_path: Path) -> None:
    source = kept(architecture, tmp_path)
    picture = data / "val" / "000000.png"
    assert detr("predict", picture, "--weights", source, "--size", 96, "--no-images").code == 0
    more = ("--epochs", 1, "--batch-size", 4, "--size", 64, "--set", "workers=0")
    shown = detr("train", data, "--weights", source, "--out", "run", *more)
    assert shown.code == 0, shown.err
    assert load_checkpoint("run").classes.names.tolist() == ["circle", "square", "triangle", "star", "cross"]
    assert detr("eval", data, "--weights", "run").code == 0
    looked = detr("visualize-attn", picture, "--weights", "run")
    assert (looked.code, "no cross-attention" in looked.err) == (2, True)
    matched = detr("match-debug", data, "--weights", "run")
    assert matched.code == 2
    assert "match" in matched.err


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is fasterrcnn_resnet50_fpn, "):
        load_checkpoint("torchvision:yolo")
    with pytest.raises(WeightsError, match="no file"):
        load_checkpoint("torchvision:fcos_resnet50_fpn=nowhere.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="no tensors of a fcos"):
        load_checkpoint(f"torchvision:fcos_resnet50_fpn={tmp_path / 'other.pth'}")
