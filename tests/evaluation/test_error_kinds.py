"""TIDE's kinds of errors, true positives and best thresholds: by hand, by brute force and by pycocotools."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from here import Detr
from split import CAT, DOG, changed, random_split, results, truth

from detrcli.data.make import make_shapes
from detrcli.errors import DataError
from detrcli.evaluation.metrics import accumulated, pycocotools_evaluation, score
from detrcli.evaluation.outcomes import ERROR_KINDS, errors_of
from detrcli.evaluation.pairing import IGNORED, found_objects
from detrcli.evaluation.results import Results
from detrcli.evaluation.thresholds import best_threshold, best_thresholds, read_thresholds, write_thresholds

TRUE = truth(
    (1, CAT, (0, 0, 100, 100)),
    (1, DOG, (200, 200, 100, 100)),
    (2, CAT, (0, 0, 100, 100)),
    (3, DOG, (0, 0, 100, 100)),
    (4, CAT, (0, 0, 100, 100)),
)
# A true positive and an error of each kind; the cat of image 4 is missed.
ROWS: list[Any] = [
    (1, CAT, (0, 0, 100, 100), 0.9),  # true positive
    (1, CAT, (0, 0, 100, 98), 0.8),  # duplicate
    (1, CAT, (200, 200, 100, 100), 0.7),  # a dog
    (2, CAT, (0, 0, 100, 30), 0.6),  # IoU 0.3
    (3, CAT, (0, 0, 100, 30), 0.5),  # a dog, IoU 0.3
    (3, DOG, (500, 500, 10, 10), 0.4),  # background
]
FOUND = results(*ROWS)


def test_each_kind_of_error_once() -> None:
    """The duplicate precedes no true positive, so it costs nothing; other costs are gains of AP50."""
    counts = {error.kind: error.count for error in errors_of(TRUE, FOUND)}
    assert counts == {"class": 1, "box": 1, "both": 1, "duplicate": 1, "background": 1, "missed": 2}
    assert list(counts) == list(ERROR_KINDS)
    costs = {error.kind: error.cost for error in errors_of(TRUE, FOUND)}
    assert costs["duplicate"] == pytest.approx(0, abs=1e-6)
    assert costs["class"] > 0
    assert costs["box"] > 0
    fixed = results(*ROWS[:2], (1, DOG, (200, 200, 100, 100), 0.7), *ROWS[3:])
    gain = score(TRUE, fixed).metrics["AP50"] - score(TRUE, FOUND).metrics["AP50"]
    assert costs["class"] == pytest.approx(gain, abs=1e-6)


def test_perfect_detections_have_no_errors() -> None:
    perfect = Results(TRUE.of_image, TRUE.of_category, TRUE.boxes, np.full(5, 0.9))
    assert all(error.count == 0 for error in errors_of(TRUE, perfect))


def test_true_positives_by_hand() -> None:
    """Crowds are matched by detections that find no other object."""
    assert found_objects(TRUE, FOUND).tolist() == [0, -1, -1, -1, -1, -1]
    true = truth((1, CAT, (0, 0, 50, 50)), (1, CAT, (0, 0, 300, 300)), crowd=[False, True])
    found = results((1, CAT, (0, 0, 50, 50), 0.9), (1, CAT, (100, 100, 50, 50), 0.8), (1, CAT, (290, 290, 50, 50), 0.7))
    assert found_objects(true, found).tolist() == [0, IGNORED, -1]


@pytest.mark.parametrize("seed", range(12))
def test_true_positives_are_those_of_pycocotools(seed: int) -> None:
    """With crowds, duplicates and ties."""
    true, found = random_split(seed, images=6, off=0.15)
    true = changed(true, crowd=np.random.default_rng(seed).random(len(true.crowd)) < 0.15)
    found = replace(found, scores=found.scores.round(1))

    evaluation = pycocotools_evaluation(true, found)
    accumulated(evaluation, [1, 10, 100])
    right, counts = np.zeros(len(found), dtype=bool), np.ones(len(found), dtype=bool)
    for image in evaluation.evalImgs:
        if image is not None and image["aRng"] == [0, 1e10]:
            for id_, matched, ignored in zip(image["dtIds"], image["dtMatches"][0], image["dtIgnore"][0], strict=True):
                right[id_ - 1] = matched > 0 and not ignored
                counts[id_ - 1] = not ignored
    ours = found_objects(true, found)
    assert ((ours >= 0) == right).all()
    assert ((ours != IGNORED) == counts).all()


@pytest.mark.parametrize("seed", range(20))
def test_the_best_threshold_by_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.uniform(size=30).round(1)  # many are equal
    right, objects = rng.uniform(size=30) < scores, 25
    best = best_threshold(scores, right, objects)

    def f1(threshold: float) -> float:
        kept = scores >= threshold
        return float(2 * (right & kept).sum() / (kept.sum() + objects))

    assert best.f1 == pytest.approx(max(map(f1, scores)))
    assert f1(best.threshold) == pytest.approx(best.f1)
    kept = scores >= best.threshold
    assert best.precision == pytest.approx(right[kept].mean())
    assert best.recall == pytest.approx(right[kept].sum() / objects)


def test_a_class_without_true_positives_has_no_threshold_of_its_own(tmp_path: Path) -> None:
    best = best_thresholds(TRUE, FOUND)
    assert best.overall.threshold == pytest.approx(0.85)
    assert (best.by_class["cat"].precision, best.by_class["cat"].recall) == (1, pytest.approx(1 / 3))
    assert best.by_class["dog"].f1 == 0
    write_thresholds(best, tmp_path / "best.json")
    assert read_thresholds(tmp_path / "best.json") == (pytest.approx(0.85), {"cat": pytest.approx(0.85)})


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"schema": "other"}', '{"schema": "detr.thresholds/1", "all": {"threshold": 7}, "classes": {}}'],
)
def test_files_without_thresholds(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=r"x\.json: .*thresholds"):
        read_thresholds(tmp_path / "x.json")


@pytest.mark.slow
def test_from_eval_to_predict(detr: Detr, tmp_path: Path) -> None:
    """The thresholds that `detr eval` writes select the detections of `detr predict`."""
    make_shapes(tmp_path / "data", images=60, size=128)
    data, best = tmp_path / "data", tmp_path / "best.json"
    call = ("eval", data, "--weights", "shapes", "--errors")
    shown = detr(*call, "--thresholds", best, "--json").ok()
    assert [error["kind"] for error in shown.json["errors"]] == list(ERROR_KINDS)
    written = json.loads(best.read_text())
    assert written == shown.json["thresholds"]
    minimum = {name: entry["threshold"] for name, entry in written["classes"].items() if entry["f1"] > 0}
    predict = ("predict", *sorted((data / "val").iterdir()), "--weights", "shapes", "--no-images", "--json")
    kept, every = (detr(*predict, "--threshold", threshold).json["images"] for threshold in (best, 0))
    overall = written["all"]["threshold"]
    for some, all_ in zip(kept, every, strict=True):
        expected = [entry for entry in all_["detections"] if entry["score"] >= minimum.get(entry["label"], overall)]
        assert sorted(entry["score"] for entry in some["detections"]) == sorted(entry["score"] for entry in expected)
    assert any(image["detections"] for image in kept)
    assert "AP50 without" in detr(*call).out
    assert detr(*call, "--thresholds", "t.json", "--threshold", 0.5).code == 2


def test_the_ids_of_coco_results(detr: Detr, tmp_path: Path) -> None:
    """Results with ids counted from 1 belong to other images of this data, which is detected."""
    make_shapes(tmp_path / "data", images=20, size=96)
    data = tmp_path / "data"
    path = data / "annotations" / "instances_val.json"
    document = json.loads(path.read_text())
    for table, key in (("images", "id"), ("annotations", "image_id")):
        for entry in document[table]:
            entry[key] = 5 - entry[key]  # the same ids in another order
    path.write_text(json.dumps(document))
    predict = ("predict", data / "val", "--weights", "shapes", "--no-images", "--format", "coco", "--threshold", 0)
    for name, more in (("counted", ()), ("of_data", ("--ids-from", path))):
        (tmp_path / f"{name}.json").write_text(detr(*predict, *more).out)
    detr("eval", data, "--predictions", tmp_path / "counted.json").fails(3, "counted.json: entry 0")
    right = detr("eval", data, "--predictions", tmp_path / "of_data.json", "--json")
    model = detr("eval", data, "--weights", "shapes", "--json")
    assert right.json["metrics"]["AP"] == pytest.approx(model.json["metrics"]["AP"], abs=1e-3)
