"""Merging of detections of the same object: in an image and its tiles, or duplicates of a model."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from detrcli.inference.tiles import Tile
from detrcli.run_lengths import MaskRows, union
from detrcli.structures import Detections

SAME_OBJECT = 0.5  # IoU above which detections of two views are of the same object
COVERED = 0.5  # share of a cut box above which another view's box covers it
JOINED_SCORE = 0.5  # least score of a part that is joined to a better one, as a fraction of its score
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


def join(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, views: np.ndarray, tiles: np.ndarray
) -> list[list[int]]:
    """Group cut boxes that are parts of the same object. Return the indices of each group, its best box first.

    `boxes` (N, 4) are clipped to their `tiles` (N, 4), whose numbers are `views` (N,). Boxes come by descending score.
    Each joins the first group of its class that has none of its tile and a box with which, in the overlap of their
    tiles, its IoU exceeds 0.5, if its score is at least half of that of the group's best box.
    """
    order = np.argsort(-scores, kind="stable")
    groups: list[list[int]] = []
    for label in np.unique(labels):
        rest = order[labels[order] == label]
        while len(rest):
            group, rest = [int(rest[0])], rest[1:]
            for member in group:  # to which others are added
                near = rest[
                    (scores[rest] >= JOINED_SCORE * scores[group[0]])
                    & (tiles[rest, :2] < tiles[member, 2:]).all(1)
                    & (tiles[rest, 2:] > tiles[member, :2]).all(1)
                ]
                overlap = _intersection(tiles[near], tiles[member])  # (n, 4)
                theirs, ours = _intersection(boxes[near], overlap), _intersection(boxes[member], overlap)
                both = _area(_intersection(theirs, ours))
                same = near[both > SAME_OBJECT * (_area(theirs) + _area(ours) - both)]
                for i in same.tolist():
                    if views[i] not in views[group]:
                        group.append(i)
                rest = rest[~np.isin(rest, group)]
            groups.append(group)
    return groups


def _intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the intersection of xyxy boxes (..., 4), broadcast; inverted where they are apart."""
    return np.concatenate([np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])], axis=-1)


def _area(boxes: np.ndarray) -> np.ndarray:
    area: np.ndarray = (boxes[..., 2:] - boxes[..., :2]).clip(0).prod(-1)
    return area


def merge(
    whole: Detections,
    tiles: Sequence[tuple[Tile, Detections]],
    size: tuple[int, int],
    queries: int,
    nms: float | None = None,
) -> Detections:
    """Merge the detections of an image of this (height, width) with those of its tiles, if any, in this order.

    Boxes and masks of tiles are moved to their place in the image. A box that its tile's edge cuts is left out if it
    lies inside another tile, which shows more of the object; other cut boxes of an object are replaced by a box around
    them, with the score of the best. The rest goes through `suppress`. With Q `queries` of the model,
    query q of tile t = 1, 2, ... gets the index t Q + q.
    """
    # More than given for models whose number of queries depends on the input.
    queries = max([queries, *(int(part.queries.max(initial=-1)) + 1 for part in (whole, *(part for _, part in tiles)))])
    corners = np.array([(0, 0, *size[::-1]), *(tile for tile, _ in tiles)])  # (1 + T, 4), xyxy
    parts, views, cut = [whole], [0] * len(whole), [np.zeros(len(whole), bool)]
    for number, (tile, part) in enumerate(tiles, 1):
        moved = _moved(part, tile, size, queries * number)
        boxes = moved.boxes.clip(tile[:2] * 2, tile[2:] * 2)
        of_part = _touches_inner_edge(boxes, corners[[number]], size)[:, 0]  # (N,)
        overlap = (corners[:, :2] < tile[2:]).all(1) & (corners[:, 2:] > tile[:2]).all(1)  # (1 + T,)
        others = corners[np.setdiff1d(np.flatnonzero(overlap), [0, number])]  # (O, 4)
        inside = (boxes[:, None, :2] >= others[:, :2]).all(2) & (boxes[:, None, 2:] <= others[:, 2:]).all(2)  # (N, O)
        shown_elsewhere = (inside & ~_touches_inner_edge(boxes, others, size)).any(1)
        chosen = np.flatnonzero(~(of_part & shown_elsewhere))
        parts.append(moved.part(chosen))
        views += [number] * len(chosen)
        cut.append(of_part[chosen])
    joined, of_view, is_cut = _with_joined_parts(
        _concatenated(parts), np.array(views, dtype=np.int64), np.concatenate(cut), corners
    )
    kept = suppress(joined.boxes, joined.scores, joined.category_ids, nms=nms, views=of_view, cut=is_cut)
    return joined.part(kept)


def _with_joined_parts(
    detections: Detections, views: np.ndarray, cut: np.ndarray, corners: np.ndarray
) -> tuple[Detections, np.ndarray, np.ndarray]:
    """Return the detections with the parts of an object joined, and their views and cut, (N,).

    A joined detection is not cut, and is of no tile.
    """
    parts = np.flatnonzero(cut)
    tiles = corners[views]  # (N, 4)
    clipped = _intersection(detections.boxes, tiles)
    columns = clipped, detections.scores, detections.category_ids, views, tiles
    boxes, views, cut, kept = detections.boxes.copy(), views.copy(), cut.copy(), np.ones(len(cut), bool)
    masks = detections.masks
    counts = [] if masks is None else list(masks.counts)
    for group in join(*(column[parts] for column in columns)):
        if len(group) > 1:
            members = parts[group]
            best = members[0]
            boxes[best] = *clipped[members, :2].min(0), *clipped[members, 2:].max(0)
            views[best], cut[best], kept[members[1:]] = -1 - best, False, False
            if masks is not None:
                counts[best] = union([counts[i] for i in members], masks.size)
    if masks is not None:
        masks = MaskRows(masks.size, counts)
    return replace(detections, boxes=boxes, masks=masks).part(kept), views[kept], cut[kept]


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


def _concatenated(parts: Sequence[Detections]) -> Detections:
    columns = {name: [vars(part)[name] for part in parts] for name in vars(parts[0])}
    masks = columns.pop("masks")
    arrays = {name: np.concatenate(values) for name, values in columns.items()}
    counts = None if masks[0] is None else [counts for rows in masks for counts in rows.counts]
    return Detections(**arrays, masks=None if counts is None else MaskRows(masks[0].size, counts))
