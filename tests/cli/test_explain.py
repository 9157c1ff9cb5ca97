"""`detr explain` shows every step of `detr predict`."""

import json
from pathlib import Path

import pytest
from browser import opened
from here import Detr
from PIL import Image
from small import small_weights

from detrcli.checkpoints.formats.native import save


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    save(small_weights(), tmp_path / "small.safetensors")
    Image.linear_gradient("L").resize((90, 60)).convert("RGB").save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_every_step_with_its_shape_and_the_best_predictions(detr: Detr, picture: Path) -> None:
    shown = detr("explain", picture, "--weights", "small.safetensors", "--device", "cpu")
    assert shown.code == 0, shown.err
    assert "90 x 60 pixels, resized to 96 x 64 for small.safetensors" in shown.out
    for step in ("image", "backbone", "projection", "position", "encoder", "decoder", "class head", "box head"):
        assert f"\n{step}" in shown.out
    assert "3 x 64 x 96" in shown.out
    assert "3 x 60 x 90" in shown.out
    document = detr("explain", picture, "--weights", "small.safetensors", "--json").json
    assert document["schema"] == "detr.explain/1"
    assert document["steps"][0]["shape"] == [3, 64, 96]
    assert document["steps"][0]["shape_at_own_size"] == [3, 60, 90]
    predicted = detr("predict", picture, "--weights", "small.safetensors", "--threshold", 0, "--no-images", "--json")
    detections = predicted.json["images"][0]["detections"]
    assert document["best"] == sorted(detections, key=lambda detection: -detection["score"])[:5]


@pytest.mark.parametrize("name", ["b.png", "none.png"])
def test_a_file_that_is_not_an_image(name: str, detr: Detr, picture: Path) -> None:
    (picture.parent / "b.png").write_text("not an image")
    shown = detr("explain", name, "--weights", "small.safetensors")
    assert (shown.code, shown.out) == (3, "")
    assert name in shown.err


@pytest.mark.parametrize("weights", ["shapes", "shapes-detr"])
@pytest.mark.slow
def test_as_a_page(weights: str, picture: Path, tmp_path: Path, detr: Detr) -> None:
    """Offline, with attention where the model has it, and every step of the table."""
    out = tmp_path / "way.html"
    shown = detr("explain", picture, "--weights", weights, "--html", out, "--json")
    assert shown.code == 0, shown.err
    steps = [step["step"] for step in json.loads(shown.out)["steps"]]
    with opened(out, width=420) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 420
        text = page.inner_text("body")
        assert "A picture is numbers" in text
        assert all(step in text for step in steps)
        assert ("Every cell asks the others" in text) == (weights == "shapes-detr")
        assert page.locator("img").count() >= 5
        assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")
    for existing in (out, tmp_path / "a.txt"):
        assert detr("explain", picture, "--weights", weights, "--html", existing).code == 2
