"""Exported models in programs without this package."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from documents import fenced
from PIL import Image
from small import CONFIG, TINY, small_weights

import detrcli
from detrcli.data.make import make_shapes
from detrcli.guide import page
from detrcli.inference.description import describe
from detrcli.resize import BoundedEdges, ExactSize, FitInside, RaisedEdges, Resize, ScaledEdges, ShortestEdge

RULES = [
    ShortestEdge(),
    ShortestEdge(160, 266, 8),
    BoundedEdges(),
    BoundedEdges(512, 864, 16),
    RaisedEdges(800, 1333, 32),
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


def test_the_description_of_scoring() -> None:
    shapes = {"images": ["batch", 3, "height", "width"], "boxes": ["batch", 9, 4]}
    softmax = describe(small_weights(CONFIG), {**shapes, "logits": ["batch", 9, 4]})
    assert softmax["scoring"] == {"function": "softmax", "no_object": 3, "select": "queries", "count": 9}
    assert softmax["classes"][2] == {"id": 4_000_000_007, "name": "Żubr"}
    sigmoid = describe(small_weights(TINY), {**shapes, "logits": ["batch", 9, 3]})
    assert softmax["scoring"] != sigmoid["scoring"]
    assert json.loads(json.dumps(sigmoid)) == sigmoid


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("deploy") / "model.onnx"
    detrcli.export("shapes", path, "onnx")
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
