"""What went wrong on a split: the same figures as an evaluation has, and the planted faults of its annotations."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from here import Detr
from small import TINY, small_weights

import detrcli
from detrcli.api.datasets import checked_split
from detrcli.api.inspecting import session_of
from detrcli.data.make import make_shapes
from detrcli.data.source import open_data
from detrcli.errors import UsageError
from detrcli.evaluation.truth import truth_of
from detrcli.inference.detector import Detector
from detrcli.inspection.survey import Predictions, SurveyedImage, survey
from detrcli.inspection.suspects import KINDS, Suspicions

IMAGES = 140  # of train; val is a fifth


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, images=IMAGES, seed=3)
    return folder


@pytest.fixture
def spoiled(data: Path, tmp_path: Path) -> Callable[[Callable[[list[dict[str, Any]]], None]], Path]:
    """A copy of the annotations after a change, beside the same pictures."""

    def change(spoil: Callable[[list[dict[str, Any]]], None]) -> Path:
        root = tmp_path / "spoiled"
        (root / "annotations").mkdir(parents=True)
        (root / "val").symlink_to(data / "val")
        document = json.loads((data / "annotations" / "instances_val.json").read_text())
        spoil(document["annotations"])
        (root / "annotations" / "instances_val.json").write_text(json.dumps(document))
        return root

    return change


def test_figures_are_those_of_an_evaluation(data: Path) -> None:
    found = detrcli.report(data, "shapes")
    evaluated = detrcli.evaluate(data, "shapes")
    document = found.document
    for name, value in evaluated.metrics.items():
        assert document["metrics"][name] == pytest.approx(value, abs=1e-6), name
    assert document["metrics"]["AP_low"] <= document["metrics"]["AP"] <= document["metrics"]["AP_high"]
    objects = document["objects"]
    assert objects["total"] == (~evaluated.truth.crowd).sum()
    assert objects["found"] + sum(objects["missed"].values()) == objects["total"]
    assert document["layers"][-1]["AP"] == pytest.approx(document["metrics"]["AP"])
    assert document["complete"]
    json.dumps(document, allow_nan=False)
    assert "82 objects" in str(found)
    assert "<table>" in found._repr_html_()


def test_planted_faults_come_first(spoiled: Callable[..., Path]) -> None:
    """One of each kind, in pictures where the shipped weights are right."""
    planted: dict[str, Any] = {}

    def spoil(annotations: list[dict[str, Any]]) -> None:
        large = [one for one in annotations if min(one["bbox"][2:]) >= 20]
        apart = [one for one in large if sum(o["image_id"] == one["image_id"] for o in annotations) <= 2]
        wrong, loose, twice, gone = apart[0], apart[3], apart[5], apart[7]
        wrong["category_id"] = wrong["category_id"] % 5 + 1
        x, y, w, h = loose["bbox"]
        loose["bbox"] = [x + 0.3 * w, y + 0.2 * h, w, h]
        annotations.append({**twice, "id": 9000})
        annotations.remove(gone)
        planted.update(wrong=wrong["id"], loose=loose["id"], twice=twice["id"], gone=gone)

    suspects = detrcli.report(spoiled(spoil), "shapes").document["suspects"]
    assert suspects.keys() == KINDS.keys()
    assert suspects["wrong_label"][0]["annotation_id"] == planted["wrong"]
    assert suspects["wrong_label"][0]["suggested_category_id"] != suspects["wrong_label"][0]["category_id"]
    assert suspects["loose_box"][0]["annotation_id"] == planted["loose"]
    assert 0.3 < suspects["loose_box"][0]["iou"] < 0.75
    assert [(one["annotation_id"], one["of"]) for one in suspects["duplicate"]] == [(9000, planted["twice"])]
    first, gone = suspects["missing_label"][0], planted["gone"]
    assert (first["image_id"], first["category_id"]) == (gone["image_id"], gone["category_id"])
    x, y, w, h = gone["bbox"]
    np.testing.assert_allclose(first["box"], [x, y, x + w, y + h], atol=4)
    for members in suspects.values():
        scores = [one["score"] for one in members if "iou" not in one]
        assert all(0 <= score <= 1 for score in scores)


def test_mirror_images_say_what_the_image_says(data: Path) -> None:
    """Of the same objects in the same places; so both count for a suspicion of what was learned by heart."""
    checked = checked_split(open_data(data), "val")
    session = session_of(detrcli.load("shapes", "cpu"), checked)
    truth = truth_of(checked)
    suspicions = Suspicions(truth, truth.classes.ids)
    right = []

    def looked(image: SurveyedImage, predictions: Sequence[Predictions]) -> None:
        objects = np.flatnonzero(truth.of_image == image.image_id)
        own = np.searchsorted(truth.classes.ids, truth.of_category[objects])
        for one in predictions:
            said = suspicions._said_of(objects, one)
            right.append([v is not None and v.argmax() == k for v, k in zip(said, own, strict=True)])

    survey(session, looked, mirrored=True)
    plain, mirrored = np.concatenate(right[::2]), np.concatenate(right[1::2])
    assert len(plain) == len(mirrored) > 60
    assert plain.mean() > 0.95
    assert mirrored.mean() > 0.95


def test_more_objects_than_queries(spoiled: Callable[..., Path]) -> None:
    """What no query was left for is said to be missed by that."""

    def spoil(annotations: list[dict[str, Any]]) -> None:
        image = annotations[0]["image_id"]
        annotations.clear()
        for n in range(TINY.queries + 4):
            annotations.append(
                {"id": 100 + n, "image_id": image, "category_id": 1, "bbox": [3 * n, 5, 10, 10],
                 "area": 100, "iscrowd": 0}
            )  # fmt: skip

    checkpoint = small_weights(TINY)
    detector = Detector(checkpoint, torch.device("cpu"))
    found = detrcli.report(spoiled(spoil), detector, match_classes_by_id=True).document
    assert found["objects"]["missed"]["no_query"] == 4


def test_there_is_time_for_a_part(data: Path) -> None:
    found = detrcli.report(data, "shapes", seconds=0)
    assert not found.document["complete"]
    assert found.document["images"] == 1


@pytest.mark.slow
def test_as_a_command(data: Path, tmp_path: Path, detr: Detr) -> None:
    out = tmp_path / "report"
    shown = detr("report", data, "--weights", "shapes", "--out", out, "--json")
    assert shown.code == 0, shown.err
    document = json.loads(shown.out)
    assert document["schema"] == "detr.report/1"
    assert document["page"] == str(out / "index.html")
    assert json.loads((out / "report.json").read_text()) == {k: v for k, v in document.items() if k != "page"}
    assert {path.name for path in out.iterdir()} == {
        "index.html", "pictures", "pieces", "report.json", "thresholds.json"
    }  # fmt: skip
    assert len(list((out / "pictures").iterdir())) == document["images"]
    picture = next((data / "val").iterdir())
    used = detr("predict", picture, "--weights", "shapes", "--threshold", out / "thresholds.json", "--no-images")
    assert used.code == 0, used.err
    assert detr("report", data, "--weights", "shapes", "--out", out).code == 2  # it is there
    assert detr("report", tmp_path / "none").code == 2
    assert detr("report", data, "--weights", "shapes", "--folds", 3, "--out", tmp_path / "b").code == 2
    shown = detr("report", data, "--weights", "shapes", "--threshold", 0.9, "--out", tmp_path / "c")
    assert "scores of 0.90 and more" in shown.out
    assert not [line for line in shown.out.splitlines() if "Traceback" in line]


@pytest.mark.slow
def test_models_side_by_side(data: Path, tmp_path: Path, detr: Detr) -> None:
    out = tmp_path / "report"
    shown = detr("report", data, "--weights", "shapes-detr", "--weights", "shapes", "--out", out, "--json")
    assert shown.code == 0, shown.err
    document = json.loads(shown.out)
    assert document["schema"] == "detr.report-compare/1"
    assert [one["name"] for one in document["models"]] == ["shapes-detr", "shapes"]
    gain = document["differences"][0]["metrics"]["AP"]
    aps = [one["metrics"]["AP"] for one in document["models"]]
    assert gain["difference"] == pytest.approx(aps[1] - aps[0], abs=1e-6)
    assert gain["low"] <= gain["difference"] <= gain["high"]
    page = (out / "index.html").read_text()
    assert "0/index.html#image=" in page
    assert (out / "1" / "index.html").is_file()


@pytest.mark.slow
def test_reports_on_other_pictures_are_not_compared(data: Path) -> None:
    from detrcli.api.reporting import compare_reports

    one = detrcli.report(data, "shapes", seconds=0)
    whole = detrcli.report(data, "shapes")
    with pytest.raises(UsageError, match="same pictures"):
        compare_reports({"a": one, "b": whole})
