"""Kinds of errors and best thresholds, on sets worked by hand and against brute force and pycocotools."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from here import Detr
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from split import CAT, DOG, results, truth

from detrcli.data.make import make_shapes
from detrcli.errors import DataError
from detrcli.evaluation.errors import KINDS, errors_of
from detrcli.evaluation.metrics import score
from detrcli.evaluation.pairing import IGNORED, found_objects
from detrcli.evaluation.results import Results
from detrcli.evaluation.thresholds import best_threshold, best_thresholds, read_thresholds, write_thresholds
from detrcli.evaluation.truth import Truth

TRUE = truth(
    (1, CAT, (0, 0, 100, 100)),
    (1, DOG, (200, 200, 100, 100)),
    (2, CAT, (0, 0, 100, 100)),
    (3, DOG, (0, 0, 100, 100)),
    (4, CAT, (0, 0, 100, 100)),
)
# One error of each kind, and one that is right.
FOUND = results(
    (1, CAT, (0, 0, 100, 100), 0.9),  # right
    (1, CAT, (0, 0, 100, 98), 0.8),  # the same once more
    (1, CAT, (200, 200, 100, 100), 0.7),  # a dog
    (2, CAT, (0, 0, 100, 30), 0.6),  # IoU 0.3
    (3, CAT, (0, 0, 100, 30), 0.5),  # a dog, IoU 0.3
    (3, DOG, (500, 500, 10, 10), 0.4),  # nothing is there
)  # and the cat of image 4 is missed


def test_each_kind_of_error_once() -> None:
    counts = {one.kind: one.count for one in errors_of(TRUE, FOUND)}
    assert counts == {"class": 1, "box": 1, "both": 1, "duplicate": 1, "background": 1, "missed": 2}
    assert counts.keys() == KINDS.keys()


def test_what_an_error_costs() -> None:
    """The duplicate stands before nothing that is right, so it costs nothing; other costs are gains of AP50."""
    costs = {one.kind: one.cost for one in errors_of(TRUE, FOUND)}
    assert costs["duplicate"] == pytest.approx(0, abs=1e-6)
    assert costs["class"] > 0
    assert costs["box"] > 0
    fixed = results(*_rows(FOUND, {2: (1, DOG, (200, 200, 100, 100), 0.7)}))
    gain = score(TRUE, fixed).metrics["AP50"] - score(TRUE, FOUND).metrics["AP50"]
    assert costs["class"] == pytest.approx(gain, abs=1e-6)


def test_mended_detections_are_perfect() -> None:
    perfect = results(
        *(
            (int(image), int(category), tuple(box), 0.9)
            for image, category, box in zip(TRUE.of_image, TRUE.of_category, TRUE.boxes.tolist(), strict=True)
        )
    )
    assert all(one.count == 0 for one in errors_of(TRUE, perfect))
    assert score(TRUE, perfect).metrics["AP50"] == 1


def _rows(found: Results, changed: dict[int, Any]) -> list[Any]:
    rows = zip(found.image_ids, found.category_ids, found.boxes.tolist(), found.scores, strict=True)
    return [changed.get(i, (int(a), int(b), tuple(c), float(d))) for i, (a, b, c, d) in enumerate(rows)]


def test_true_positives_by_hand() -> None:
    assert found_objects(TRUE, FOUND).tolist() == [0, -1, -1, -1, -1, -1]


def test_a_crowd_takes_what_finds_nothing_else() -> None:
    true = truth((1, CAT, (0, 0, 50, 50)), (1, CAT, (0, 0, 300, 300)), crowd=[False, True])
    found = results((1, CAT, (0, 0, 50, 50), 0.9), (1, CAT, (100, 100, 50, 50), 0.8), (1, CAT, (290, 290, 50, 50), 0.7))
    assert found_objects(true, found).tolist() == [0, IGNORED, -1]


def random_case(seed: int) -> tuple[Truth, Results]:
    rng = np.random.default_rng(seed)

    def boxes(n: int) -> np.ndarray:
        return np.column_stack([rng.uniform(0, 60, (n, 2)), rng.uniform(20, 60, (n, 2))]).round(1)

    objects = [
        (int(image), int(rng.choice([CAT, DOG])), tuple(box))
        for image in (1, 2, 3, 4)
        for box in boxes(int(rng.integers(0, 5))).tolist()
    ]
    found = []
    for image, category, box in objects:
        for _ in range(int(rng.integers(0, 3))):
            moved = np.array(box) + rng.normal(0, 6, 4)
            found.append((image, category, tuple(moved.clip(1).round(1).tolist()), round(float(rng.uniform()), 2)))
    extra = [(int(rng.integers(1, 5)), CAT, tuple(box), float(rng.uniform())) for box in boxes(3).tolist()]
    crowd = (rng.uniform(size=len(objects)) < 0.15).tolist()
    return truth(*objects, crowd=crowd), results(*found, *extra)


@pytest.mark.parametrize("seed", range(12))
def test_true_positives_are_those_of_pycocotools(seed: int) -> None:
    true, found = random_case(seed)
    made = COCO()
    made.dataset = {
        "images": [{"id": int(i)} for i in true.image_ids],
        "categories": [{"id": CAT}, {"id": DOG}],
        "annotations": [
            {
                "id": i,
                "image_id": int(a),
                "category_id": int(b),
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(c),
            }
            for i, (a, b, box, c) in enumerate(
                zip(true.of_image, true.of_category, true.boxes.tolist(), true.crowd, strict=True), 1
            )
        ],
    }
    detected = COCO()
    detected.dataset = {
        **made.dataset,
        "annotations": [
            {
                "id": i, "image_id": int(a), "category_id": int(b), "bbox": box, "area": box[2] * box[3],
                "iscrowd": 0, "score": float(s),
            }
            for i, (a, b, box, s) in enumerate(
                zip(found.image_ids, found.category_ids, found.boxes.tolist(), found.scores, strict=True), 1
            )
        ],
    }  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        made.createIndex()
        detected.createIndex()
        evaluation = COCOeval(made, detected, "bbox")
        evaluation.params.areaRng = [[0, 1e10]]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.evaluate()
    right, counts = np.zeros(len(found), dtype=bool), np.ones(len(found), dtype=bool)
    for one in evaluation.evalImgs:
        if one is not None:
            for place, matched, ignored in zip(one["dtIds"], one["dtMatches"][0], one["dtIgnore"][0], strict=True):
                right[place - 1] = matched > 0 and not ignored
                counts[place - 1] = not ignored
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

    assert best.f1 == pytest.approx(max(f1(one) for one in scores))
    assert f1(best.threshold) == pytest.approx(best.f1)
    kept = scores >= best.threshold
    assert best.precision == pytest.approx(right[kept].mean())
    assert best.recall == pytest.approx(right[kept].sum() / objects)


def test_a_class_of_which_nothing_is_right_has_no_threshold_of_its_own(tmp_path: Path) -> None:
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
def test_files_that_hold_no_thresholds(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match="no thresholds of `detr eval --thresholds`"):
        read_thresholds(tmp_path / "x.json")


@pytest.mark.slow
def test_from_eval_to_predict(detr: Detr, tmp_path: Path) -> None:
    """With the weights that come with the package, from which score on each class should count."""
    make_shapes(tmp_path / "data", images=60, size=128)
    data, best = tmp_path / "data", tmp_path / "best.json"
    call = ("eval", data, "--weights", "shapes", "--errors")
    shown = detr(*call, "--thresholds", best, "--json")
    assert shown.code == 0, shown.err
    document = json.loads(shown.out)
    assert [one["kind"] for one in document["errors"]] == list(KINDS)
    written = json.loads(best.read_text())
    assert written == document["thresholds"]
    least = {name: one["threshold"] for name, one in written["classes"].items() if one["f1"] > 0}
    pictures = sorted((data / "val").iterdir())
    predict = ("predict", *pictures, "--weights", "shapes", "--no-images", "--json", "--threshold")
    kept, all_ = (json.loads(detr(*predict, asked).out)["images"] for asked in (best, 0))
    for some, every in zip(kept, all_, strict=True):
        overall = written["all"]["threshold"]
        wanted = [one for one in every["detections"] if one["score"] >= least.get(one["label"], overall)]
        assert sorted(one["score"] for one in some["detections"]) == sorted(one["score"] for one in wanted)
    assert any(image["detections"] for image in kept)
    assert "AP50 without" in detr(*call).out
    assert detr(*call, "--thresholds", "t.json", "--threshold", 0.5).code == 2


def test_the_ids_of_coco_results(detr: Detr, tmp_path: Path) -> None:
    """Counted from 1 they are of other pictures where the data counts otherwise; that is noticed."""
    make_shapes(tmp_path / "data", images=20, size=96)
    data = tmp_path / "data"
    path = data / "annotations" / "instances_val.json"
    document = json.loads(path.read_text())
    for image in document["images"]:
        image["id"] = 5 - image["id"]  # the same ids in another order
    for one in document["annotations"]:
        one["image_id"] = 5 - one["image_id"]
    path.write_text(json.dumps(document))
    predict = ("predict", data / "val", "--weights", "shapes", "--no-images", "--format", "coco", "--threshold", 0)
    for name, more in (("counted", ()), ("theirs", ("--ids-from", path))):
        shown = detr(*predict, *more)
        assert shown.code == 0, shown.err
        (tmp_path / f"{name}.json").write_text(shown.out)
    wrong = detr("eval", data, "--predictions", tmp_path / "counted.json")
    assert wrong.code == 3
    assert "--ids-from" in wrong.err
    right = detr("eval", data, "--predictions", tmp_path / "theirs.json", "--json")
    model = detr("eval", data, "--weights", "shapes", "--json")
    assert json.loads(right.out)["metrics"]["AP"] == pytest.approx(json.loads(model.out)["metrics"]["AP"], abs=1e-3)
    assert detr("predict", data / "val", "--weights", "shapes", "--ids-from", path).code == 2
    (tmp_path / "none.json").write_text('{"images": []}')
    none = detr(*predict, "--ids-from", tmp_path / "none.json")
    assert "0 images of the name" in none.err
