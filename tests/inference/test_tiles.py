"""Tiles of images, and the merging of their detections."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import CONFIG, TINY, noise, small_weights
from torchvision.ops import batched_nms, box_iou

import detrcli
from detrcli.data.shapes import scene
from detrcli.errors import UsageError
from detrcli.evaluation.results import best_of_classes
from detrcli.inference import detector as detector_module
from detrcli.inference.detector import Detector
from detrcli.inference.merging import MARGIN, join, merge, suppress
from detrcli.inference.tiles import MAX_TILES, Tile, Tiling
from detrcli.run_lengths import MaskRows, encode
from detrcli.segmentation.maps import MapRequest
from detrcli.structures import Batch, Detections, Prediction


@pytest.mark.parametrize("overlap", [0, 0.2, 0.5, 0.8])
@pytest.mark.parametrize("tiles", [1, 2, 3, 7, "16x16", "100x50", "64x1000"])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (1, 300), (100, 100), (101, 299), (64, 65)])
def test_tiles_cover_the_image(size: tuple[int, int], tiles: int | str, overlap: float) -> None:
    """Tiles have the same size and at least the overlap, less a pixel of rounding."""
    height, width = size
    parts = Tiling(tiles, overlap).of(height, width)
    if isinstance(tiles, str):
        w, h = map(int, tiles.split("x"))
        assert bool(parts) == (width > w or height > h)
        assert all((t.right - t.left, t.bottom - t.top) == (min(w, width), min(h, height)) for t in parts)
    else:
        assert len(parts) <= tiles**2
        assert len(parts) == (tiles**2 if tiles > 1 and min(size) >= 100 else len(parts))
    covered = np.zeros(size, bool)
    for tile in parts:
        assert 0 <= tile.left < tile.right <= width
        assert 0 <= tile.top < tile.bottom <= height
        covered[tile.top : tile.bottom, tile.left : tile.right] = True
    assert covered.all() == bool(parts)
    assert len(set(parts)) == len(parts)
    assert len({(t.right - t.left, t.bottom - t.top) for t in parts}) <= 1
    for first, last in ((0, 2), (1, 3)):
        edges = sorted({(tile[first], tile[last]) for tile in parts})
        for (_, end), (start, _) in pairwise(edges):
            assert end - start >= overlap * (edges[0][1] - edges[0][0]) - 2


@pytest.mark.parametrize(
    ("options", "item"),
    [
        ({"tiles": "axb"}, "tiles=axb"),
        ({"tiles": "640x"}, "tiles=640x"),
        ({"tiles": ""}, "tiles="),
        ({"tiles": "-2"}, "tiles=-2"),
        ({"tiles": 0}, "between 1 and 100"),
        ({"tiles": 101}, "between 1 and 100"),
        ({"tiles": "3x3"}, "`tiles=3` gives 3 x 3"),
        ({"tiles": 2, "overlap": 1}, "overlap=1"),
        ({"tiles": 2, "overlap": -0.1}, "overlap=-0.1"),
        ({"tiles": 2, "overlap": float("nan")}, "overlap=nan"),
        ({"overlap": 0.3}, "`tiles`"),
        ({"nms": 1.1}, "nms=1.1"),
        ({"nms": float("nan")}, "nms=nan"),
    ],
)
def test_options_that_are_refused(options: dict[str, float], item: str) -> None:
    with pytest.raises(UsageError, match=item):
        detrcli.LoadOptions("shapes", **options)


def random_boxes(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    corner, size = rng.uniform(0, 60, (count, 2)), rng.uniform(1, 40, (count, 2))
    boxes = np.concatenate([corner, corner + size], 1).astype(np.float32)
    return boxes, rng.permutation(count).astype(np.float32) / count, rng.integers(0, 3, count)


@pytest.mark.parametrize("nms", [0, 0.3, 0.7, 1])
def test_suppression_by_iou_is_that_of_torchvision(nms: float) -> None:
    rng = np.random.default_rng(0)
    for count in (0, 1, 200):
        boxes, scores, labels = random_boxes(rng, count)
        expected = batched_nms(*map(torch.from_numpy, (boxes, scores, labels)), nms).sort().values
        assert suppress(boxes, scores, labels, nms=nms).tolist() == expected.tolist()


def brute_force(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, nms: float | None, views: np.ndarray, cut: np.ndarray
) -> list[int]:
    """Suppress by the definition, pair by pair."""
    ious = box_iou(*[torch.from_numpy(boxes.astype(np.float64))] * 2).numpy()
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        for k in kept:
            low, high = np.maximum(boxes[i, :2], boxes[k, :2]), np.minimum(boxes[i, 2:], boxes[k, 2:])
            covered = np.prod(np.maximum(high - low, 0).astype(np.float64)) / np.prod(boxes[i, 2:] - boxes[i, :2])
            same = views[i] != views[k] and (ious[i, k] > 0.5 or (cut[i] and covered > 0.5))
            if labels[i] == labels[k] and (same or (nms is not None and ious[i, k] > nms)):
                break
        else:
            kept.append(i)
    return sorted(kept)


@pytest.mark.parametrize("nms", [None, 0.3, 0.6])
def test_suppression_of_views_is_that_of_the_definition(nms: float | None) -> None:
    rng = np.random.default_rng(1)
    for count in (1, 20, 120):
        boxes, scores, labels = random_boxes(rng, count)
        views, cut = rng.integers(0, 4, count), rng.random(count) < 0.4
        scores = np.round(scores, 1)  # equal scores keep their order
        kept = suppress(boxes, scores, labels, nms=nms, views=views, cut=cut)
        assert kept.tolist() == brute_force(boxes, scores, labels, nms, views, cut)
        assert count == 1 or len(kept) < count


def detections(rows: Sequence[tuple[Sequence[float], float]], first_query: int = 0) -> Detections:
    """Detections of a class, from boxes and scores."""
    count = len(rows)
    return Detections(
        np.array([box for box, _ in rows], np.float32).reshape(-1, 4),
        np.array([score for _, score in rows], np.float32),
        np.ones(count, np.int64),
        np.arange(count) + first_query,
        np.full(count, "star"),
    )


def rectangles(boxes: np.ndarray, tile: Tile) -> MaskRows:
    """Masks that fill the boxes in a tile."""
    y, x = np.mgrid[: tile.bottom - tile.top, : tile.right - tile.left]
    masks = [(y >= y0) & (x >= x0) & (y < y1) & (x < x1) for x0, y0, x1, y1 in boxes]
    return MaskRows(y.shape, [encode(mask) for mask in masks])


def test_merging_of_cut_boxes() -> None:
    """Two tiles of an image of 200 x 100, which overlap by 20 pixels."""
    left, right = Tile(0, 0, 110, 100), Tile(90, 0, 200, 100)
    whole = detections([((10, 10, 30, 30), 0.6), ((12, 12, 33, 33), 0.5), ((60, 60, 150, 90), 0.8)])
    parts = [
        # The same object with a better score; a cut object that the right tile shows whole; the left part of an object
        # that only the whole image shows; an object that ends at the edge of the image.
        (left, detections([((10, 10, 30, 31), 0.9), ((95, 20, 110, 40), 0.95), ((60, 60, 110, 90), 0.7)])),
        (right, detections([((5, 20, 35, 40), 0.7), ((0, 60, 61, 90), 0.75), ((100, 0, 110, 9), 0.4)])),
    ]
    merged = merge(whole, parts, (100, 200), 10)
    assert merged.boxes.tolist() == [
        [60, 60, 150, 90], [10, 10, 30, 31], [95, 20, 125, 40], [190, 0, 200, 9]
    ]  # fmt: skip
    assert merged.queries.tolist() == [2, 10, 20, 22]
    assert merged.scores.tolist() == np.float32([0.8, 0.9, 0.7, 0.4]).tolist()
    # A part stays if nothing else shows its object.
    assert len(merge(detections([]), [(left, parts[0][1].part(np.array([2])))], (100, 200), 10)) == 1


def test_parts_of_an_object_are_joined() -> None:
    """An object over two tiles. A much worse part, and a part of another height, stay apart."""
    left, right = Tile(0, 0, 110, 100), Tile(90, 0, 200, 100)
    parts = [
        (left, detections([((40, 10, 112, 30), 0.6), ((60, 60, 110, 90), 0.9), ((80, 40, 110, 50), 0.8)])),
        (right, detections([((-1, 11, 60, 31), 0.7), ((0, 60, 60, 90), 0.4), ((0, 44, 60, 58), 0.7)])),
    ]
    merged = merge(detections([]), parts, (100, 200), 10)
    assert dict(zip(merged.queries.tolist(), merged.boxes.tolist(), strict=True)) == {
        20: [40, 10, 150, 31], 11: [60, 60, 110, 90], 21: [90, 60, 150, 90], 12: [80, 40, 110, 50],
        22: [90, 44, 150, 58],
    }  # fmt: skip
    masked = [(tile, replace(part, masks=rectangles(part.boxes, tile))) for tile, part in parts]
    none = replace(detections([]), masks=MaskRows((100, 200), []))
    masks = merge(none, masked, (100, 200), 10).masks
    assert masks is not None
    expected = np.zeros((100, 200), bool)
    expected[10:30, 40:110] = expected[11:31, 90:150] = True
    np.testing.assert_array_equal(masks[merged.queries.tolist().index(20)], expected)
    # The whole image has a better box for the first.
    whole = merge(detections([((41, 10, 150, 31), 0.8)]), parts, (100, 200), 10)
    assert whole.queries.tolist() == [0, 11, 12, 21, 22]


def test_joined_detections_are_whole() -> None:
    """They remain in a larger object, end at the image's edge, and suppress worse detections of all tiles."""
    left, right = Tile(0, 0, 110, 100), Tile(90, 0, 200, 100)
    parts = [
        (left, detections([((20, -5, 110, 30), 0.9), ((20, 0, 110, 28), 0.3)])),
        (right, detections([((0, 0, 60, 30), 0.8)])),
    ]
    merged = merge(detections([((0, 0, 200, 100), 0.95)]), parts, (100, 200), 10)
    assert merged.boxes.tolist() == [[0, 0, 200, 100], [20, 0, 150, 30]]
    assert merge(detections([]), parts, (100, 200), 10).boxes.tolist() == [[20, 0, 150, 30]]
    # A tile that cuts the box too does not show more of the object.
    part = detections([((60, 42, 110, 58), 0.9)])
    grid = Tiling("110x60", 0.1).of(100, 200)
    assert grid == [Tile(0, 0, 110, 60), Tile(90, 0, 200, 60), Tile(0, 40, 110, 100), Tile(90, 40, 200, 100)]
    merged = merge(
        detections([]), [(tile, part if tile == grid[0] else detections([])) for tile in grid], (100, 200), 1
    )
    assert len(merged) == 1


