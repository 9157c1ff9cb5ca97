"""Images of colored shapes drawn from a seed, for tests, first steps and the shipped detector.

The shapes are rotated, may overlap, and lie on textured backgrounds with noise and thin bars. All computations are on
integers from a generator with a frozen stream, so that a seed gives the same pixels on every machine. Shapes are
small, medium and large in equal shares; every 16th image is empty. The background can be a landscape, whose sky, grass
and sand are stuff.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import RandomState

UNIT = 1 << 12  # a shape's radius in its own coordinates
TURNS = 64  # directions of a shape
SMALL, MEDIUM, LARGE = (4, 7), (8, 13), (14, 24)  # radius in hundredths of the image's side
VISIBLE = 40  # minimum percentage of a shape that is not covered
EMPTY = 16  # images per empty image


def _polygon(points: int, first: int = 0, radii: Sequence[int] = (UNIT,)) -> list[tuple[int, int]]:
    """Return corners on circles around the origin, with the radii in turn; at 0 degrees the first is at the top."""
    corners = []
    for i in range(points):
        angle = 2 * math.pi * i / points + math.radians(first)
        radius = radii[i % len(radii)]
        corners.append((round(radius * math.sin(angle)), -round(radius * math.cos(angle))))
    return corners


def _grid(text: str) -> list[tuple[int, int]]:
    """Return corners given as "x,y" in thirds of the unit."""
    return [(int(x) * UNIT // 3, int(y) * UNIT // 3) for corner in text.split() for x, y in [corner.split(",")]]


# Outlines, filled by the even-odd rule; round shapes are given by their inner and outer radius.
OUTLINES: dict[str, list[tuple[int, int]]] = {
    "square": _polygon(4, 45),
    "triangle": _polygon(3),
    "star": _polygon(10, radii=(UNIT, UNIT * 2 // 5)),
    "cross": _grid("-1,-3 1,-3 1,-1 3,-1 3,1 1,1 1,3 -1,3 -1,1 -3,1 -3,-1 -1,-1"),
    "hexagon": _polygon(6),
    "arrow": _grid("0,-3 3,0 1,0 1,3 -1,3 -1,0 -3,0"),
    "ell": _grid("-2,-3 0,-3 0,1 2,1 2,3 -2,3"),
}
ROUND: dict[str, tuple[int, int]] = {"circle": (0, UNIT), "ring": (UNIT * 3 // 5, UNIT)}
MOON = "moon"
CATALOG = (*ROUND, *OUTLINES, MOON)
DEFAULT = ("circle", "square", "triangle", "star", "cross")
STUFF = ("sky", "grass", "sand")

_SINES = [round(math.sin(2 * math.pi * i / TURNS) * UNIT) for i in range(TURNS)]


@dataclass(frozen=True)
class Scene:
    """An image and its N shapes, from back to front."""

    pixels: np.ndarray  # (S, S, 3) uint8
    labels: np.ndarray  # (N,) int64, indices into the classes
    masks: np.ndarray  # (N, S, S) bool, visible pixels
    stuff: np.ndarray | None = None  # (S, S) int64, indices into STUFF of the background; None without a landscape


def scene(
    seed: int, number: int, size: int = 128, classes: Sequence[str] = DEFAULT, most: int = 5, *, landscape: bool = False
) -> Scene:
    """Draw an image of a seed's infinite series, with at most `most` shapes; a landscape leaves the shapes the same."""
    series = [seed & 0xFFFFFFFF, seed >> 32, number]
    rng = RandomState(series)
    canvas, stuff = _background(rng, size), None
    if landscape:
        canvas, stuff = _landscape(RandomState([*series, 1]), size)
    for _ in range(_draw(rng, 0, 4)):
        _bar(rng, canvas)

    count = 0 if _draw(rng, 0, EMPTY) == 0 else _draw(rng, 1, most + 1)
    shapes: list[tuple[int, np.ndarray, np.ndarray]] = []  # label, whole mask, color
    for _ in range(4 * count):
        if len(shapes) == count:
            break
        label = _draw(rng, 0, len(classes))
        mask = _mask(rng, classes[label], size)
        color = rng.randint(0, 256, 3, dtype=np.int32)
        if mask.any() and _all_visible([shape for _, shape, _ in shapes] + [mask]):
            shapes.append((label, mask, color))

    covered = np.zeros((size, size), dtype=bool)
    visible = []
    for _, mask, _ in reversed(shapes):
        visible.append(mask & ~covered)
        covered |= mask
    for _, mask, color in shapes:
        _paint(rng, canvas, mask, color)
    noisy = canvas + rng.randint(-14, 15, canvas.shape, dtype=np.int32)
    return Scene(
        pixels=noisy.clip(0, 255).astype(np.uint8),
        labels=np.array([label for label, _, _ in shapes], dtype=np.int64),
        masks=np.array(visible[::-1], dtype=bool).reshape(-1, size, size),
        stuff=stuff,
    )


def _draw(rng: RandomState, low: int, high: int) -> int:
    """Return an integer in low..high-1, always drawn as 32 bits."""
    return int(rng.randint(low, high, dtype=np.int32))


