"""`detr explain`."""

import json
from pathlib import Path

import pytest
from browser import opened
from here import Detr, all_detections
from PIL import Image
from small import small_weights

from detrcli.checkpoints.formats.native import save


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    save(small_weights(), tmp_path / "small.safetensors")
    Image.linear_gradient("L").resize((90, 60)).convert("RGB").save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_steps_with_shapes_and_the_best_queries(detr: Detr, picture: Path) -> None:
    shown = detr("explain", picture, "--weights", "small.safetensors", "--device", "cpu").ok()
    assert "90 x 60 pixels, resized to 96 x 64 for small.safetensors" in shown.out
    for step in ("image", "backbone", "projection", "position", "encoder", "decoder", "class head", "box head"):
        assert f"\n{step}" in shown.out
    assert "3 x 64 x 96" in shown.out
    assert "3 x 60 x 90" in shown.out
    document = detr("explain", picture, "--weights", "small.safetensors", "--json").json
    assert document["schema"] == "detr.explain/1"
    assert document["steps"][0]["shape"] == [3, 64, 96]
    assert document["steps"][0]["shape_at_own_size"] == [3, 60, 90]
    best = sorted(all_detections(detr, picture, "small.safetensors"), key=lambda item: -item["score"])[:5]
    assert document["best"] == best


@pytest.mark.parametrize("weights", ["shapes", "shapes-detr"])
@pytest.mark.slow
def test_page(weights: str, picture: Path, tmp_path: Path, detr: Detr) -> None:
    """The page works offline and contains each step of the table, and attention if the model supports it."""
    out = tmp_path / "way.html"
    shown = detr("explain", picture, "--weights", weights, "--html", out, "--json").ok()
    steps = [step["step"] for step in json.loads(shown.out)["steps"]]
    with opened(out, width=420) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 420
        text = page.inner_text("body")
        assert "The image as numbers" in text
        assert all(step in text for step in steps)
        assert ("Encoder self-attention" in text) == (weights == "shapes-detr")
        pictures = page.locator("img").count()
        assert pictures >= 5
        assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")
    assert detr("explain", picture, "--weights", weights, "--html", out).code == 2  # it exists