def brute_force_groups(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, views: np.ndarray, tiles: np.ndarray
) -> set[frozenset[int]]:
    """Group the parts of objects by the definition, pixel by pixel of integer boxes."""

    def pixels(*corners: np.ndarray) -> set[tuple[int, int]]:
        x0, y0, x1, y1 = corners[0]
        for box in corners[1:]:
            x0, y0, x1, y1 = max(x0, box[0]), max(y0, box[1]), min(x1, box[2]), min(y1, box[3])
        return {(x, y) for x in range(int(x0), int(x1)) for y in range(int(y0), int(y1))}

    left = sorted(range(len(scores)), key=lambda i: -scores[i])
    groups = []
    while left:
        group = [left.pop(0)]
        for m in group:
            for i in list(left):
                theirs, ours = pixels(boxes[i], tiles[i], tiles[m]), pixels(boxes[m], tiles[i], tiles[m])
                same = len(theirs & ours) > 0.5 * len(theirs | ours)
                same &= labels[i] == labels[group[0]] and scores[i] >= 0.5 * scores[group[0]]
                if same and views[i] not in {views[j] for j in group}:
                    group.append(i)
                    left.remove(i)
        groups.append(frozenset(group))
    return set(groups)


def test_joining_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(2)
    corners = np.array(Tiling("24x24", 0.4).of(50, 50))
    assert len(corners) == 9
    sizes: set[int] = set()
    for _ in range(10):
        views = rng.integers(0, 9, 60)
        tiles = corners[views]
        low, high = (np.array(rng.choice([4, 5, 6, 40, 41, 42], (60, 2))) for _ in range(2))
        boxes = np.concatenate([np.minimum(low, high), np.maximum(low, high) + 1], 1)
        boxes = boxes.clip(np.tile(tiles[:, :2], 2), np.tile(tiles[:, 2:], 2))
        scores, labels = rng.permutation(60) / 60 + 0.2, rng.integers(0, 2, 60)
        groups = join(boxes, scores, labels, views, tiles)
        assert {frozenset(group) for group in groups} == brute_force_groups(boxes, scores, labels, views, tiles)
        assert all(scores[group[0]] == scores[group].max() for group in groups)
        sizes |= {len(group) for group in groups}
    assert max(sizes) >= 4


