"""Exports of the families of transformers: the file predicts as the plain model, alone and in batches."""

from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
from PIL import Image

import detrcli
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.shapes import scene
from detrcli.errors import UsageError
from detrcli.inference.detector import Detector
from detrcli.inference.export import RUNTIMES, export
from detrcli.resize import TargetSize

pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

CLOSED = [
    "rt", "rt-v2", "d-fine", "deim-v2", "lw", "rf", "conditional", "conditional-timm", "dab", "table", "yolos",
]  # fmt: skip
QUICK = [("onnx", "rf"), ("openvino", "yolos")]


def checkpoint_of(name: str) -> Checkpoint:
    checkpoint = load_checkpoint(str(families.folder_of(name)))
    if isinstance(checkpoint.preprocessing.resize, TargetSize):
        return checkpoint
    return checkpoint.resized(96, 500)  # such that the shorter side of extreme images has several cells


def images() -> list[Any]:
    """Two images of equal size, a wide and a tall image."""
    random, made = np.random.default_rng(0), []
    for number, size in enumerate([(160, 120), (160, 120), (200, 96), (90, 150)]):
        drawn = np.array(Image.fromarray(scene(3, number, 160).pixels).resize(size))
        made.append(Image.fromarray((drawn + random.integers(-16, 17, drawn.shape)).clip(0, 255).astype(np.uint8)))
    return made


@pytest.mark.parametrize(
    ("runtime", "name"),
    [
        pytest.param(runtime, name, marks=() if (runtime, name) in QUICK else pytest.mark.slow)
        for name in CLOSED
        for runtime in ("onnx", "openvino")
    ],
)
def test_a_family_predicts_as_the_plain_model(runtime: str, name: str, tmp_path: Path) -> None:
    path, checkpoint = tmp_path / f"model{RUNTIMES[runtime].suffix}", checkpoint_of(name)
    assert export(checkpoint, RUNTIMES[runtime], path) <= 1e-4
    expected = Detector(checkpoint, "cpu", engine="plain").predict(images(), 0.0)
    for batch_size in (1, 3):
        actual = detrcli.load(path).predict(images(), 0.0, batch_size)
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)
            # Detections with nearly equal scores may change places, the last with a pair that is left out.
            rows = [np.column_stack([d.boxes / 10, d.scores * 1e3, d.category_ids * 1e4]) for d in (a, b)]
            distances = np.abs(rows[0][:, None] - rows[1]).max(-1)  # (D, D)
            assert distances.min(1)[a.scores > a.scores[-1] + 1e-4].max(initial=0) < 0.1
            assert distances.min(0)[b.scores > b.scores[-1] + 1e-4].max(initial=0) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_another_size_than_that_of_the_file(runtime: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{RUNTIMES[runtime].suffix}"
    export(checkpoint_of("rf"), RUNTIMES[runtime], path)
    with pytest.raises(UsageError, match="64 x 64 pixels, not 96 x 96"):
        detrcli.load(path, size=96).predict(images()[0])