def _background(rng: RandomState, size: int) -> np.ndarray:
    """Return two colors mixed by coarse and fine blotches, (S, S, 3) int32."""
    first, second = rng.randint(30, 226, (2, 3), dtype=np.int32)
    mix = np.zeros((size, size), dtype=np.int32)
    for cells, share in ((3, 5), (9, 3)):
        mix += share * _blotches(rng, size, cells)
    return (first * mix[..., None] + second * (8 * 256 - mix[..., None])) // (8 * 256)


def _blotches(rng: RandomState, size: int, cells: int) -> np.ndarray:
    """Interpolate random values at grid points: (S, S) in 0..255."""
    grid = rng.randint(0, 256, (cells + 1, cells + 1), dtype=np.int32)
    place = np.arange(size, dtype=np.int32) * cells * 256 // size
    low, part = place // 256, place % 256
    rows = (grid[low] * (256 - part)[:, None] + grid[low + 1] * part[:, None]) // 256  # (S, cells + 1)
    blended: np.ndarray = (rows[:, low] * (256 - part) + rows[:, low + 1] * part) // 256
    return blended


def _landscape(rng: RandomState, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw sky over patches of grass and sand: colors (S, S, 3) int32, and indices into STUFF (S, S) int64."""
    row = np.arange(size, dtype=np.int32)[:, None]
    horizon = size * _draw(rng, 25, 60) // 100 + (_blotches(rng, size, 3)[0] - 128) * size // 1024  # (S,)
    patches = _blotches(rng, size, 2) < _draw(rng, 80, 176)
    kinds = np.where(row < horizon, 0, np.where(patches, 1, 2))
    clouds = _blotches(rng, size, 4) * 60 // 255
    blades = rng.randint(-28, 29, (size, size), dtype=np.int32)
    ripples = np.abs((row * 64 // size + _blotches(rng, size, 3) // 32) % 6 - 3) * 8
    colors = np.array([(105, 160, 205), (60, 125, 45), (205, 180, 125)], dtype=np.int32)
    colors += rng.randint(-15, 16, (3, 3), dtype=np.int32)  # (3, 3)
    light = np.choose(kinds, [clouds, blades, ripples])
    return colors[kinds] + light[..., None], kinds.astype(np.int64)


def _bar(rng: RandomState, canvas: np.ndarray) -> None:
    """Draw a thin bar, a distractor without a class, at any angle."""
    size = len(canvas)
    corners = [(-UNIT, -UNIT // 14), (UNIT, -UNIT // 14), (UNIT, UNIT // 14), (-UNIT, UNIT // 14)]
    x, y = _shape_coordinates(rng, size, radius=size * _draw(rng, 10, 45) // 100)
    canvas[_inside(corners, x, y)] = rng.randint(0, 256, 3, dtype=np.int32)


def _mask(rng: RandomState, name: str, size: int) -> np.ndarray:
    small, large = (SMALL, MEDIUM, LARGE)[_draw(rng, 0, 3)]
    radius = max(3, size * _draw(rng, small, large) // 100)
    x, y = _shape_coordinates(rng, size, radius)
    squared = x * x + y * y
    if name in ROUND:
        inner, outer = ROUND[name]
        return (squared <= outer * outer) & (squared >= inner * inner)
    if name == MOON:
        bite = (x - UNIT // 2) ** 2 + y * y
        return (squared <= UNIT * UNIT) & (bite > (UNIT * 4 // 5) ** 2)
    return _inside(OUTLINES[name], x, y)


def _shape_coordinates(rng: RandomState, size: int, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Place and rotate a shape of this radius at random; return the coordinates of all pixel centers in its frame."""
    reach = min(radius, size // 2 - 1)
    # Some shapes leave the image, by a quarter of their radius at most.
    center_x, center_y = (_draw(rng, reach * 3 // 4, size - reach * 3 // 4) for _ in range(2))
    turn = _draw(rng, 0, TURNS)
    sine, cosine = _SINES[turn], _SINES[(turn + TURNS // 4) % TURNS]
    step = np.arange(size, dtype=np.int64)
    x, y = (2 * (step - center_x) + 1)[None, :], (2 * (step - center_y) + 1)[:, None]  # in half pixels
    return (x * cosine + y * sine) // (2 * radius), (y * cosine - x * sine) // (2 * radius)


def _inside(corners: Sequence[tuple[int, int]], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return which points lie inside an outline: a ray from them crosses it an odd number of times."""
    inside = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
        spans = (ay > y) != (by > y)
        side = (bx - ax) * (y - ay) - (x - ax) * (by - ay)
        inside ^= spans & ((side > 0) == (by > ay))
    return inside


def _all_visible(masks: Sequence[np.ndarray]) -> bool:
    """Whether enough of each mask remains visible when the later masks cover it."""
    covered = np.zeros_like(masks[0])
    for mask in reversed(masks):
        if 100 * np.count_nonzero(mask & ~covered) < VISIBLE * np.count_nonzero(mask):
            return False
        covered |= mask
    return True


def _paint(rng: RandomState, canvas: np.ndarray, mask: np.ndarray, color: np.ndarray) -> None:
    """Fill a mask with a color distinct from its background, plain or shaded from top to bottom."""
    behind = canvas[mask].sum(0) // np.count_nonzero(mask)
    if np.abs(behind - color).sum() < 120:
        color = (color + 128) % 256
    shade = np.arange(len(canvas), dtype=np.int32) * _draw(rng, 0, 60) // len(canvas)
    canvas[mask] = (color - shade[:, None, None] + np.zeros_like(canvas))[mask]