def test_overlapping_objects_of_a_view_are_kept() -> None:
    """Unless `nms` removes them: the model separates objects that tiles see together."""
    crowd = detections([((0, 0, 20, 20), 0.9), ((2, 0, 22, 20), 0.8)])
    tile = (Tile(30, 0, 90, 50), crowd)
    assert len(merge(crowd, [tile], (50, 100), 9)) == 4
    assert merge(crowd, [tile], (50, 100), 9, nms=0.5).queries.tolist() == [0, 9]


def test_queries_are_distinct() -> None:
    """Also where a model has more queries than its config says."""
    part = detections([((1, 1, 3, 3), 0.5)], first_query=12)
    apart = detections([((30, 1, 33, 3), 0.5)], first_query=3)
    merged = merge(apart, [(Tile(40, 0, 80, 50), part), (Tile(60, 0, 100, 50), part)], (50, 100), 9)
    assert merged.queries.tolist() == [3, 13 + 12, 26 + 12]


def test_masks_move_with_their_boxes() -> None:
    rng = np.random.default_rng(0)
    for h, w, top, left in ((7, 9, 5, 11), (20, 9, 0, 11), (7, 30, 13, 0), (1, 1, 0, 0), (20, 30, 0, 0)):
        for share in (0, 0.1, 0.5, 0.95, 1):
            mask = rng.random((h, w)) < share
            moved = MaskRows((h, w), [encode(mask)] * 2).placed(left, top, (20, 30))
            expected = np.zeros((20, 30), bool)
            expected[top : top + h, left : left + w] = mask
            np.testing.assert_array_equal(moved[1], expected)
            assert moved.counts[0] == encode(expected)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(small_weights(TINY), "cpu")


