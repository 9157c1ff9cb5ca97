"""The twelve numbers of masks are those of pycocotools' `segm`, whoever counts, from annotations as written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import counted, seeds
from judge import METRICS, twelve
from torch import Generator, randint

from detrcli.data.checks import check_split
from detrcli.data.layouts import coco
from detrcli.data.segmentations import to_rle
from detrcli.errors import DataError
from detrcli.evaluation.masks import areas, objects, rows_of, truth_masks
from detrcli.evaluation.metrics import score, with_hotcoco, with_pycocotools
from detrcli.evaluation.results import Results, read_results, write_results
from detrcli.evaluation.truth import Truth, truth_of
from detrcli.run_lengths import MaskRows

HEIGHT, WIDTH = 150, 200
Document = dict[str, Any]


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


def split(seed: int) -> tuple[Document, list[Document]]:
    """Objects with crowds among them, and detections near them or anywhere, with ties."""
    rng = np.random.default_rng(seed)
    images = [{"id": 10 + i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in range(3)]
    annotations, results = [], []
    for number in range(int(rng.integers(0, 14))):
        outline, mask = shape(rng)
        crowd = isinstance(outline, dict) and rng.random() < 0.3
        where = {"image_id": 10 + int(rng.integers(0, 3)), "category_id": int(rng.integers(1, 3))}
        ys, xs = np.nonzero(mask)
        box = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
        annotations.append(
            {
                "id": number,
                **where,
                "bbox": box,
                "area": int(mask.sum()),
                "iscrowd": int(crowd),
                "segmentation": outline,
            }
        )
        for _ in range(int(rng.integers(0, 3))):
            moved = np.roll(mask, rng.integers(-6, 7, 2), axis=(0, 1))
            results.append({**where, "segmentation": to_rle(moved)})
    for _ in range(int(rng.integers(0, 8))):
        where = {"image_id": 10 + int(rng.integers(0, 3)), "category_id": int(rng.integers(1, 3))}
        results.append({**where, "segmentation": to_rle(shape(rng)[1])})
    for entry in results:
        entry |= {"bbox": [1.0, 2.0, 3.0, 4.0], "score": float(rng.choice([0.1, 0.5, 0.5, 0.9]))}
    categories = [{"id": i, "name": name} for i, name in ((1, "cat"), (2, "dog"))]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def read(folder: Path, truth: Document) -> Truth:
    (folder / "truth.json").write_text(json.dumps(truth))
    return truth_of(check_split("val", coco.read(folder / "truth.json", [folder]), images=False))


@counted(100, seeds())
def test_random_sets(g: Generator) -> None:
    import tempfile

    document, entries = split(int(randint(0, 2**31, (), generator=g)))
    with tempfile.TemporaryDirectory() as folder:
        truth = read(Path(folder), document)
        (Path(folder) / "results.json").write_text(json.dumps(entries))
        results = read_results(Path(folder) / "results.json", truth.image_ids, truth.classes.ids)
        masks = truth_masks(truth)
    if not entries or masks is None:
        return
    wanted = twelve(document, [{k: v for k, v in e.items() if k != "bbox"} for e in entries], kind="segm")
    for counting in (with_hotcoco, with_pycocotools):
        found = score(truth, results, counting=counting, masks=masks).metrics
        assert [found[name] for name in METRICS] == [wanted[name] for name in METRICS]


def test_results_are_written_and_read_with_their_masks(tmp_path: Path) -> None:
    document, entries = split(3)
    truth = read(tmp_path, document)
    (tmp_path / "results.json").write_text(json.dumps(entries))
    results = read_results(tmp_path / "results.json", truth.image_ids, truth.classes.ids)
    write_results(results, tmp_path / "again.json")
    assert [one["segmentation"] for one in json.loads((tmp_path / "again.json").read_text())] == [
        one["segmentation"] for one in entries
    ]
    part = results.part(results.scores > 0.4)
    assert part.masks is not None
    assert len(part.masks) == len(part)


def test_areas_of_more_masks_than_fit_in_a_byte() -> None:
    masks = [np.arange(12).reshape(3, 4) < n % 13 for n in range(600)]
    found = areas(rows_of(MaskRows.of(masks, (3, 4))))
    assert found.tolist() == [float(mask.sum()) for mask in masks]


def test_nothing_found(tmp_path: Path) -> None:
    document, _ = split(3)
    truth = read(tmp_path, document)
    nothing = Results(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 4)), np.zeros(0), objects([]))
    for counting in (with_hotcoco, with_pycocotools):
        found = score(truth, nothing, counting=counting, masks=truth_masks(truth)).metrics
        assert found["AP"] == found["AR100"] == 0


def test_truth_without_masks_has_none(tmp_path: Path) -> None:
    document, _ = split(3)
    del document["annotations"][0]["segmentation"]
    assert truth_masks(read(tmp_path, document)) is None
    document["annotations"][0]["segmentation"] = {"size": [3, 3], "counts": [9]}
    with pytest.raises(DataError, match="annotation 0: a mask is 3 x 3, the image 200 x 150"):
        truth_masks(read(tmp_path, document))


@pytest.mark.parametrize("broken", ["mask", {"size": [2, 2], "counts": [10**12]}, {"size": [2, 2]}])
def test_broken_masks_among_results_are_named(tmp_path: Path, broken: object) -> None:
    document, entries = split(3)
    truth = read(tmp_path, document)
    entries[1]["segmentation"] = broken
    (tmp_path / "results.json").write_text(json.dumps(entries))
    with pytest.raises(DataError, match="entry 1: its segmentation is no RLE"):
        read_results(tmp_path / "results.json", truth.image_ids, truth.classes.ids)
