"""The page shows the same colours as the figures, and every control changes them."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from browser import opened
from PIL import Image

from detrcli.render.attention_figure import overlay
from detrcli.render.attention_page import LONGEST, Answer, write_attention_page
from detrcli.resize import Letterbox, Placement

EVIL = "</script><img src=x>\x1b"
QUERIES, LAYERS, HEADS, CELLS = [7, 2], 3, 2, (5, 8)


def random_maps() -> np.ndarray:
    maps = np.random.default_rng(0).random((LAYERS, len(QUERIES), 1 + HEADS, *CELLS)).astype(np.float32) ** 4
    return maps / maps.sum((-2, -1), keepdims=True)


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (60, 90, 3), dtype=np.uint8))


@pytest.fixture(params=[None, Letterbox(64, 128)], ids=["whole", "letterbox"])
def placement(request: pytest.FixtureRequest) -> Placement | None:
    return None if request.param is None else request.param.place(60, 90)


@pytest.fixture
def page(tmp_path: Path, picture: Image.Image, placement: Placement | None) -> Path:
    answers = [
        [Answer(f"{EVIL} {layer}", 3, (10 + layer, 10, 40 + 20 * i, 40)) for layer in range(LAYERS)]
        for i in range(len(QUERIES))
    ]
    write_attention_page(tmp_path / "a.html", EVIL, picture, QUERIES, answers, random_maps(), placement)
    return tmp_path / "a.html"


def test_every_control_changes_the_canvas_to_what_the_figure_shows(
    page: Path, picture: Image.Image, placement: Placement | None
) -> None:
    maps = random_maps()
    large = picture.resize((LONGEST, LONGEST * 2 // 3), Image.Resampling.BICUBIC)
    with opened(page) as shown:
        shown.wait_for_selector("body[data-ready=yes]")

        def seen() -> np.ndarray:
            url = shown.evaluate("document.getElementById('canvas').toDataURL()")
            data = base64.b64decode(url.split(",")[1])
            return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)

        def expect(query: int, layer: int, head: int) -> None:
            wanted = np.asarray(overlay(large, maps[layer, query, head], placement)).astype(int)
            difference = np.abs(seen() - wanted)
            # A map is sent in 256 steps, so that a pixel can have the next colour of the scale.
            assert difference.max() <= 8
            assert difference.mean() < 1

        with_box = seen()
        shown.uncheck("#box")
        assert np.abs(seen() - with_box).max() > 30
        expect(0, LAYERS - 1, 0)
        shown.select_option("#query", index=1)
        expect(1, LAYERS - 1, 0)
        shown.evaluate("const l = document.getElementById('layer'); l.value = 0; l.oninput()")
        expect(1, 0, 0)
        shown.select_option("#head", index=2)
        expect(1, 0, 2)
        assert shown.inner_text("#layername") == "0"
        assert f"{100 * maps[0, 1, 2].max():.2g}"[:3] in shown.inner_text("#most")
        # What names from files hold stays text.
        assert shown.inner_text("#said") == "query 2: </script><img src=x>\\x1b 0"
        # A click: query 7 has the smaller box; only query 2 reaches further right.
        width, height = (
            shown.evaluate(f"document.getElementById('canvas').client{side}") for side in ("Width", "Height")
        )
        shown.click("#canvas", position={"x": width * 25 / 90, "y": height * 20 / 60})
        assert shown.inner_text("#said").startswith("query 7:")
        shown.click("#canvas", position={"x": width * 50 / 90, "y": height * 20 / 60})
        assert shown.inner_text("#said").startswith("query 2:")