def test_detections_are_those_of_the_crops(detector: Detector) -> None:
    """Every detection is that of the image or of a tile by itself, or joined from these by the rules."""
    image, queries = noise(), CONFIG.queries
    tiling = Tiling(2, 0.3, nms=0.8)
    tiles = tiling.of(60, 90)
    views = [Tile(0, 0, 90, 60), *tiles]
    alone = [detector.predict(image.crop(view), threshold=0) for view in views]
    boxes = np.concatenate([d.boxes + np.float32([view[0], view[1]] * 2) for view, d in zip(views, alone, strict=True)])
    number = np.repeat(np.arange(5), queries)
    cut, elsewhere = np.zeros(len(boxes), bool), np.zeros(len(boxes), bool)
    for i, box in enumerate(boxes):
        if number[i]:
            own = views[number[i]]
            inside = [*np.clip(box, own[:2] * 2, own[2:] * 2)]
            reached = [v for v in tiles if reaches(inside, v)]
            cut[i] = own in reached
            elsewhere[i] = any(
                v != own and v not in reached and inside[0] >= v[0] and inside[1] >= v[1] and inside[2] <= v[2]
                and inside[3] <= v[3] for v in tiles
            )  # fmt: skip
    remaining = np.flatnonzero(~(cut & elsewhere))
    assert cut.sum() > 0
    assert len(remaining) < len(boxes)
    scores = np.concatenate([d.scores for d in alone])
    labels = np.concatenate([d.category_ids for d in alone])
    columns = (column[remaining] for column in (boxes, scores, labels))
    kept = remaining[brute_force(*columns, 0.8, number[remaining], cut[remaining])]
    merged = detector.with_tiling(tiling).predict(image, threshold=0)
    assert merged.queries.tolist() == kept.tolist()
    np.testing.assert_array_equal(merged.boxes, boxes[kept])
    np.testing.assert_array_equal(merged.scores, scores[kept])
    threshold = float(np.median(scores))
    above = detector.with_tiling(tiling).predict(image, threshold=threshold)
    assert sorted(above.queries) == [q for q in kept.tolist() if scores[q] >= threshold]
    assert (np.diff(above.scores) <= 0).all()


