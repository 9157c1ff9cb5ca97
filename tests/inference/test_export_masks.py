"""Exports of models with masks: detections, maps and metrics of the file are those of the plain model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import instance_masks
import mask_families
import numpy as np
import pytest
import torch
from here import Detr
from small import masked_weights
from test_export_families import images

import detrcli
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.load import load_checkpoint
from detrcli.errors import UsageError
from detrcli.inference import verification
from detrcli.inference.detector import Detector
from detrcli.inference.export import RUNTIMES, cached_export, export
from detrcli.model.masks import QueryMasks
from detrcli.segmentation.maps import MapRequest
from detrcli.structures import Prediction

pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def with_small_logits(checkpoint: Checkpoint) -> Checkpoint:
    """Scale mask logits, which are above 1000; float32 has errors of 1e-4 there, also in the plain model."""
    tensors = dict(checkpoint.tensors)
    for name in [name for name in tensors if "mask_embedder.2" in name]:
        tensors[name] = tensors[name] / 50
    return replace(checkpoint, tensors=tensors)


MODELS: dict[str, Callable[[], Any]] = {
    "detr": lambda: masked_weights().resized(96, 300),
    "rf": lambda: load_checkpoint(str(instance_masks.folder_of())),
    **{
        name: lambda name=name: load_checkpoint(str(mask_families.folder_of(name)))
        for name in (*mask_families.ENCODERS, "mask2former")
    },
    "maskformer": lambda: with_small_logits(load_checkpoint(str(mask_families.folder_of("maskformer")))),
}
QUICK = [("onnx", "eomt"), ("openvino", "eomt")]


def different_pixels(a: np.ndarray, b: np.ndarray) -> float:
    return float((a != b).mean())


@pytest.mark.parametrize(
    ("runtime", "name"),
    [
        pytest.param(runtime, name, marks=() if (runtime, name) in QUICK else pytest.mark.slow)
        for name in MODELS
        for runtime in ("onnx", "openvino")
    ],
)
def test_masks_and_maps_are_those_of_the_plain_model(runtime: str, name: str, tmp_path: Path) -> None:
    path, checkpoint = tmp_path / f"model{RUNTIMES[runtime].suffix}", MODELS[name]()
    assert export(checkpoint, RUNTIMES[runtime], path) <= 1e-4
    exported = detrcli.load(path)
    assert exported.has_masks
    # Mask2Former and MaskFormer are exported for images of one size.
    plain = Detector(replace(checkpoint, preprocessing=exported.preprocessing), "cpu", engine="plain")
    expected = plain.predict(images(), 0.0)
    assert any(0.02 < mask.mean() < 0.98 for d in expected if d.masks is not None for mask in d.masks)
    for batch_size in (1, 3):
        for a, b in zip(exported.predict(images(), 0.0, batch_size), expected, strict=True):
            assert len(a) == len(b) > 0
            assert a.masks is not None
            assert b.masks is not None
            # Detections with nearly equal scores may change places.
            rows = [np.column_stack([d.boxes / 10, d.scores * 1e3, d.category_ids * 1e4]) for d in (a, b)]
            distances = np.abs(rows[0][:, None] - rows[1]).max(-1)  # (D, D)
            masks = [list(d.masks) for d in (a, b)]
            for i, j in enumerate(distances.argmin(1)):
                assert distances[i, j] < 0.3 or a.scores[i] < a.scores[-1] + 1e-4
                assert different_pixels(masks[0][i], masks[1][j]) < 2e-3
    for kind in plain.segmentation.kinds:
        request = MapRequest(kind, threshold=0.3)
        for a, b in zip(*(d.stream(images(), maps=request) for d in (exported, plain)), strict=True):
            assert different_pixels(a.map.ids, b.map.ids) < 2e-3


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_metrics_of_the_shipped_model(runtime: str, detr: Detr, tmp_path: Path) -> None:
    out = tmp_path / f"model{RUNTIMES[runtime].suffix}"
    detr("export", "shapes-masks", "--format", runtime, "--out", out).ok()
    documents = [
        detr("eval", "shapes", "--weights", weights, "--limit", 8, "--json").ok().json
        for weights in ("shapes-masks", out)
    ]
    assert documents[0]["masks"]["AP"] > 0.5
    for kind in ("metrics", "masks"):
        assert documents[1][kind]["AP"] == pytest.approx(documents[0][kind]["AP"], abs=1e-3)


def changed(prediction: Prediction, order: torch.Tensor, difference: float = 0.0) -> Prediction:
    """Return queries in another order, with another logit for a pixel of the first mask."""
    logits = verification.mask_logits(prediction)[:, order]
    logits[0, 0, 0, 0] += difference
    masks = QueryMasks((8, 8), lambda i, q: logits[i, q])
    return Prediction(prediction.logits[:, order], prediction.boxes[:, order], masks)


def test_queries_that_change_places_are_compared_with_their_masks() -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 4, 4, generator=random)
    prediction = Prediction(
        torch.randn(2, 5, 4, generator=random), torch.rand(2, 5, 4, generator=random),
        QueryMasks((8, 8), lambda i, q: logits[i, q]),
    )  # fmt: skip
    order, checkpoint = torch.tensor([3, 1, 4, 0, 2]), masked_weights()
    assert verification.difference(changed(prediction, order), prediction, checkpoint) < 1e-6
    assert 0.005 < verification.difference(changed(prediction, order, 0.1), prediction, checkpoint) < 0.03
    assert not verification.difference(changed(prediction, order, float("nan")), prediction, checkpoint) < 1


def test_an_engine_does_not_stretch_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETR_CACHE", str(tmp_path))
    checkpoint: Checkpoint = MODELS["maskformer"]()
    with pytest.raises(UsageError, match="takes images of one size"):
        cached_export(checkpoint, RUNTIMES["onnx"], "fp32", detrcli.inference.export.SILENT)
