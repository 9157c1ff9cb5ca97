"""The twelve metrics of masks against pycocotools' `segm`, and boundary AP against its definition."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import counted, seeds
from judge import METRICS, Document, judged, read_both, read_truth, twelve
from pycocotools.cocoeval import COCOeval
from torch import Generator, randint

from detrcli.data.segmentations import to_rle
from detrcli.errors import DataError
from detrcli.evaluation.metrics import (
    areas,
    boundary_evaluation,
    boundary_of,
    hotcoco_evaluation,
    pycocotools_evaluation,
    score,
)
from detrcli.evaluation.results import Results, write_results
from detrcli.evaluation.truth import truth_masks
from detrcli.run_lengths import decode, encode

HEIGHT, WIDTH = 150, 200


def shape(rng: np.random.Generator) -> tuple[Any, np.ndarray]:
    """An outline of one of COCO's three kinds, and its pixels."""
    x, y = rng.integers(0, WIDTH - 5), rng.integers(0, HEIGHT - 5)
    w, h = rng.choice([3, 15, 40, 110]), rng.choice([4, 20, 60, 120])
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[y : y + h, x : x + w] = True
    if rng.random() < 0.4:  # a ring
        mask[y + h // 4 : y + h // 2, x + w // 4 : x + w // 2] = False
        return to_rle(mask), mask
    right, bottom = min(x + w, WIDTH), min(y + h, HEIGHT)
    if rng.random() < 0.5:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.T.flatten(), [0]])))
        ends = [0, *edges.tolist(), mask.size]
        return {"size": [HEIGHT, WIDTH], "counts": np.diff(ends).tolist()}, mask
    return [[int(v) for v in (x, y, right, y, right, bottom, x, bottom)]], mask


def split(seed: int, shift: int = 6) -> tuple[Document, list[Document]]:
    """Objects, some of them crowds, and detections up to `shift` pixels off or anywhere, with ties."""
    rng = np.random.default_rng(seed)
    images = [{"id": 10 + i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in range(3)]
    annotations, results = [], []
    for number in range(int(rng.integers(0, 14))):
        outline, mask = shape(rng)
        crowd = isinstance(outline, dict) and rng.random() < 0.3
        where = {"image_id": 10 + int(rng.integers(0, 3)), "category_id": int(rng.integers(1, 3))}
        area = {"bbox": [1, 1, 5, 5], "area": int(mask.sum()), "segmentation": outline}
        annotations.append({"id": number, **where, **area, "iscrowd": int(crowd)})
        for _ in range(int(rng.integers(0, 3))):
            moved = np.roll(mask, rng.integers(-shift, shift + 1, 2), axis=(0, 1))
            results.append({**where, "segmentation": to_rle(moved)})
    for _ in range(int(rng.integers(0, 8))):
        where = {"image_id": 10 + int(rng.integers(0, 3)), "category_id": int(rng.integers(1, 3))}
        results.append({**where, "segmentation": to_rle(shape(rng)[1])})
    for entry in results:
        entry |= {"bbox": [1.0, 2.0, 3.0, 4.0], "score": float(rng.choice([0.1, 0.5, 0.5, 0.9]))}
    categories = [{"id": i, "name": name} for i, name in ((1, "cat"), (2, "dog"))]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def without_boxes(entries: list[Document]) -> list[Document]:
    return [{key: value for key, value in entry.items() if key != "bbox"} for entry in entries]


@counted(100, seeds())
def test_random_sets(g: Generator) -> None:
    document, entries = split(int(randint(0, 2**31, (), generator=g)))
    with tempfile.TemporaryDirectory() as folder:
        truth, results = read_both(Path(folder), document, entries)
        masks = truth_masks(truth)
    if not entries or masks is None:
        return
    wanted = twelve(document, without_boxes(entries), kind="segm")
    for backend in (hotcoco_evaluation, pycocotools_evaluation):
        found = score(truth, results, backend=backend, masks=masks).metrics
        assert [found[name] for name in METRICS] == [wanted[name] for name in METRICS]


def test_results_are_written_and_read_with_their_masks(tmp_path: Path) -> None:
    document, entries = split(3)
    _, results = read_both(tmp_path, document, entries)
    write_results(results, tmp_path / "again.json")
    again = json.loads((tmp_path / "again.json").read_text())
    assert [entry["segmentation"] for entry in again] == [entry["segmentation"] for entry in entries]
    part = results.part(results.scores > 0.4)
    assert part.masks is not None
    assert len(part.masks) == len(part)


def test_areas_of_more_masks_than_fit_in_a_byte() -> None:
    masks = [np.arange(12).reshape(3, 4) < n % 13 for n in range(600)]
    found = areas(np.array([{"size": [3, 4], "counts": encode(mask)} for mask in masks]))
    assert found.tolist() == [float(mask.sum()) for mask in masks]


def test_no_detections(tmp_path: Path) -> None:
    truth = read_truth(tmp_path, split(3)[0])
    nothing = Results(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=object))
    for backend in (hotcoco_evaluation, pycocotools_evaluation):
        found = score(truth, nothing, backend=backend, masks=truth_masks(truth)).metrics
        assert found["AP"] == found["AR100"] == 0