def test_the_threshold_applies_to_the_result() -> None:
    """A part with a score below it is joined to a better part."""
    views = iter([[], [((60, 60, 110, 90), 0.9)], [((0, 60, 60, 90), 0.6), ((70, 5, 90, 20), 0.6)]])

    def engine(batch: Batch) -> Prediction:
        logits, boxes = torch.full((1, 9, 4), -30.0), torch.full((1, 9, 4), 0.5)
        logits[..., -1] = 0
        for i, ((x0, y0, x1, y1), score) in enumerate(next(views)):
            logits[0, i, 0] = np.log(score / (1 - score))
            boxes[0, i] = torch.tensor([(x0 + x1) / 220, (y0 + y1) / 200, (x1 - x0) / 110, (y1 - y0) / 100])
        return Prediction(logits, boxes)

    tiled = Detector(small_weights(TINY), "cpu", engine=engine).with_tiling(Tiling("110x100", 0.1))
    merged = tiled.predict(np.zeros((100, 200, 3), np.uint8), threshold=0.7)
    np.testing.assert_allclose(merged.boxes, [[60, 60, 150, 90]], rtol=0, atol=1e-3)
    np.testing.assert_allclose(merged.scores, [0.9], rtol=0, atol=1e-6)


def reaches(box: Sequence[float], tile: Tile) -> bool:
    """Whether a box in an image of 90 x 60 reaches an edge of a tile within the image."""
    x, y = MARGIN * (tile.right - tile.left), MARGIN * (tile.bottom - tile.top)
    return bool(
        (tile.left > 0 and box[0] < tile.left + x)
        or (tile.top > 0 and box[1] < tile.top + y)
        or (tile.right < 90 and box[2] > tile.right - x)
        or (tile.bottom < 60 and box[3] > tile.bottom - y)
    )


