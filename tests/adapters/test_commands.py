"""The commands on folders of closed-set detectors."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import box_pairs, folder_of, processor_of, truth_of_predictions
from here import Detr, torchrun
from judge import twelve
from PIL import Image
from trainings import change_annotations, without_first_objects
from transformers import AutoModelForObjectDetection

from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.make import make_shapes
from detrcli.data.preprocessing import prepare
from detrcli.errors import UsageError, WeightsError
from detrcli.inference.detector import Detector
from detrcli.inspection.relevance import relevance

EXPORTS = {"onnx": ("rt", "rt-v2", "deformable"), "openvino": ("rt", "d-fine", "deformable")}
QUICK = ("--epochs", 1, "--batch-size", 4, "--set", "workers=0")


@pytest.mark.slow
def test_inspection(folder: Path, data: Path, detr: Detr) -> None:
    image = data / "val" / "000000.png"
    look = ("visualize-attn", image, "--weights", folder)
    shown = detr(*look, "--query", 3, "--layer", "all", "--raw", "raw.npz", "--out", "cross.png", "--json").ok()
    raw = np.load("raw.npz")
    np.testing.assert_allclose(raw["cross"].sum((-1, -2)), 1, atol=1e-3)
    family = load_checkpoint(str(folder)).config.family
    if family.attentions.kind == "sampled":
        np.testing.assert_allclose(raw["weights"].sum((3, 4)), 1, atol=1e-5)  # of each head
    dense = family.attentions.kind == "dense" and family.title != "YOLOS"
    for code, command in (
        (0, (*look, "--self", "--query", 3, "--out", "self.png")),
        (0 if family.attentions.encoder else 2, (*look, "--encoder", "30,30", "--layer", "all", "--out", "e.png")),
        (0 if dense else 2, (*look, "--relevance", "--query", 3, "--out", "relevance.png")),
        (0, ("match-debug", data, "--weights", folder, "--json", "--out", "matched.png")),
        (0, ("match-debug", data, "--all", "--weights", folder, "--overwrite")),
        (0, ("explain", image, "--weights", folder)),
    ):
        shown = detr(*command)
        assert shown.code == code, (command, shown.err)
    assert "20 object queries" in " ".join(shown.out.split())


def test_relevance() -> None:
    checkpoint = load_checkpoint(str(folder_of("conditional")))
    detector = Detector(checkpoint, torch.device("cpu"), engine="plain")
    pixels = prepare(Image.new("RGB", (96, 96), (200, 40, 90)), checkpoint.preprocessing)
    (map_,) = relevance(detector, pixels, [3])
    assert map_.shape == (3, 3)
    assert map_.sum().item() == pytest.approx(1, abs=1e-5)
    assert (map_ >= 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rt", "deformable-two-stage", "lw", "conditional"])
def test_two_processes(kind: str, tmp_path: Path) -> None:
    """Also with batches without objects, and models of which a part gets no gradient."""
    make_shapes(tmp_path / "data", images=8, size=64, objects=2)
    change_annotations(tmp_path / "data", without_first_objects, "train")
    done = torchrun(
        "train", tmp_path / "data", "--weights", folder_of(kind), *QUICK, "--epochs", 2, "--batch-size", 1,
        "--out", tmp_path / "run", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    AutoModelForObjectDetection.from_pretrained(tmp_path / "run" / "last")


def test_transformers_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of("conditional")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises((UsageError, WeightsError), match=r"detrcli\[models\]"):
        load_checkpoint(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "to"),
    [(kind, to) for to, kinds in EXPORTS.items() for kind in kinds],
)
def test_exports(kind: str, to: str, data: Path, detr: Detr, tmp_path: Path) -> None:
    """Of a model whose proposals have different scores, so that all runtimes select the same."""
    network = AutoModelForObjectDetection.from_pretrained(folder_of(kind))
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() == 4:
                parameter.mul_(3)
            if "enc_score_head.weight" in name:
                parameter.mul_(50)
    network.save_pretrained(tmp_path / "lively")
    type(processor_of(kind))(size={"height": 96, "width": 96}).save_pretrained(tmp_path / "lively")
    out = f"model.{'onnx' if to == 'onnx' else 'xml'}"
    detr("export", tmp_path / "lively", "--format", to, "--out", out).ok()
    images = sorted((data / "val").iterdir())[:2]
    options = ("--threshold", 0, "--json", "--no-images", "--batch-size", 2)
    plain, exported = (
        detr("predict", *images, "--weights", weights, *options).json["images"]
        for weights in (tmp_path / "lively", out)
    )
    for pair in zip(plain, exported, strict=True):
        a, b = (sorted(detection["score"] for detection in image["detections"]) for image in pair)
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_evaluation(folder: Path, tmp_path: Path, name: str, detr: Detr) -> None:
    """The metrics are those of pycocotools for the predictions of transformers, image by image."""
    make_shapes(tmp_path / "data", images=30, size=96, objects=3)
    network, processor = AutoModelForObjectDetection.from_pretrained(folder).eval(), processor_of(name)
    ids = [1, 2, 3, 4, 5]

    def predict(image: Image.Image) -> Any:
        with torch.no_grad():
            output = network(processor(images=image, return_tensors="pt")["pixel_values"])
        size = [(image.height, image.width)]
        (answer,) = processor.post_process_object_detection(output, threshold=0.0, target_sizes=size)
        return box_pairs(answer["scores"], [ids[label] for label in answer["labels"]], answer["boxes"])

    truth, results = truth_of_predictions(tmp_path / "data", predict, every=4)
    assert [entry["id"] for entry in truth["categories"]] == ids
    assert [entry["name"] for entry in truth["categories"]] == list(network.config.id2label.values())
    expected = twelve(truth, results)
    shown = detr("eval", tmp_path / "data", "--weights", folder, "--json", "--device", "cpu").ok()
    assert expected["AR100"] > 0.05
    assert shown.json["metrics"] == pytest.approx(expected, abs=5e-3)
