"""Colours that can be told apart: one for each class, and one for each value of a map."""

import math
from functools import cache

import numpy as np

Colour = tuple[int, int, int]

COLOURS = 96  # classes that have a colour of their own


def colour_of(category: int) -> Colour:
    """The colour of a class, the same everywhere."""
    red, green, blue = _palette()[int(category) % COLOURS]
    return red, green, blue


def heat(values: np.ndarray) -> np.ndarray:
    """Values (...) in [0, 1] as colours (..., 3) uint8, from nearly black over violet and orange to light yellow.

    Lightness rises evenly with the value, so the map is read right in grey and by the colour-blind.
    """
    steps = _heat()
    places = (np.clip(values, 0, 1) * (len(steps) - 1)).round().astype(np.intp)
    return steps[places]


def contrast(colour: Colour) -> Colour:
    """Black or white, whichever stands out more (relative luminance, WCAG)."""
    linear = (np.array(colour) / 255) ** 2.2
    return (0, 0, 0) if linear @ (0.2126, 0.7152, 0.0722) > 0.179 else (255, 255, 255)


@cache
def _heat() -> np.ndarray:
    """The 256 colours of `heat`, (256, 3) uint8."""
    value = np.linspace(0, 1, 256)
    lightness = 0.16 + 0.80 * value
    hue = np.radians(285 + 180 * value)  # violet, red, orange, yellow
    # No colour where a screen has least of it: in the dark and in the light.
    chroma = 0.17 * np.sin(math.pi * (0.12 + 0.74 * value))
    shown = _linear_rgb(lightness, chroma * np.cos(hue), chroma * np.sin(hue)).clip(0, 1)
    return _encoded(shown)


@cache
def _palette() -> list[list[int]]:
    """Colours in an order in which each is as far as can be from all before it."""
    lightness, chroma, hue = np.meshgrid((0.50, 0.60, 0.70, 0.80, 0.88), (0.10, 0.15, 0.20), np.arange(0, 360, 9))
    angle = np.radians(hue).ravel()
    lab = np.stack([lightness.ravel(), chroma.ravel() * np.cos(angle), chroma.ravel() * np.sin(angle)], axis=1)
    linear = _linear_rgb(*lab.T)
    shown = ((linear >= 0) & (linear <= 1)).all(1)  # what a screen can show
    lab, linear = lab[shown], linear[shown]

    chosen = [int(lab[:, 1].argmax())]
    distance = np.full(len(lab), np.inf)
    while len(chosen) < COLOURS:
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
        chosen.append(int(distance.argmax()))
    palette: list[list[int]] = _encoded(linear[chosen]).tolist()
    return palette


def _linear_rgb(lightness: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Colours (N, 3) of the perceptual space OKLab, whose distances are those that the eye sees."""
    to_cone = np.array([[1, 0.39633778, 0.21580376], [1, -0.10556135, -0.06385417], [1, -0.08948418, -1.29148555]])
    to_rgb = np.array(
        [
            [4.07674166, -3.30771159, 0.23096993],
            [-1.26843800, 2.60975740, -0.34131940],
            [-0.00419609, -0.70341861, 1.70761470],
        ]
    )
    linear: np.ndarray = (np.stack([lightness, a, b], axis=1) @ to_cone.T) ** 3 @ to_rgb.T
    return linear


def _encoded(linear: np.ndarray) -> np.ndarray:
    """Light in [0, 1] as the numbers of sRGB, uint8."""
    gamma = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055)
    return (255 * gamma).round().astype(np.uint8)
