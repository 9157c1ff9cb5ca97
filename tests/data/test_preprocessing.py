"""Sizes by the published formula, and the network's input."""

import numpy as np
import pytest
import torch
from cases import counted
from golden_rules import GOLDEN
from hypothesis import strategies as st

from detrcli.config import Preprocessing
from detrcli.data.images import open_picture
from detrcli.data.preprocessing import prepare
from detrcli.resize import ShortestEdge


def input_size(height: int, width: int, size: int, max_size: int) -> tuple[int, int]:
    placement = ShortestEdge(size, max_size).place(height, width)
    assert placement.fills
    return placement.height, placement.width


def published_size(w: int, h: int, size: int, longest: int) -> tuple[int, int]:
    """What the published rule says, step by step: height and width."""
    small, large = float(min(w, h)), float(max(w, h))
    if large / small * size > longest:
        size = int(round(longest * small / large))  # noqa: RUF046  # as it is written there
    if (w <= h and w == size) or (h <= w and h == size):
        return h, w
    return (int(size * h / w), size) if w < h else (size, int(size * w / h))


@counted(
    20_000, st.integers(1, 6000), st.integers(1, 6000), st.sampled_from([(800, 1333), (480, 1333), (64, 106)])
)
def test_sizes_equal_the_published_formula(w: int, h: int, limits: tuple[int, int]) -> None:
    """Wherever that gives a picture at all; and a picture is there always."""
    ours, theirs = input_size(h, w, *limits), published_size(w, h, *limits)
    assert min(ours) >= 1
    if min(theirs) >= 1:
        assert ours == theirs


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        ((480, 640), (800, 1066)),
        ((427, 640), (800, 1199)),
        ((1000, 3000), (444, 1332)),
        ((1, 9000), (1, 1333)),
    ],
)
def test_sizes_by_hand(picture: tuple[int, int], expected: tuple[int, int]) -> None:
    assert input_size(*picture, 800, 1333) == expected
    assert input_size(*picture[::-1], 800, 1333) == expected[::-1]


@pytest.mark.parametrize("name", ["picture-odd", "picture-wide", "picture-tall"])
def test_network_input_equals_the_reference(name: str) -> None:
    with np.load(GOLDEN / "detr-r50-pictures.npz") as golden:
        pixels = prepare(open_picture(GOLDEN / f"{name}.png").image, Preprocessing())
        assert pixels.dtype == torch.float32
        np.testing.assert_array_equal(pixels.shape, golden[f"{name}.input_shape"][-3:])
        np.testing.assert_allclose(pixels.mean((1, 2)), golden[f"{name}.input_mean"].reshape(-1), atol=1e-5)
        corner = golden[f"{name}.input_corner"].reshape(3, 4, 4)
        np.testing.assert_allclose(pixels[:, :4, :4], corner, atol=1e-5)
