"""Exported models in programs without this package."""

import base64
import contextlib
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import opened, served
from deploy import detect
from documents import ROOT, fenced
from here import Detr
from PIL import Image
from small import CONFIG, TINY, small_weights, smooth_noise

import detrcli
from detrcli.architectures.adapters.architecture import BestPhrase
from detrcli.architectures.adapters.mask_classifiers import PairsOfSoftmax
from detrcli.boxes import clip_boxes
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.config import Preprocessing
from detrcli.data.make import make_shapes
from detrcli.data.preprocessing import prepare
from detrcli.guide import page
from detrcli.inference.description import describe
from detrcli.inference.detector import detections
from detrcli.inference.postprocessing import WithPostprocessing
from detrcli.inference.verification import detection_difference
from detrcli.losses.scoring import Scoring, Sigmoid, Softmax
from detrcli.resize import (
    BoundedEdges,
    ExactSize,
    FitInside,
    PaddedEdges,
    RaisedEdges,
    Resize,
    ScaledEdges,
    ShortestEdge,
)
from detrcli.structures import Prediction

DEPLOY = ROOT / "examples" / "deploy"
RULES = [
    ShortestEdge(),
    ShortestEdge(160, 266, 8),
    BoundedEdges(),
    BoundedEdges(512, 864, 16),
    RaisedEdges(800, 1333, 32),
    PaddedEdges(640, 640),
    ScaledEdges(),
    ExactSize(384, 512),
    FitInside(512, 640),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_formula_of_a_resizing_rule(rule: Resize) -> None:
    sizes = np.random.default_rng(0).integers(1, 3000, (2000, 2)).tolist()
    for height, width in [*sizes, (1, 3000), (3000, 1), (480, 640), (800, 1333), (427, 640)]:
        names = {**rule.facts(), "image_height": height, "image_width": width}
        exec("\n".join(rule.formula), {}, names)
        placement = rule.place(height, width)
        assert (names["input_height"], names["input_width"]) == (placement.height, placement.width), (height, width)


def test_every_rule_has_a_formula() -> None:
    assert all(rule.formula for rule in Resize._kinds.values() if rule.__module__ == "detrcli.resize")


def description(checkpoint: Checkpoint, logits: int) -> dict[str, Any]:
    outputs = {"logits": ["batch", 9, logits], "boxes": ["batch", 9, 4]}
    return describe(checkpoint, {"images": ["batch", 3, "height", "width"]}, outputs)


def test_the_description_of_scoring() -> None:
    softmax = description(small_weights(CONFIG), 4)
    assert softmax["scoring"] == {"function": "softmax", "no_object": 3, "select": "queries", "count": 9}
    assert softmax["classes"][2] == {"id": 4_000_000_007, "name": "Żubr"}
    sigmoid = description(small_weights(TINY), 3)
    assert softmax["scoring"] != sigmoid["scoring"]
    assert json.loads(json.dumps(sigmoid)) == sigmoid


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("deploy") / "model.onnx"
    detrcli.export("shapes", path, "onnx")
    return path


@pytest.fixture(scope="module")
def model_with_postprocessing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("deploy") / "model.onnx"
    assert detrcli.export("shapes", path, "onnx", with_postprocessing=True) < 1e-4
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images of several shapes, among them a wide one whose longer side is limited."""
    folder = tmp_path_factory.mktemp("images")
    make_shapes(folder, images=4, size=160)
    several = [Image.open(path).convert("RGB") for path in sorted(folder.glob("train/*.png"))]
    wide = Image.new("RGB", (480, 160))
    for i, image in enumerate(several[:3]):
        wide.paste(image, (160 * i, 0))
    paths = [folder / f"{name}.png" for name in ("square", "landscape", "portrait", "wide")]
    for path, image, size in zip(
        paths, (*several[:3], wide), ((160, 160), (301, 200), (187, 333), (480, 160)), strict=True
    ):
        image.resize(size).save(path)
    return paths


def agree(path: Path, found: list[tuple[str, float, list[float]]], pixels: float = 0.05) -> None:
    """Detections of an image, as (name, score, box), are those of `shapes` with the default threshold."""
    expected = detrcli.load("shapes", "cpu").predict(path)
    assert len(expected) == len(found) > 0
    names, scores, boxes = zip(*sorted(found, key=lambda detection: -detection[1]), strict=True)
    assert list(names) == expected.labels.tolist()
    np.testing.assert_allclose(scores, expected.scores, atol=1e-3)
    np.testing.assert_allclose(boxes, expected.boxes, atol=pixels)


@pytest.mark.slow
def test_the_lines_of_the_guide(
    model: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They print what `detr predict` finds with the plain model."""
    code = fenced(page("deploy"), "python")[0]
    (tmp_path / "model.onnx").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    for path in images:
        (tmp_path / "img.jpg").write_bytes(path.read_bytes())
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            exec(compile(code, "guide", "exec"), {})
        lines = [line.split(maxsplit=2) for line in shown.getvalue().splitlines()]
        agree(path, [(name, float(score), json.loads(box)) for name, score, box in lines])


PREPROCESSING = [
    Preprocessing(ShortestEdge(160, 266)),
    Preprocessing(BoundedEdges(100, 150, 16), "bicubic", backend="torchvision"),
    Preprocessing(RaisedEdges(100, 150, 32), backend="torchvision"),
    Preprocessing(ExactSize(96, 128), antialias=False, rescale_first=True, backend="torchvision", mean=(0.0,) * 3),
    Preprocessing(ExactSize(640, 320), antialias=False, rescale_first=True, backend="torchvision"),
    Preprocessing(FitInside(96, 128), backend="torchvision", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
]


def changed(checkpoint: Checkpoint, preprocessing: Preprocessing) -> dict[str, Any]:
    return description(replace(checkpoint, preprocessing=preprocessing), 4)


def tolerance_of(preprocessing: Preprocessing, spec: dict[str, Any]) -> float:
    """Return the largest difference of an input: that of two gray levels where torchvision computes them."""
    whole_levels = spec["resize"]["implementation"] == "torchvision" and spec["resize"]["values"] == "uint8"
    return 1e-5 + (2.01 / 255 / min(preprocessing.std) if whole_levels else 0.0)


@pytest.mark.parametrize("preprocessing", PREPROCESSING, ids=lambda p: p.resize.kind)
def test_preprocessing_without_torch(preprocessing: Preprocessing) -> None:
    """The example follows the description of every preprocessing; torchvision's gray levels may differ by 2."""
    spec = changed(small_weights(), preprocessing)["input"]
    for size in ((133, 240), (300, 201), (1, 700), (160, 160)):
        image = smooth_noise(0, size)
        expected = prepare(image, preprocessing)[None].numpy()
        np.testing.assert_allclose(
            detect.preprocess(image, spec), expected, rtol=0, atol=tolerance_of(preprocessing, spec)
        )


@pytest.mark.parametrize("scoring", [Softmax(), Sigmoid(20), PairsOfSoftmax(), BestPhrase()], ids=lambda s: s.name)
def test_detections_without_torch(scoring: Scoring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(small_weights()), "scoring", scoring)
    model = changed(small_weights(), Preprocessing())
    random = torch.Generator().manual_seed(0)
    classes = scoring.num_logits(3)
    logits, boxes = torch.randn(1, 9, classes, generator=random) * 3, torch.rand(1, 9, 4, generator=random)
    (expected,) = detections(
        Prediction(logits, boxes), [(40, 60)], small_weights().classes, scoring, Preprocessing(), 1e-9
    )
    names, scores, corners = zip(*detect.detect(logits[0].numpy(), boxes[0].numpy(), model, (60, 40)), strict=True)
    assert list(names) == expected.labels.tolist()
    np.testing.assert_allclose(scores, expected.scores, rtol=1e-5)
    np.testing.assert_allclose(corners, expected.boxes, atol=1e-3)


@pytest.mark.slow
def test_the_program_without_torch(
    model: Path, model_with_postprocessing: Path, images: list[Path], tmp_path: Path
) -> None:
    """It runs in a process that cannot import torch or this package."""
    (tmp_path / "torch.py").write_text("raise ImportError")
    for path in images:
        command = [sys.executable, DEPLOY / "detect.py", model, path, "--out", tmp_path / "out.png"]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        shown = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout
        lines = [line.split("\t") for line in shown.splitlines()]
        agree(path, [(name, float(score), [float(side) for side in box]) for name, score, *box in lines])
    other = [sys.executable, DEPLOY / "detect.py", model_with_postprocessing, images[0]]
    refused = subprocess.run(other, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "postprocessing" in refused.stderr
    assert "Traceback" not in refused.stderr
    with Image.open(tmp_path / "out.png") as drawn, Image.open(images[-1]) as image:
        assert drawn.size == image.size


NODE = """
import { readFileSync } from "node:fs";
import { preprocess } from %r;
const cases = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(cases.map(({ spec, width, height, rgba }) => {
  const { input, size } = preprocess({ width, height, data: new Uint8ClampedArray(Buffer.from(rgba, "base64")) }, spec);
  return { size, input: Buffer.from(input.buffer).toString("base64") };
})));
"""


def test_preprocessing_in_javascript() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node")
    specs = [changed(small_weights(), preprocessing)["input"] for preprocessing in PREPROCESSING]
    images = [smooth_noise(1, size) for size in ((133, 240), (300, 201), (1, 70), (160, 160))]
    pairs = list(itertools.product(images, zip(PREPROCESSING, specs, strict=True)))
    cases = [
        {
            "spec": spec,
            "width": image.width,
            "height": image.height,
            "rgba": base64.b64encode(image.convert("RGBA").tobytes()).decode(),
        }
        for image, (_, spec) in pairs
    ]
    script = NODE % (DEPLOY / "detect.js").as_uri()
    command = [node, "--input-type=module", "--eval", script]
    shown = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, check=True)
    for result, (image, (preprocessing, spec)) in zip(json.loads(shown.stdout), pairs, strict=True):
        expected = prepare(image, preprocessing).numpy()
        assert result["size"] == list(expected.shape[:0:-1])
        values = np.frombuffer(base64.b64decode(result["input"]), np.float32).reshape(expected.shape)
        np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance_of(preprocessing, spec))


def runtime_for_browsers(folder: Path) -> None:
    """Download onnxruntime-web by npm, and unpack what the page loads."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm")
    packed = subprocess.run([npm, "pack", "onnxruntime-web@1.30.0"], cwd=folder, capture_output=True, text=True)
    if packed.returncode:
        pytest.skip("onnxruntime-web cannot be downloaded")
    (folder / "ort").mkdir()
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        for name in ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"):
            content = archive.extractfile(f"package/dist/{name}")
            assert content is not None
            (folder / "ort" / name).write_bytes(content.read())


@pytest.mark.slow
def test_the_page_detects_in_a_browser(
    model_with_postprocessing: Path, model: Path, images: list[Path], tmp_path: Path
) -> None:
    runtime_for_browsers(tmp_path)
    for file in (DEPLOY / "index.html", DEPLOY / "detect.js", model_with_postprocessing):
        shutil.copy(file, tmp_path)
    shutil.copy(model, tmp_path / "plain.onnx")
    with served(tmp_path) as address, opened(f"{address}/index.html?ort=ort/", width=420, folder=True) as page:
        page.wait_for_function("document.querySelector('#status').textContent.includes('ready')")
        for path in images:
            page.evaluate("window.detections = null")
            page.set_input_files("#image", path)
            page.wait_for_function("window.detections")
            found = page.evaluate("window.detections")
            agree(path, [(one["label"], one["score"], one["box"]) for one in found], pixels=1)
            assert page.locator("rect.box").count() == page.locator("tbody tr").count() == len(found)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.locator("#threshold").fill("0.95")
        assert page.locator("tbody tr").count() == sum(one["score"] >= 0.95 for one in found)
        page.set_input_files("#model", tmp_path / "plain.onnx")
        page.wait_for_selector("#status.error")
        assert "--with-postprocessing" in page.text_content("#status")


class Fixed(torch.nn.Module):
    """A network with these outputs."""

    def __init__(self, logits: torch.Tensor, boxes: torch.Tensor) -> None:
        super().__init__()
        self.outputs = logits, boxes

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.outputs


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("scoring", [Softmax(), Sigmoid(20), PairsOfSoftmax()], ids=lambda s: s.name)
def test_postprocessing_in_the_graph(scoring: Scoring, clip: bool) -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 9, scoring.num_logits(3), generator=random) * 3
    boxes, sizes = torch.rand(2, 9, 4, generator=random), [(40, 60), (123, 77)]
    network = WithPostprocessing(Fixed(logits, boxes), scoring, clip=clip)
    outputs = network(torch.zeros(2, 3, 8, 8), torch.tensor(sizes, dtype=torch.float32))
    expected = detections(
        Prediction(logits, boxes), sizes, small_weights().classes, scoring, Preprocessing(), threshold=1e-9
    )
    for *found, wanted, size in zip(*outputs, expected, sizes, strict=True):
        corners = clip_boxes(torch.from_numpy(wanted.boxes), *size).numpy() if clip else wanted.boxes
        np.testing.assert_allclose(found[0], corners, atol=1e-4)
        np.testing.assert_allclose(found[1], wanted.scores)
        assert small_weights().classes.ids[found[2]].tolist() == wanted.category_ids.tolist()


def test_differences_of_detections() -> None:
    """Equal scores may change places; the last detections may differ; labels and boxes may not."""
    logits = torch.tensor([[[2.0, -1], [2, -3], [-3, -2]]])
    boxes = torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(0))
    sizes, checkpoint = [(40, 60)], small_weights(replace(TINY, queries=3))
    scoring = checkpoint.scoring
    network = WithPostprocessing(Fixed(logits, boxes), scoring, clip=False)
    outputs = [output.numpy() for output in network(torch.zeros(1), torch.tensor(sizes, dtype=torch.float32))]

    def difference(change: Callable[[Any, Any, Any], object]) -> float:
        arrays = [array.copy() for array in outputs]
        change(*arrays)
        return detection_difference(arrays, Prediction(logits, boxes), sizes, checkpoint)

    def swap(*arrays: Any) -> None:
        for array in arrays:
            array[0, [0, 1]] = array[0, [1, 0]]

    assert difference(lambda *_: None) < 1e-6
    assert difference(swap) < 1e-6
    assert difference(lambda boxes, *_: boxes[0, 0].__iadd__(6)) == pytest.approx(0.15, abs=1e-5)
    assert difference(lambda boxes, scores, labels: labels[0].__setitem__(0, 1)) > 0.5
    assert difference(lambda boxes, scores, labels: boxes[0, -1].__iadd__(6)) < 1e-6
    assert np.isnan(difference(lambda boxes, *_: boxes.__setitem__((0, 0, 0), np.nan)))


@pytest.mark.slow
def test_a_file_with_postprocessing_is_for_other_programs(
    model_with_postprocessing: Path, images: list[Path], detr: Detr
) -> None:
    detr("predict", images[0], "--weights", model_with_postprocessing).fails(2, str(model_with_postprocessing))
    session = pytest.importorskip("onnxruntime").InferenceSession(model_with_postprocessing)
    document = json.loads(session.get_modelmeta().custom_metadata_map["detector"])
    ports = [*session.get_inputs(), *session.get_outputs()]
    described = {"images": document["input"], "sizes": document["sizes"], **document["outputs"]}
    assert [port.name for port in ports] == ["images", "sizes", "boxes", "scores", "labels"]
    for port in ports:
        assert port.shape == described[port.name]["shape"]
        assert port.type == {"float32": "tensor(float)", "int32": "tensor(int32)"}[described[port.name]["type"]]
