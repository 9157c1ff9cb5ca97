"""Exports to TensorRT, Core ML, LiteRT and ExecuTorch."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from here import Detr
from small import TINY, small_weights, smooth_noise

import detrcli
from detrcli.checkpoints.load import load_checkpoint
from detrcli.checkpoints.registry import EXPORTS
from detrcli.errors import WeightsError
from detrcli.inference.detector import Detector
from detrcli.inference.export import RUNTIMES, Runtime, export, fixed_size
from detrcli.inference.graphs import simplify


def test_simplified_graphs() -> None:
    class Network(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            (whole,) = torch.split(x, [4], 1)
            inside = (whole > 0.2) & (whole < 0.8) | (whole > 0.9)
            return torch.where(inside, torch.ops.aten.alias(whole), 0)

    x = torch.rand(2, 4)
    program = torch.export.export(Network(), (x,))
    kept = {str(node.target) for node in simplify(program).graph.nodes}
    assert not any(name in target for target in kept for name in ("alias", "split", "__and__", "__or__"))
    assert torch.equal(program.module()(x), Network()(x))


def test_without_tensorrt_the_command_that_builds_the_engine(detr: Detr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    call = ("export", "shapes", "--format", "tensorrt", "--precision", "fp16", "--with-postprocessing")
    # Of images of 640 x 480, 1000 x 100 and 100 x 1000.
    shapes = "images:1x3x27x27,sizes:1x2", "images:1x3x160x213,sizes:1x2", "images:8x3x270x270,sizes:8x2"
    lines = [f"--{bound}Shapes={shape} " for bound, shape in zip(("min", "opt", "max"), shapes, strict=True)]
    detr(*call).fails(6, "detrcli[tensorrt]", "--format onnx", "--precision fp16", "trtexec", *lines)


@pytest.mark.parametrize("name", ["coreml", "litert", "executorch"])
def test_without_a_converter(name: str, detr: Detr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, RUNTIMES[name].packages[0], None)
    detr("export", "shapes", "--format", name).fails(6, f"pip install 'detrcli[{name}]'")


def test_a_converter_that_refuses_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> None:
        raise ValueError("no such operator\nrank 6")

    monkeypatch.setattr(Runtime, "module", lambda self: SimpleNamespace(write=write))
    with pytest.raises(WeightsError, match="rank 6"):
        export(small_weights(TINY), RUNTIMES["litert"], tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("postprocessing", [False, True])
@pytest.mark.parametrize("name", ["litert", "executorch", "coreml"])
def test_formats_for_phones(name: str, postprocessing: bool, tmp_path: Path) -> None:
    """They are compared with the plain model, whose images are stretched to one size, and used as weights."""
    for package in RUNTIMES[name].packages:
        pytest.importorskip(package)
    weights, path = "shapes-detr" if name == "coreml" else "shapes", tmp_path / f"model{EXPORTS[name]}"
    difference = detrcli.export(weights, path, name, with_postprocessing=postprocessing)
    if difference is not None:
        assert difference < 1e-4
    header = RUNTIMES[name].module().read_header(path)
    assert json.loads(header["preprocessing"])["resize"] == {"kind": "exact-size", "height": 160, "width": 213}
    if difference is not None and not postprocessing:
        image = smooth_noise(0, (200, 300))
        plain = Detector(fixed_size(load_checkpoint("shapes")), "cpu").predict(image, 0.01)
        found = detrcli.load(path).predict(image, 0.01)
        np.testing.assert_allclose(found.scores, plain.scores, atol=1e-4)
        np.testing.assert_allclose(found.boxes, plain.boxes, atol=0.05)
