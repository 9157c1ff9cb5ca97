"""Detections with the files of RT-DETR, RT-DETRv2, D-FINE, DEIM and LW-DETR, by `detr predict` and by transformers."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from here import Detr, all_detections
from originals import MODELS, check_detections, original_names, photo, randomize, saved, zeros
from PIL import Image
from torch import Tensor, nn

transformers = pytest.importorskip("transformers")
# Rounding depends on the number of threads, and tokens of nearly equal scores can change places by it.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]
SIZE = {"height": 640, "width": 640}
FORMS = ("published", "model", "training")
DEIM = {"deim_hgnetv2_n_coco.pth": "dfine_n_coco.pth", "deim_hgnetv2_s_coco.pth": "dfine_s_coco.pth"}
# Files that a model of transformers has more layers than: the repositories evaluate the third of six decoder layers.
EVALUATED_EARLIER = ("rtdetr_r50vd_m.pth", "rtdetrv2_r50vd_m.pth")


def network_of(file: str, **changes: Any) -> Any:
    """Return transformers' network for a file, with DEIM's activations if it is one."""
    model_type, facts, _ = MODELS[DEIM.get(file, file)]
    if file in DEIM:
        changes["decoder_activation_function"] = "silu"
    config = transformers.AutoConfig.for_model(model_type, **{**facts, **changes})
    network = randomize(transformers.AutoModelForObjectDetection.from_config(config))
    for module in network.modules() if file in DEIM else ():
        if type(module).__name__ == "DFineMLP" and isinstance(module.act, nn.ReLU):
            module.act = nn.SiLU()
        if type(module).__name__ == "DFineMLPPredictionHead":
            parts = [part for layer in module.layers for part in (layer, nn.SiLU())]
            module.forward = nn.Sequential(*parts[:-1]).forward
    return network


def content_of(file: str, tensors: Mapping[str, Tensor], form: str) -> dict[str, Any]:
    """Return a checkpoint: as published, with the weights alone, or of a training, with averaged weights."""
    if form == "model":
        return {"model": tensors}
    if MODELS[DEIM.get(file, file)][0] == "lw_detr":  # published as in training
        args = argparse.Namespace(lr=1e-4, dataset_file="coco", out_feature_indexes=[2, 4, 5, 9])
        rest = {"optimizer": {"state": {}, "param_groups": []}, "lr_scheduler": {}, "epoch": 59, "args": args}
        return {"model": zeros(tensors), "ema_model": tensors, **rest}
    averaged = {"ema": {"module": tensors, "updates": 72_000, "warmups": 1000}}
    if form == "published":
        return averaged
    rest = {"optimizer": {"state": {}, "param_groups": []}, "lr_scheduler": {}, "date": "2025-01-01", "last_epoch": 71}
    return {"model": zeros(tensors), **averaged, **rest}


def processor_of(file: str) -> Any:
    if file.startswith("LWDETR"):
        return transformers.DeformableDetrImageProcessor(size=SIZE)
    return transformers.RTDetrImageProcessor(size=SIZE)


@torch.no_grad()
def detections(network: Any, processor: Any, image: Path, count: int) -> Any:
    """Return the boxes, scores and class indices of the best pairs of query and class."""
    with Image.open(image) as opened:
        output = network.eval()(processor(images=opened, return_tensors="pt")["pixel_values"])
        width, height = opened.size
    scores, indices = output.logits[0].sigmoid().flatten().topk(count)
    queries, labels = indices // output.logits.shape[-1], indices % output.logits.shape[-1]
    x, y, w, h = output.pred_boxes[0][queries].unbind(1)
    boxes = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1) * torch.tensor([width, height] * 2)
    return boxes.numpy(), scores.numpy(), labels.numpy(), None


@pytest.mark.slow
@pytest.mark.parametrize("file", [*MODELS, *DEIM])
def test_detections_are_those_of_transformers(file: str, tmp_path: Path, detr: Detr) -> None:
    """With `detr predict`, and in transformers after `detr convert`, which has no DEIM."""
    network, form = network_of(file), FORMS[[*MODELS, *DEIM].index(file) % 3]
    trained = network
    if file in EVALUATED_EARLIER:
        trained = network_of(file, decoder_layers=6)
        network.load_state_dict(trained.state_dict(), strict=False)
    tensors = original_names(trained, MODELS[DEIM.get(file, file)][2])
    path, image = saved(tmp_path / file, content_of(file, tensors, form)), photo(tmp_path / "photo.png")
    # The random weights of the widest model amplify the rounding of the fast engine, to 0.13 pixels.
    ours = all_detections(detr, image, path, "--engine", "plain" if file == "LWDETR_xlarge.pth" else "fast")
    count = 100 if file == "LWDETR_tiny.pth" else 300
    assert len(ours) == count
    expected = detections(network, processor_of(file), image, count)
    check_detections(ours, expected)
    if file in DEIM:
        detr("convert", path, "folder").fails(2, "SiLU")
        return
    detr("convert", path, "folder").ok()
    converted = transformers.AutoModelForObjectDetection.from_pretrained(tmp_path / "folder")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "folder")
    boxes, scores, ids, _ = detections(converted, processor, image, count)
    entries = [
        {"box": box.tolist(), "score": float(score), "category_id": int(id_)}
        for box, score, id_ in zip(boxes, scores, ids, strict=True)
    ]
    check_detections(entries, expected)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["dfine_n_coco.pth", "deim_hgnetv2_n_coco.pth"])
def test_training_from_a_file(file: str, data: Path, tmp_path: Path, detr: Detr) -> None:
    """It resumes, and is reported."""
    tensors = original_names(network_of(file), MODELS["dfine_n_coco.pth"][2])
    path = saved(tmp_path / file, content_of(file, tensors, "training"))
    command = ("train", data, "--weights", path, "--out", "run", "--epochs", 1, "--size", 256)
    detr(*command, "--batch-size", 6, "--set", "workers=0").ok()
    detr("train", "--resume", "run", "--epochs", 2).ok()
    detr("report", "run", "--out", "report").ok()
