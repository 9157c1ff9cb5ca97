"""Masks over a picture: the fill lets the picture through, the outline is thin, the rest is untouched."""

import numpy as np
from detrcli.render.overlay import EDGE, FILL, overlay, shrunk
from PIL import Image

from detrcli.render.draw import draw_detections
from detrcli.run_lengths import MaskRows
from detrcli.structures import Detections

RED = (200, 0, 0)


def disc(height: int, width: int, x: int, y: int, radius: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def test_shrunk_by_its_edge() -> None:
    mask = np.zeros((9, 9), dtype=bool)
    mask[1:8, 2:8] = True
    expected = np.zeros((9, 9), dtype=bool)
    expected[3:6, 4:6] = True
    assert np.array_equal(shrunk(mask, 2), expected)
    assert not shrunk(np.ones((4, 4), dtype=bool), 2).any()


def test_fill_outline_and_the_rest() -> None:
    picture = np.full((100, 140, 3), 100, np.uint8)
    mask = disc(100, 140, 60, 50, 30)
    shown = np.asarray(overlay(picture, [(mask, RED), (np.zeros_like(mask), RED)]))
    assert np.array_equal(shown[~mask], picture[~mask])
    assert shown[50, 60].tolist() == [round(100 + FILL * 100), round(100 - FILL * 100), round(100 - FILL * 100)]
    assert shown[50, 30].tolist() == [round(100 + EDGE * 100), round(100 - EDGE * 100), round(100 - EDGE * 100)]
    edge = (shown[..., 0] == round(100 + EDGE * 100)).sum()
    assert 0.5 < edge / (2 * np.pi * 30) < 2  # about a pixel wide


def test_detections_with_masks_have_no_frames() -> None:
    mask = disc(200, 300, 100, 100, 40)
    found = Detections(
        np.array([[60.0, 60, 141, 141]], dtype=np.float32),
        np.array([0.9], dtype=np.float32),
        np.array([1]), np.array([0]), np.array(["disc"]),
        masks=MaskRows.of([mask], (200, 300)),
    )  # fmt: skip
    drawn = np.asarray(draw_detections(Image.new("RGB", (300, 200), (90, 90, 90)), found))
    assert (drawn[139, 60:70] == 90).all()  # a corner of its box
    assert (drawn[100, 100] != 90).any()
    assert (drawn[:60] != 90).any()  # its label
