"""Curves are drawn where they belong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detrcli.render.plot import BOTTOM, COLOURS, HEIGHT, LEFT, RIGHT, SCALE, TOP, WIDTH, Panel, plot, ticks

numbers = st.floats(-1e6, 1e6).map(lambda value: round(value, 6))


@given(numbers, numbers)
def test_ticks_hold_everything_between_them(a: float, b: float) -> None:
    low, high = sorted((a, b))
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    assert found == sorted(set(found))
    room = 1e-6 * max(1, abs(low), abs(high))
    assert found[0] <= low + room
    assert found[-1] >= high - room


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 100, [0, 20, 40, 60, 80, 100]), (0, 13.4, [0, 5, 10, 15])],
)
def test_ticks_are_round(low: float, high: float, wanted: list[float]) -> None:
    assert ticks(low, high) == wanted


def test_epochs_are_whole() -> None:
    assert ticks(1, 3, whole=True) == [1, 2, 3]
    assert ticks(1, 1, whole=True) == [0, 1, 2]


def where(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.argwhere((picture == colour).all(-1))


def test_a_line_goes_from_corner_to_corner() -> None:
    picture = np.asarray(plot([Panel("t", "x", {"": [(0, 0.0), (4, 1.0)]}, least=0, most=1)]))
    ink = where(picture, COLOURS[0])
    ink = ink[ink[:, 0] > SCALE * (TOP - 8)]  # without the legend
    left, right = ink[ink[:, 1].argmin()], ink[ink[:, 1].argmax()]
    assert abs(left - (SCALE * (HEIGHT - BOTTOM), SCALE * LEFT)).max() <= 3 * SCALE
    assert abs(right - (SCALE * TOP, SCALE * (WIDTH - RIGHT))).max() <= 3 * SCALE


def test_what_is_not_finite_is_left_out_and_nothing_is_said_to_be_nothing() -> None:
    for points in ([], [(1, float("nan"))]):
        picture = np.asarray(plot([Panel("t", "x", {"a": points})]))
        assert not len(where(picture[SCALE * TOP :], COLOURS[0]))
    assert plot([Panel("t", "x", {"a": [(1, float("nan")), (2, 5.0)]})]).size == (SCALE * WIDTH, SCALE * HEIGHT)


def test_more_curves_than_colours() -> None:
    """The others have a colour again, dashed, in the plot and in the legend."""
    curves = {f"way {i}": [(0.0, 0.1 * i), (10.0, 0.1 * i)] for i in range(len(COLOURS) + 1)}
    picture = np.asarray(plot([Panel("AP", "epochs", curves, 0)]))
    blue = (picture == COLOURS[0]).all(-1).sum(1)  # by row
    whole, dashed = sorted(blue[blue > blue.max() / 4])[-2:][::-1], blue[blue > blue.max() / 4].min()
    assert 0.4 < dashed / whole[0] < 0.6