def test_objects_without_masks_and_with_broken_ones(tmp_path: Path) -> None:
    document, _ = split(3)
    del document["annotations"][0]["segmentation"]
    assert truth_masks(read_truth(tmp_path, document)) is None
    document["annotations"][0]["segmentation"] = {"size": [3, 3], "counts": [9]}
    with pytest.raises(DataError, match=r"annotation 0: .* 3 x 3.* 200 x 150"):
        truth_masks(read_truth(tmp_path, document))


@pytest.mark.parametrize("broken", ["mask", {"size": [2, 2], "counts": [10**12]}, {"size": [2, 2]}])
def test_broken_masks_among_results_are_named(tmp_path: Path, broken: object) -> None:
    document, entries = split(3)
    entries[1]["segmentation"] = broken
    with pytest.raises(DataError, match="entry 1: .*RLE"):
        read_both(tmp_path, document, entries)


def by_definition(mask: np.ndarray) -> np.ndarray:
    """Pixels of the mask with a pixel outside of it within 2 % of the diagonal, along either axis."""
    height, width = mask.shape
    reach = max(1, round(0.02 * (height**2 + width**2) ** 0.5))
    framed = np.pad(mask, reach)  # beyond the image there is no mask
    near = np.zeros_like(mask)
    for dy in range(2 * reach + 1):
        for dx in range(2 * reach + 1):
            near |= ~framed[dy : dy + height, dx : dx + width]
    return mask & near


def test_boundaries_by_hand() -> None:
    """In an image of 30 x 40 the boundary is a pixel wide, in an image of 300 x 400 ten."""
    for scale, width in ((1, 1), (10, 10)):
        mask = np.zeros((30 * scale, 40 * scale), dtype=bool)
        assert not boundary_of(mask).any()
        mask[5 * scale : 15 * scale, 10 * scale : 30 * scale] = True
        found = boundary_of(mask)
        assert found.sum() == (10 * scale) * (20 * scale) - (10 * scale - 2 * width) * (20 * scale - 2 * width)
        assert not found[5 * scale + width : 15 * scale - width, 10 * scale + width : 30 * scale - width].any()
    mask[90:110, 190:210] = False  # a hole has an outline too
    assert boundary_of(mask).sum() == 100 * 200 - 80 * 180 + 40 * 40 - 20 * 20
    whole = np.ones((30, 40), dtype=bool)  # the edge of the image is an edge of the mask
    assert boundary_of(whole).sum() == 30 * 40 - 28 * 38


@counted(300, seeds())
def test_boundaries_of_random_masks(g: Generator) -> None:
    """Rectangles with bites taken out of them."""
    rng = np.random.default_rng(int(randint(0, 2**31, (), generator=g)))
    height, width = rng.choice([1, 7, 40, 100, 170], 2).tolist()
    mask = np.zeros((height, width), dtype=bool)
    for on in (True, True, True, False, False):
        y, x = rng.integers(-5, height), rng.integers(-5, width)
        h, w = rng.integers(2, 90, 2) if on else rng.integers(1, 12, 2)
        mask[max(y, 0) : y + h, max(x, 0) : x + w] = on
    np.testing.assert_array_equal(boundary_of(mask), by_definition(mask))


def pixels(entry: Document) -> np.ndarray:
    counts = entry["segmentation"]["counts"]
    return decode(counts if isinstance(counts, bytes) else counts.encode(), *entry["segmentation"]["size"])


def lower_iou(detection: Document, annotation: Document) -> float:
    """The lower IoU of masks and of boundaries, from the pixels; with a crowd, the share of the detection."""
    a, b = pixels(detection), pixels(annotation)
    ious = []
    for first, second in ((a, b), (by_definition(a), by_definition(b))):
        whole = first.sum() if annotation["iscrowd"] else (first | second).sum()
        ious.append(float((first & second).sum() / whole) if whole else 0.0)
    return min(ious)


@pytest.mark.parametrize("seed", [3, 5, pytest.param(7, marks=pytest.mark.slow)])
def test_boundary_metrics_are_those_of_the_lower_iou(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document, entries = split(seed, shift=1)
    truth, results = read_both(tmp_path, document, entries)
    found = score(truth, results, backend=boundary_evaluation, masks=truth_masks(truth)).metrics
    plain = twelve(document, without_boxes(entries), kind="segm")

    def by_pixels(self: Any, image: int, category: int) -> Any:
        detections = sorted(self._dts[image, category], key=lambda entry: -entry["score"])
        objects = self._gts[image, category]
        return np.array([[lower_iou(d, o) for o in objects] for d in detections]) if objects else []

    for annotation, mask in zip(document["annotations"], truth_masks(truth), strict=True):
        annotation["segmentation"] = {**mask, "counts": mask["counts"].decode()}
    monkeypatch.setattr(COCOeval, "computeIoU", by_pixels)
    evaluation = judged(document, without_boxes(entries), kind="segm")
    evaluation.summarize()
    assert [found[name] for name in METRICS] == pytest.approx(evaluation.stats.tolist())
    assert 0.1 < found["AP"] < plain["AP"]
