"""Boundary AP by its definition: distances to what is outside of a mask, and pycocotools told of other IoUs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import counted, seeds
from judge import METRICS, judged
from pycocotools.cocoeval import COCOeval
from torch import Generator, randint

from detrcli.data.checks import check_split
from detrcli.data.layouts import coco
from detrcli.data.segmentations import to_rle
from detrcli.evaluation.boundary import boundary_of, with_boundaries
from detrcli.evaluation.masks import truth_masks
from detrcli.evaluation.metrics import score
from detrcli.evaluation.results import read_results
from detrcli.evaluation.truth import truth_of
from detrcli.run_lengths import decode


def by_definition(mask: np.ndarray) -> np.ndarray:
    """Pixels of the mask that have one outside of it within 2 % of the diagonal, along either axis."""
    height, width = mask.shape
    reach = max(1, round(0.02 * (height**2 + width**2) ** 0.5))
    framed = np.pad(mask, reach)  # beyond the picture there is no mask
    near = np.zeros_like(mask)
    for dy in range(2 * reach + 1):
        for dx in range(2 * reach + 1):
            near |= ~framed[dy : dy + height, dx : dx + width]
    return mask & near


def test_by_hand() -> None:
    """In a picture of 30 x 40 the boundary is a pixel wide, in one of 300 x 400 ten."""
    mask = np.zeros((30, 40), dtype=bool)
    mask[5:15, 10:30] = True
    found = boundary_of(mask)
    assert found.sum() == 10 * 20 - 8 * 18
    assert not found[6:14, 11:29].any()
    mask[:, :] = True  # the edge of the picture is one of the mask
    assert boundary_of(mask).sum() == 30 * 40 - 28 * 38
    large = np.zeros((300, 400), dtype=bool)
    large[50:150, 100:300] = True
    assert boundary_of(large).sum() == 100 * 200 - 80 * 180
    large[90:110, 190:210] = False  # a hole has an outline too
    assert boundary_of(large).sum() == 100 * 200 - 80 * 180 + 40 * 40 - 20 * 20
    assert boundary_of(np.zeros((30, 40), dtype=bool)).sum() == 0


def ragged(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A few rectangles with bites taken out of them."""
    mask = np.zeros((height, width), dtype=bool)
    for on in (True, True, True, False, False):
        y, x = rng.integers(-5, height), rng.integers(-5, width)
        h, w = rng.integers(2, 90, 2) if on else rng.integers(1, 12, 2)
        mask[max(y, 0) : y + h, max(x, 0) : x + w] = on
    return mask


@counted(300, seeds())
def test_random_masks(g: Generator) -> None:
    rng = np.random.default_rng(int(randint(0, 2**31, (), generator=g)))
    mask = ragged(rng, *rng.choice([1, 7, 40, 100, 170], 2).tolist())
    np.testing.assert_array_equal(boundary_of(mask), by_definition(mask))


def random_split(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects, some of them crowds, and detections that are a little off or somewhere else."""
    rng = np.random.default_rng(seed)
    height, width = 110, 150
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number in range(1, 15):
        where = {"image_id": int(rng.integers(1, 4)), "category_id": int(rng.integers(1, 3))}
        mask = ragged(rng, height, width)
        annotations.append(
            {
                "id": number, **where, "bbox": [1, 1, 5, 5], "area": int(mask.sum()),
                "iscrowd": int(number % 7 == 0), "segmentation": to_rle(mask),
            }
        )  # fmt: skip
        for _ in range(int(rng.integers(0, 3))):
            off = np.roll(mask, rng.integers(-1, 2, 2), axis=(0, 1))
            results.append({**where, "segmentation": to_rle(off)})
    for entry in results:
        entry |= {"bbox": [1.0, 2.0, 3.0, 4.0], "score": float(rng.choice([0.1, 0.5, 0.5, 0.9]))}
    images = [{"id": i, "file_name": f"{i}.png", "height": height, "width": width} for i in (1, 2, 3)]
    categories = [{"id": i, "name": name} for i, name in ((1, "cat"), (2, "dog"))]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def overlap(found: dict[str, Any], wanted: dict[str, Any]) -> float:
    """The lower of both IoUs, with a crowd by what is found alone; from the pixels."""
    a, b = (decode(one["segmentation"]["counts"].encode(), *one["segmentation"]["size"]) for one in (found, wanted))
    ious = []
    for first, second in ((a, b), (by_definition(a), by_definition(b))):
        whole = first.sum() if wanted["iscrowd"] else (first | second).sum()
        ious.append(float((first & second).sum() / whole) if whole else 0.0)
    return min(ious)


@pytest.mark.parametrize("seed", [0, 1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_twelve_are_those_of_other_ious(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document, entries = random_split(seed)
    (tmp_path / "truth.json").write_text(json.dumps(document))
    (tmp_path / "results.json").write_text(json.dumps(entries))
    truth = truth_of(check_split("val", coco.read(tmp_path / "truth.json", [tmp_path]), images=False))
    results = read_results(tmp_path / "results.json", truth.image_ids, truth.classes.ids)
    masks = truth_masks(truth)
    assert masks is not None
    found = score(truth, results, counting=with_boundaries, masks=masks).metrics

    def by_pixels(self: Any, image: int, category: int) -> Any:
        detections = sorted(self._dts[image, category], key=lambda one: -one["score"])
        objects = self._gts[image, category]
        plain = [
            [
                overlap(
                    {"segmentation": text(one["segmentation"])},
                    {"segmentation": text(other["segmentation"]), "iscrowd": other["iscrowd"]},
                )
                for other in objects
            ]
            for one in detections
        ]
        return np.array(plain) if detections and objects else []

    def text(segmentation: dict[str, Any]) -> dict[str, Any]:
        counts = segmentation["counts"]
        return {**segmentation, "counts": counts.decode() if isinstance(counts, bytes) else counts}

    by_masks = judged(document, [{k: v for k, v in e.items() if k != "bbox"} for e in entries], kind="segm")
    monkeypatch.setattr(COCOeval, "computeIoU", by_pixels)
    other = judged(document, [{k: v for k, v in e.items() if k != "bbox"} for e in entries], kind="segm")
    for evaluation in (other, by_masks):
        evaluation.summarize()
    assert [found[name] for name in METRICS] == pytest.approx(other.stats.tolist())
    assert 0.1 < found["AP"] < by_masks.stats[0]
