"""Exports of the families of transformers: the file predicts as the plain model, alone and in batches."""

import itertools
from pathlib import Path
from typing import Any

import families
import numpy as np
import phrases
import pytest
import torch
from PIL import Image

import detrcli
from detrcli import guide
from detrcli.architectures.adapters.families import FAMILIES, OPEN_VOCABULARY
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.shapes import scene
from detrcli.errors import UsageError
from detrcli.inference import tracing
from detrcli.inference.detector import Detector
from detrcli.inference.export import RUNTIMES, export
from detrcli.resize import TargetSize

pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

EXPORTED = {
    "deformable_detr": "deformable", "conditional_detr": "conditional", "dab-detr": "dab",
    "table-transformer": "table", "rt_detr": "rt", "rt_detr_v2": "rt-v2", "d_fine": "d-fine", "deimv2": "deim-v2",
    "lw_detr": "lw", "rf_detr": "rf", "yolos": "yolos", "owlv2": "owlv2", "owlvit": "owlvit",
}  # fmt: skip
QUICK = [("onnx", "owlvit"), ("openvino", "yolos")]


def checkpoint_of(name: str) -> Checkpoint:
    if phrases.are_taken_by(name):
        checkpoint = load_checkpoint(str(phrases.folder_of(name)), phrases=phrases.PHRASES)
    else:
        checkpoint = load_checkpoint(str(families.folder_of(name)))
    if isinstance(checkpoint.preprocessing.resize, TargetSize):
        return checkpoint
    return checkpoint.resized(96, 500)  # such that the shorter side of extreme images has several cells


def test_the_guide_names_the_exported_families() -> None:
    """Each "yes" in the table stands for a test below."""
    rows = [line.split("|")[1:-1] for line in guide.page("families").splitlines() if line.count("|") == 6]
    table = {kind.strip(" `"): export.strip() for _, kind, _, _, export in rows}
    detectors = FAMILIES.keys() | OPEN_VOCABULARY.keys()
    assert table.keys() >= detectors
    assert {kind for kind in detectors if table[kind].startswith("yes")} == EXPORTED.keys()
    assert all(table[kind] != "no" for kind in detectors)


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
        for runtime, name in [
            *itertools.product(("onnx", "openvino"), EXPORTED.values()),
            ("openvino", "deformable-two-stage"),
            ("openvino", "mm-grounding"),
        ]
    ],
)
def test_a_family_predicts_as_the_plain_model(runtime: str, name: str, tmp_path: Path) -> None:
    path, checkpoint = tmp_path / f"model{RUNTIMES[runtime].suffix}", checkpoint_of(name)
    assert export(checkpoint, RUNTIMES[runtime], path) <= 1e-4
    expected = Detector(checkpoint, "cpu", engine="plain").predict(images(), 0.0)
    for batch_size in (1, 3):
        exported = detrcli.load(path)
        assert exported.classes.names.tolist() == checkpoint.classes.names.tolist()
        actual = exported.predict(images(), 0.0, batch_size)
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)
            # Detections with nearly equal scores may change places, the last with a pair that is left out, and
            # proposals of nearly equal scores too, which changes the detections of a query.
            rows = [np.column_stack([d.boxes / 10, d.scores * 1e3, d.category_ids * 1e4]) for d in (a, b)]
            distances = np.abs(rows[0][:, None] - rows[1]).max(-1)  # (D, D)
            assert (distances.min(1)[a.scores > a.scores[-1] + 1e-4] > 0.1).sum() <= 0.05 * len(a)
            assert (distances.min(0)[b.scores > b.scores[-1] + 1e-4] > 0.1).sum() <= 0.05 * len(b)


def test_replaced_operators_compute_the_same() -> None:
    rows = torch.randint(-5, 50, (4, 9), generator=torch.Generator().manual_seed(0))
    for operator in (torch.cummax, torch.cummin):
        with tracing._Replacements():
            replaced = operator(rows, dim=1)[0]
        assert torch.equal(replaced, operator(rows, dim=1)[0])


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_another_size_than_that_of_the_file(runtime: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{RUNTIMES[runtime].suffix}"
    export(checkpoint_of("rf"), RUNTIMES[runtime], path)
    with pytest.raises(UsageError, match="64 x 64 pixels, not 96 x 96"):
        detrcli.load(path, size=96).predict(images()[0])
