"""Curves are drawn at their coordinates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detrcli.render.color import PALETTE
from detrcli.render.plot import BOTTOM, HEIGHT, LEFT, RIGHT, SCALE, TOP, WIDTH, Panel, plot, ticks

numbers = st.floats(-1e6, 1e6).map(lambda value: round(value, 6))


@given(numbers, numbers)
def test_ticks_enclose_a_range(a: float, b: float) -> None:
    low, high = sorted((a, b))
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    assert found == sorted(set(found))
    tolerance = 1e-6 * max(1, abs(low), abs(high))
    assert found[0] <= low + tolerance
    assert found[-1] >= high - tolerance


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 100, [0, 20, 40, 60, 80, 100]), (0, 13.4, [0, 5, 10, 15])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected
    assert ticks(1, 3, whole=True) == [1, 2, 3]
    assert ticks(1, 1, whole=True) == [0, 1, 2]


def places_of(image: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return np.argwhere((image == color).all(-1))


def test_a_line_goes_from_corner_to_corner() -> None:
    image = np.asarray(plot([Panel("t", "x", {"": [(0, 0.0), (4, 1.0)]}, y_min=0, y_max=1)]))
    ink = places_of(image, PALETTE[0])
    ink = ink[ink[:, 0] > SCALE * (TOP - 8)]  # below the legend
    left, right = ink[ink[:, 1].argmin()], ink[ink[:, 1].argmax()]
    assert abs(left - (SCALE * (HEIGHT - BOTTOM), SCALE * LEFT)).max() <= 3 * SCALE
    assert abs(right - (SCALE * TOP, SCALE * (WIDTH - RIGHT))).max() <= 3 * SCALE


def test_values_that_are_not_finite_are_omitted() -> None:
    for points in ([], [(1, float("nan"))]):
        image = np.asarray(plot([Panel("t", "x", {"a": points})]))
        assert not len(places_of(image[SCALE * TOP :], PALETTE[0]))
    assert plot([Panel("t", "x", {"a": [(1, float("nan")), (2, 5.0)]})]).size == (SCALE * WIDTH, SCALE * HEIGHT)


def test_more_curves_than_colors() -> None:
    """The color of the first curve is used again, dashed, in the plot and in the legend."""
    curves = {f"curve {i}": [(0.0, 0.1 * i), (10.0, 0.1 * i)] for i in range(len(PALETTE) + 1)}
    image = np.asarray(plot([Panel("AP", "epochs", curves, 0)]))
    blue = (image == PALETTE[0]).all(-1).sum(1)  # by row
    whole, dashed = sorted(blue[blue > blue.max() / 4])[-2:][::-1], blue[blue > blue.max() / 4].min()
    assert 0.4 < dashed / whole[0] < 0.6
