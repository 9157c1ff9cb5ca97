"""Masks to polygons along their pixel edges, which reproduce the masks exactly.

COCO's polygons have no holes; the areas of several add up. So a hole is joined to the outline above it by a slit of no
width, and the polygon goes around the hole too.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


def polygons_of(mask: np.ndarray) -> list[list[int]]:
    """Return a polygon x, y, x, y, ... in pixels for each 4-connected part of a mask (H, W)."""
    corners = _corners(np.asarray(mask, dtype=bool))
    for first in _holes(corners):
        _open(corners, first)
    return [corners.polygon(first) for first in _loops(corners)]


@dataclass(frozen=True)
class _Corners:
    """The corners of all outlines, as linked lists. Two pixels that touch at a corner have two corners there."""

    mask: np.ndarray  # (H, W) bool
    x: list[int]
    y: list[int]
    following: list[int]  # index of the next corner, with the mask on the right-hand side
    before: list[int]
    # Horizontal edges above the mask: by their line, the x and the corner where each begins.
    upper: dict[int, list[tuple[int, int]]]

    def join(self, corner: int, following: int) -> None:
        self.following[corner], self.before[following] = following, corner

    def add(self, x: int, y: int) -> int:
        """Add a corner that is not yet joined."""
        self.x.append(x)
        self.y.append(y)
        self.following.append(-1)
        self.before.append(-1)
        return len(self.x) - 1

    def loop(self, first: int) -> Iterator[int]:
        """Yield the corners of a loop, starting at `first`."""
        corner = first
        while True:
            yield corner
            corner = self.following[corner]
            if corner == first:
                return

    def polygon(self, first: int) -> list[int]:
        """Return the coordinates of a loop, without repeated points where a slit ends at a corner."""
        points = [(self.x[corner], self.y[corner]) for corner in self.loop(first)]
        distinct = [point for point, last in zip(points, [points[-1], *points], strict=False) if point != last]
        return [value for point in distinct for value in point]


def _corners(mask: np.ndarray) -> _Corners:
    padded = np.pad(mask, 1).astype(np.int8)  # (H + 2, W + 2)
    # Where the mask begins (1) or ends (-1), downwards and to the right; a row and a column for each grid line.
    below, right = np.diff(padded, axis=0)[:, 1:-1], np.diff(padded, axis=1)[1:-1]  # (H + 1, W), (H, W + 1)
    y, x, lower = _edge_ends(below)  # by lines, from left to right
    columns, rows, later = _edge_ends(right.T)  # by lines, from top to bottom
    # Corners are numbered as ends of horizontal edges; `numbers` identifies them as ends of vertical edges.
    numbers = np.lexsort((y, x))
    assert np.array_equal(x[numbers], columns)
    assert np.array_equal(y[numbers], rows)
    # Of two corners at a point, the first ends the edge from the left. It belongs to the first vertical edge, from
    # above, unless the pixel on the left lies below.
    twice = np.flatnonzero((np.diff(columns) == 0) & (np.diff(rows) == 0))
    swapped = twice[mask[rows[twice], columns[twice] - 1]]
    numbers[swapped], numbers[swapped + 1] = numbers[swapped + 1].copy(), numbers[swapped].copy()

    following = np.full(len(x), -1)
    for starts, ends, forwards in (
        (np.arange(0, len(x), 2), np.arange(1, len(x), 2), lower[::2] > 0),
        (numbers[::2], numbers[1::2], later[::2] < 0),
    ):
        following[np.where(forwards, starts, ends)] = np.where(forwards, ends, starts)
    before = np.empty_like(following)
    before[following] = np.arange(len(following))
    upper: dict[int, list[tuple[int, int]]] = {}
    for corner in (2 * np.flatnonzero(lower[::2] > 0)).tolist():
        upper.setdefault(int(y[corner]), []).append((int(x[corner]), corner))
    return _Corners(mask, x.tolist(), y.tolist(), following.tolist(), before.tolist(), upper)


def _edge_ends(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return both ends of each straight edge along the rows of an array: the row, the column, and the edge's step."""
    padded = np.pad(steps, ((0, 0), (1, 1)))
    changes = np.diff(padded, axis=1)  # (rows, columns)
    # A change of 2 is the end of an edge and the start of one of the other sign.
    line, place = np.nonzero(changes)
    times = np.abs(changes[line, place])
    line, place = np.repeat(line, times), np.repeat(place, times)
    step = padded[line[::2], place[::2] + 1]
    return line, place, np.repeat(step, 2)


def _loops(corners: _Corners) -> Iterator[int]:
    """Yield the first corner of each loop: the leftmost of the uppermost."""
    visited = bytearray(len(corners.x))
    for first in range(len(visited)):
        if not visited[first]:
            yield first
            for corner in corners.loop(first):
                visited[corner] = 1


def _holes(corners: _Corners) -> list[int]:
    """Return the first corners of the loops around holes, from top to bottom: the mask is not below them."""
    height, width = corners.mask.shape
    places = [(first, corners.y[first], corners.x[first]) for first in _loops(corners)]
    return [first for first, y, x in places if y == height or x == width or not corners.mask[y, x]]


def _open(corners: _Corners, first: int) -> None:
    """Join the loop around a hole to the edge above it by a vertical slit."""
    x, bottom = corners.x[first], corners.y[first]
    top = bottom - 1
    while top > 0 and corners.mask[top - 1, x]:
        top -= 1
    edges = corners.upper[top]
    start = max(edge for edge in edges if edge[0] <= x)[1]
    end = corners.following[start]
    hole_end = corners.before[first]
    down, up, again = corners.add(x, top), corners.add(x, top), corners.add(x, bottom)
    corners.join(start, down)
    corners.join(down, first)
    corners.join(hole_end, again)
    corners.join(again, up)
    corners.join(up, end)
    edges.append((x, up))  # the rest of that edge, for another hole
