"""Merging of detections of the same object: in an image and its tiles, or duplicates of a model."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from detrcli.inference.tiles import Tile
from detrcli.run_lengths import MaskRows
from detrcli.structures import Detections

SAME_OBJECT = 0.5  # IoU above which detections of two views are of the same object
COVERED = 0.5  # share of a cut box above which another view's box covers it
MARGIN = 0.01  # of a tile's side: boxes that end within this distance of its edge are cut


def suppress(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    nms: float | None = None,
    views: np.ndarray | None = None,
    cut: np.ndarray | None = None,
) -> np.ndarray:
    """Return the indices of the detections that remain after greedy suppression in each class, in ascending order.

    `boxes` (N, 4) are xyxy. `views` (N,) are numbers of the views of an image, the whole and its tiles, and `cut` (N,)
    tells which boxes end at an edge of their tile, beyond which the object may continue. Detections come by descending
    score, those of equal scores in their order. A detection is removed if for a kept detection of its class

    - their IoU exceeds `nms`, or
    - they are of different views, and their IoU exceeds 0.5, or
    - they are of different views, it is cut, and the other box covers more than half of it.

    With `nms` alone this is torchvision's `batched_nms`.
    """
    count = len(scores)
    views = np.zeros(count, int) if views is None else views
    cut = np.zeros(count, bool) if cut is None else cut
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    for label in np.unique(labels):
        rest = order[labels[order] == label]
        sides = boxes[rest].astype(np.float64).T  # (4, n)
        while len(rest):
            first, view = rest[0], views[rest[0]]
            kept.append(int(first))
            rest, sides, (x0, y0, x1, y1) = rest[1:], sides[:, 1:], sides[:, 0]
            intersection = (np.minimum(sides[2], x1) - np.maximum(sides[0], x0)).clip(0)
            intersection *= (np.minimum(sides[3], y1) - np.maximum(sides[1], y0)).clip(0)
            near = np.flatnonzero(intersection)
            inside, area = intersection[near], (sides[2, near] - sides[0, near]) * (sides[3, near] - sides[1, near])
            iou = inside / (area + (x1 - x0) * (y1 - y0) - inside)
            others = views[rest[near]] != view
            removed = others & ((iou > SAME_OBJECT) | (cut[rest[near]] & (inside > COVERED * area)))
            if nms is not None:
                removed |= iou > nms
            if removed.any():
                remaining = np.ones(len(rest), bool)
                remaining[near[removed]] = False
                rest, sides = rest[remaining], sides[:, remaining]
    return np.sort(np.array(kept, dtype=np.int64))


def merge(
    whole: Detections,
    tiles: Sequence[tuple[Tile, Detections]],
    size: tuple[int, int],
    queries: int,
    nms: float | None = None,
) -> Detections:
    """Merge the detections of an image of this (height, width) with those of its tiles, if any, in this order.

    Boxes and masks of tiles are moved to their place in the image. A box that its tile's edge cuts is left out if it
    lies inside another tile, which shows more of the object. The rest goes through `suppress`. `queries` is the number
    of queries of the model: in the whole image, number 0, and in the tiles, numbers 1, 2, ..., they are counted on.
    """
    # More than given for models whose number of queries depends on the input.
    queries = max([queries, *(int(part.queries.max(initial=-1)) + 1 for part in (whole, *(part for _, part in tiles)))])
    corners = np.array([tile for tile, _ in tiles]).reshape(-1, 4)  # (T, 4), xyxy
    parts, views, cut = [whole], [0] * len(whole), [np.zeros(len(whole), bool)]
    for number, (tile, part) in enumerate(tiles):
        moved = _moved(part, tile, size, queries * (number + 1))
        boxes = moved.boxes.clip(tile[:2] * 2, tile[2:] * 2)
        of_part = _touches_inner_edge(boxes, corners[[number]], size)[:, 0]  # (N,)
        overlap = (corners[:, :2] < tile[2:]).all(1) & (corners[:, 2:] > tile[:2]).all(1)  # (T,)
        others = corners[np.setdiff1d(np.flatnonzero(overlap), number)]  # (O, 4)
        inside = (boxes[:, None, :2] >= others[:, :2]).all(2) & (boxes[:, None, 2:] <= others[:, 2:]).all(2)  # (N, O)
        shown_elsewhere = (inside & ~_touches_inner_edge(boxes, others, size)).any(1)
        chosen = np.flatnonzero(~(of_part & shown_elsewhere))
        parts.append(moved.part(chosen))
        views += [number + 1] * len(chosen)
        cut.append(of_part[chosen])
    together = _joined(parts)
    kept = suppress(
        together.boxes,
        together.scores,
        together.category_ids,
        nms=nms,
        views=np.array(views, dtype=np.int64),
        cut=np.concatenate(cut),
    )
    return together.part(kept)


def _touches_inner_edge(boxes: np.ndarray, tiles: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return whether boxes (N, 4) reach an edge of tiles (T, 4) that is not the image's, (N, T) bool."""
    near = np.tile(MARGIN * (tiles[:, 2:] - tiles[:, :2]), 2)  # (T, 4)
    height, width = size
    reached = np.concatenate(
        [
            boxes[:, None, :2] < (tiles + near)[:, :2],
            boxes[:, None, 2:] > (tiles - near)[:, 2:],
        ],
        axis=2,
    )  # (N, T, 4)
    inner = np.concatenate([tiles[:, :2] > 0, tiles[:, 2:] < [width, height]], axis=1)  # (T, 4)
    touches: np.ndarray = (reached & inner).any(2)
    return touches


def _moved(detections: Detections, tile: Tile, size: tuple[int, int], first_query: int) -> Detections:
    """Return detections of a tile in pixels of the image."""
    masks = detections.masks
    return replace(
        detections,
        boxes=detections.boxes + np.array([tile.left, tile.top] * 2, dtype=np.float32),
        queries=detections.queries + first_query,
        masks=None if masks is None else masks.placed(tile.left, tile.top, size),
    )


def _joined(parts: Sequence[Detections]) -> Detections:
    columns = {name: [vars(part)[name] for part in parts] for name in vars(parts[0])}
    masks = columns.pop("masks")
    arrays = {name: np.concatenate(values) for name, values in columns.items()}
    counts = None if masks[0] is None else [counts for rows in masks for counts in rows.counts]
    return Detections(**arrays, masks=None if counts is None else MaskRows(masks[0].size, counts))
