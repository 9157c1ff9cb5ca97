"""Outlines of masks as polygons, along the edges of their pixels: drawn again they give the same mask.

Polygons of COCO have no holes: what they cover adds up. So a hole is joined to what lies above it by a slit that is
nothing wide, which takes the polygon around the hole too.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


def polygons_of(mask: np.ndarray) -> list[list[int]]:
    """A polygon x, y, x, y, ... for each part of a mask (H, W), in pixels; none where it is empty.

    Pixels that touch at a corner alone are of different parts.
    """
    corners = _corners(np.asarray(mask, dtype=bool))
    for first in _holes(corners):
        _open(corners, first)
    return [corners.polygon(first) for first in _loops(corners)]


@dataclass(frozen=True)
class _Corners:
    """All corners of all outlines; two of them stand where two pixels touch at a corner."""

    mask: np.ndarray  # (H, W) bool
    x: list[int]
    y: list[int]
    following: list[int]  # the corner that comes next, with the mask on the right-hand side
    before: list[int]
    # The horizontal edges that have the mask below them: by their line, where each begins and its first corner.
    upper: dict[int, list[tuple[int, int]]]

    def join(self, corner: int, following: int) -> None:
        """Let one follow another."""
        self.following[corner], self.before[following] = following, corner

    def copy(self, x: int, y: int) -> int:
        """A new corner, which is not joined yet."""
        self.x.append(x)
        self.y.append(y)
        self.following.append(-1)
        self.before.append(-1)
        return len(self.x) - 1

    def around(self, first: int) -> Iterator[int]:
        """Its loop, from this corner on."""
        corner = first
        while True:
            yield corner
            corner = self.following[corner]
            if corner == first:
                return

    def polygon(self, first: int) -> list[int]:
        """A loop in numbers. A slit may end at a corner, which is then said once."""
        places = [(self.x[corner], self.y[corner]) for corner in self.around(first)]
        turns = [place for place, last in zip(places, [places[-1], *places], strict=False) if place != last]
        return [value for place in turns for value in place]


def _corners(mask: np.ndarray) -> _Corners:
    framed = np.pad(mask, 1).astype(np.int8)  # (H + 2, W + 2)
    # What begins (1) or ends (-1) at each edge, downwards and to the right; a row and a column for each grid line.
    below, right = np.diff(framed, axis=0)[:, 1:-1], np.diff(framed, axis=1)[1:-1]  # (H + 1, W), (H, W + 1)
    y, x, lower = _ends(below)  # by lines, from left to right
    columns, rows, later = _ends(right.T)  # by lines, from top to bottom
    # Corners are numbered as ends of horizontal edges come, and found again as ends of the vertical ones.
    numbers = np.lexsort((y, x))
    assert np.array_equal(x[numbers], columns)
    assert np.array_equal(y[numbers], rows)
    # Of two corners at one place the first is that of the edge from the left. It goes with the first of the vertical
    # edges, the one from above, unless the pixel on the left lies below.
    twice = np.flatnonzero((np.diff(columns) == 0) & (np.diff(rows) == 0))
    swapped = twice[mask[rows[twice], columns[twice] - 1]]
    numbers[swapped], numbers[swapped + 1] = numbers[swapped + 1].copy(), numbers[swapped].copy()

    following = np.full(len(x), -1)
    for firsts, seconds, forwards in (
        (np.arange(0, len(x), 2), np.arange(1, len(x), 2), lower[::2] > 0),
        (numbers[::2], numbers[1::2], later[::2] < 0),
    ):
        following[np.where(forwards, firsts, seconds)] = np.where(forwards, seconds, firsts)
    before = np.empty_like(following)
    before[following] = np.arange(len(following))
    upper: dict[int, list[tuple[int, int]]] = {}
    for corner in np.flatnonzero(lower[::2] > 0).tolist():
        upper.setdefault(int(y[2 * corner]), []).append((int(x[2 * corner]), 2 * corner))
    return _Corners(mask, x.tolist(), y.tolist(), following.tolist(), before.tolist(), upper)


def _ends(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both ends of each straight edge along the rows of an array: the row, the place in it, and the edge's step."""
    framed = np.pad(steps, ((0, 0), (1, 1)))
    changes = np.diff(framed, axis=1)  # (rows, places)
    # From an edge straight to one of the other kind it changes by 2: the end of one, and the beginning of the other.
    line, place = np.nonzero(changes)
    times = np.abs(changes[line, place])
    line, place = np.repeat(line, times), np.repeat(place, times)
    step = framed[line[::2], place[::2] + 1]
    return line, place, np.repeat(step, 2)


def _loops(corners: _Corners) -> Iterator[int]:
    """The first corner of each loop, the uppermost and of those the one on the left."""
    seen = bytearray(len(corners.x))
    for corner in range(len(seen)):
        if not seen[corner]:
            yield corner
            for one in corners.around(corner):
                seen[one] = 1


def _holes(corners: _Corners) -> list[int]:
    """The first corners of holes, from top to bottom: at the upper left of a loop around one nothing is below."""
    height, width = corners.mask.shape
    return [
        first
        for first in _loops(corners)
        if not (
            corners.y[first] < height and corners.x[first] < width and corners.mask[corners.y[first], corners.x[first]]
        )
    ]


def _open(corners: _Corners, first: int) -> None:
    """Join the loop around a hole to the edge above it, by a slit straight up."""
    x, bottom = corners.x[first], corners.y[first]
    top = bottom - 1
    while top > 0 and corners.mask[top - 1, x]:
        top -= 1
    edges = corners.upper[top]
    start = max(edge for edge in edges if edge[0] <= x)[1]
    end = corners.following[start]
    hole_end = corners.before[first]
    down, up, again = corners.copy(x, top), corners.copy(x, top), corners.copy(x, bottom)
    corners.join(start, down)
    corners.join(down, first)
    corners.join(hole_end, again)
    corners.join(again, up)
    corners.join(up, end)
    edges.append((x, up))  # the rest of that edge, for another hole
