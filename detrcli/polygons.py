"""Masks to polygons along their pixel edges, which reproduce the masks exactly.

COCO's polygons have no holes; the areas of several add up. So a hole is joined to the outline above it by a slit of no
width, and the polygon goes around the hole too.
"""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np


def polygons_of(mask: np.ndarray) -> list[list[int]]:
    """Return a polygon x, y, x, y, ... in pixels for each 4-connected part of a mask (H, W)."""
    mask = np.asarray(mask, dtype=bool)
    points, following, rightward = _edges(mask)
    # Edges with the mask below them: by their line, the x and the index of each.
    upper: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for edge, right in enumerate(rightward):
        if right:
            upper[points[edge][1]].append((points[edge][0], edge))
    # The uppermost edge of an outline has the mask below it, that of a hole has the mask above it.
    for edge in [edge for edge, _ in _loops(following, len(rightward)) if not rightward[edge]]:
        # Join the left end of the hole's uppermost edge to the edge above it by a vertical slit.
        first = following[edge]
        x, bottom = points[first]
        top = bottom - 1
        while top > 0 and mask[top - 1, x]:
            top -= 1
        start = max(entry for entry in upper[top] if entry[0] <= x)[1]
        down, again, up = range(len(points), len(points) + 3)
        points += [(x, top), (x, bottom), (x, top)]
        following += [first, up, following[start]]
        following[start], following[edge] = down, again
        upper[top].append((x, up))  # the rest of that edge, for another hole

    polygons = []
    for _, loop in _loops(following, len(rightward)):
        corners = [points[edge] for edge in loop]
        # A slit that ends at a corner repeats the corner.
        distinct = [corner for corner, last in zip(corners, [corners[-1], *corners], strict=False) if corner != last]
        polygons.append([value for corner in distinct for value in corner])
    return polygons


def joined(polygons: list[list[int]]) -> list[int]:
    """Return a single polygon around all parts: from its first point, slits of no width lead to each other part."""
    first, *others = polygons
    start = first[:2]
    return sum([start + other + other[:2] for other in others], first)


def _edges(mask: np.ndarray) -> tuple[list[tuple[int, int]], list[int], list[bool]]:
    """Return the starts x, y of all straight edges, the next edge of each, and whether horizontal edges go right.

    The mask is on the right-hand side of an edge. Horizontal edges come first, by lines and from left to right.
    """
    padded = np.pad(mask, 1).astype(np.int8)
    # Where the mask begins (1) or ends (-1), downwards and to the right; a row and a column for each grid line.
    below, right = np.diff(padded, axis=0)[:, 1:-1], np.diff(padded, axis=1)[1:-1]  # (H + 1, W), (H, W + 1)
    across = [((x0, y), (x1, y), step, True) for y, x0, x1, step in _runs(below)]
    along = [((x, y0), (x, y1), -step, False) for x, y0, y1, step in _runs(right.T)]
    edges = [(*((a, b) if heading > 0 else (b, a)), heading, level) for a, b, heading, level in across + along]
    index = {(start, heading, level): i for i, (start, _, heading, level) in enumerate(edges)}
    following = []
    for _, end, heading, level in edges:
        # Of two edges from the same corner, the turn to the right keeps pixels that touch there apart.
        turn = heading if level else -heading
        following.append(index.get((end, turn, not level), index.get((end, -turn, not level), -1)))
    return [start for start, *_ in edges], following, [heading > 0 for *_, heading, _ in across]


def _runs(steps: np.ndarray) -> list[list[int]]:
    """Return the runs of equal steps that are not 0 along the rows of an array: row, start, end and step of each."""
    padded = np.pad(steps, ((0, 0), (1, 1)))
    changes = np.diff(padded, axis=1)  # (rows, columns + 1)
    # A change of 2 is the end of a run and the start of another.
    row, place = np.repeat(np.nonzero(changes), np.abs(changes[changes != 0]), axis=1)
    row, start, end = row[::2], place[::2], place[1::2]
    return np.stack([row, start, end, padded[row, start + 1]], axis=1).tolist()


def _loops(following: list[int], horizontal: int) -> Iterator[tuple[int, list[int]]]:
    """Yield the uppermost edge of each loop, the leftmost of several, and all its edges from there on."""
    visited: set[int] = set()
    for edge in range(horizontal):
        if edge not in visited:
            loop = [edge]
            while following[loop[-1]] != edge:
                loop.append(following[loop[-1]])
            visited.update(loop)
            yield edge, loop
