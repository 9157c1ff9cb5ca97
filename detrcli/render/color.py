"""Colors: of classes, of values of a map, and a palette for figures. All are safe for color-blind readers."""

import math
from functools import cache

import numpy as np

Color = tuple[int, int, int]

# The palette of Okabe and Ito, without its yellow, which is faint on white.
BLUE, VERMILION, GREEN, PURPLE = (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167)
SKY_BLUE, ORANGE, BLACK = (86, 180, 233), (230, 159, 0), (0, 0, 0)
PALETTE: tuple[Color, ...] = (BLUE, VERMILION, GREEN, PURPLE, SKY_BLUE, ORANGE, BLACK)

CLASS_COLORS = 96


def color_of(category: int) -> Color:
    """Return the color of a class, the same in all figures."""
    return _class_colors()[int(category) % CLASS_COLORS]


def heat(values: np.ndarray) -> np.ndarray:
    """Map values (...) in [0, 1] to colors (..., 3) uint8, from nearly black over violet and orange to light yellow.

    Lightness rises evenly with the value, so that maps read the same in grayscale.
    """
    steps = _heat_colors()
    return steps[(np.clip(values, 0, 1) * (len(steps) - 1)).round().astype(np.intp)]


def contrast(color: Color) -> Color:
    """Return black or white, whichever has the higher contrast (relative luminance, WCAG)."""
    linear = (np.array(color) / 255) ** 2.2
    return (0, 0, 0) if linear @ (0.2126, 0.7152, 0.0722) > 0.179 else (255, 255, 255)


@cache
def _heat_colors() -> np.ndarray:
    value = np.linspace(0, 1, 256)
    lightness = 0.16 + 0.80 * value
    hue = np.radians(285 + 180 * value)  # violet, red, orange, yellow
    # Little chroma at both ends, where displays have the smallest gamut.
    chroma = 0.17 * np.sin(math.pi * (0.12 + 0.74 * value))
    return _srgb(_linear_rgb(lightness, chroma * np.cos(hue), chroma * np.sin(hue)).clip(0, 1))


@cache
def _class_colors() -> list[Color]:
    """Return the colors of classes; each is as far as possible from all before it."""
    lightness, chroma, hue = np.meshgrid((0.50, 0.60, 0.70, 0.80, 0.88), (0.10, 0.15, 0.20), np.arange(0, 360, 9))
    angle = np.radians(hue).ravel()
    lab = np.stack([lightness.ravel(), chroma.ravel() * np.cos(angle), chroma.ravel() * np.sin(angle)], axis=1)
    linear = _linear_rgb(*lab.T)
    in_gamut = ((linear >= 0) & (linear <= 1)).all(1)
    lab, linear = lab[in_gamut], linear[in_gamut]

    chosen = [int(lab[:, 1].argmax())]
    distance = np.full(len(lab), np.inf)
    while len(chosen) < CLASS_COLORS:
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
        chosen.append(int(distance.argmax()))
    return [(red, green, blue) for red, green, blue in _srgb(linear[chosen]).tolist()]


def _linear_rgb(lightness: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Convert colors (N,) of OKLab, a perceptually uniform space, to linear RGB (N, 3)."""
    to_cone = np.array([[1, 0.39633778, 0.21580376], [1, -0.10556135, -0.06385417], [1, -0.08948418, -1.29148555]])
    to_rgb = np.array([
        [4.07674166, -3.30771159, 0.23096993], [-1.26843800, 2.60975740, -0.34131940],
        [-0.00419609, -0.70341861, 1.70761470],
    ])  # fmt: skip
    linear: np.ndarray = (np.stack([lightness, a, b], axis=1) @ to_cone.T) ** 3 @ to_rgb.T
    return linear


def _srgb(linear: np.ndarray) -> np.ndarray:
    """Encode linear RGB in [0, 1] as sRGB, uint8."""
    gamma = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055)
    return (255 * gamma).round().astype(np.uint8)