def test_tiles_share_batches_and_are_made_when_needed(
    detector: Detector, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Results are those without batches, and only few views are prepared ahead."""
    tiled = detector.with_tiling(Tiling("32x32", 0.1))
    sources = [noise(), tmp_path / "missing.png", noise().crop((0, 0, 32, 20)), noise().rotate(90, expand=True)]
    alone = list(tiled.stream(sources, 0))
    prepared, ahead, batches = [0], [], []
    prepare, engine = detector_module.prepare, tiled.engine

    def counted(*args: object) -> torch.Tensor:
        prepared[0] += 1
        return prepare(*args)

    def watched(batch: Batch) -> Prediction:
        ahead.append(prepared[0] - sum(batches))
        batches.append(len(batch.images))
        return engine(batch)

    monkeypatch.setattr(detector_module, "prepare", counted)
    monkeypatch.setattr(tiled, "engine", watched)
    together = list(tiled.stream(sources, 0, batch_size=4, keep_images=True))
    assert len(Tiling("32x32", 0.1).of(60, 90)) == 8
    assert sum(batches) == prepared[0] == 1 + 8 + 1 + 1 + 8
    assert batches.count(4) >= 3
    assert max(ahead) <= 2 * 8 + 2 + 2
    assert [result.problem is None for result in together] == [True, False, True, True]
    assert [result.image and result.image.size for result in together] == [(90, 60), None, (32, 20), (60, 90)]
    for one, other in zip(alone, together, strict=True):
        if one.detections is not None and other.detections is not None:
            np.testing.assert_allclose(one.detections.boxes, other.detections.boxes, rtol=0, atol=1e-3)
            np.testing.assert_array_equal(one.detections.queries, other.detections.queries)


def test_odd_images(detector: Detector, tmp_path: Path) -> None:
    """Of a pixel, turned by EXIF, with too many tiles or pixels."""
    tiled = detector.with_tiling(Tiling(3))
    pixel = np.zeros((1, 1, 3), np.uint8)
    assert tiled.predict(pixel, threshold=0).queries.tolist() == list(range(9))
    exif = Image.Exif()
    exif[0x112] = 6
    noise().save(tmp_path / "turned.png", exif=exif)
    turned = tiled.predict(tmp_path / "turned.png", threshold=0)
    upright = tiled.predict(noise().rotate(-90, expand=True), threshold=0)
    np.testing.assert_array_equal(turned.boxes, upright.boxes)
    assert turned.queries.max() > 9
    many = detector.with_tiling(Tiling("16x16", 0.9))
    (result,) = many.stream([Image.new("RGB", (400, 400))])
    assert "allowed" in str(result.problem)
    assert f"{MAX_TILES:,}" in str(result.problem)
    (result,) = tiled.stream([tmp_path / "turned.png"], max_pixels=5000)
    assert "5,000" in str(result.problem)


def test_models_with_masks() -> None:
    """Masks of tiles are moved to their place. Maps of tiles are refused."""
    plain = detrcli.load("shapes-masks", "cpu")
    tiling = Tiling("160x256", 0.4)
    tiled, tiles = plain.with_tiling(tiling), tiling.of(256, 256)
    image = Image.fromarray(scene(0, 0, size=256).pixels)
    merged = tiled.predict(image, threshold=0.3)
    assert merged.masks is not None
    assert merged.masks.size == (256, 256)
    every = [plain.predict(image.crop(tile), threshold=0) for tile in tiles]
    of_tiles = 0
    for i, mask in enumerate(merged.masks):
        number, query = divmod(int(merged.queries[i]), plain.checkpoint.config.queries)
        if number:
            tile, masks = tiles[number - 1], every[number - 1].masks
            assert masks is not None
            own = masks[int(np.flatnonzero(every[number - 1].queries == query)[0])]
            np.testing.assert_array_equal(mask[:, tile.left : tile.right], own)
            assert mask.sum() == own.sum() > 0
            of_tiles += 1
    assert 0 < of_tiles < len(merged)
    for refused in (tiled, plain.with_tiling(Tiling(nms=0.5))):
        with pytest.raises(UsageError, match="panoptic maps"):
            refused.stream([noise()], maps=MapRequest("panoptic"))


def test_metrics_use_no_more_than_the_best_of_each_class() -> None:
    rng = np.random.default_rng(0)
    scores, ids = rng.random(200).astype(np.float32).round(1), rng.integers(0, 4, 200)
    every = replace(detections([((0, 0, 1, 1), 0.5)] * 200), scores=scores, category_ids=ids)
    best = best_of_classes(every, 10)
    expected = [i for k in range(4) for i in sorted(np.flatnonzero(ids == k), key=lambda i: -scores[i])[:10]]
    assert best.queries.tolist() == sorted(expected)
