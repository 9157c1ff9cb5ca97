"""Reports: the metrics of an evaluation, and planted annotation errors among the first suspects."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from here import Detr
from small import TINY, small_weights

import detrcli
from detrcli.data.examine import examine_headers
from detrcli.data.make import make_shapes
from detrcli.data.source import open_data
from detrcli.errors import UsageError
from detrcli.evaluation.class_mapping import map_classes
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import truth_of
from detrcli.inference.detector import Detector
from detrcli.inspection.failures import survey
from detrcli.inspection.session import InspectionSession
from detrcli.inspection.suspects import SUSPECT_KINDS, Predictions, Suspicions

IMAGES = 140  # of train; val is a fifth


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, images=IMAGES, seed=3)
    return folder


@pytest.fixture
def changed(data: Path, tmp_path: Path) -> Callable[[Callable[[list[dict[str, Any]]], None]], Path]:
    """Copies the annotations with a change, beside the same images."""

    def copy(change: Callable[[list[dict[str, Any]]], None]) -> Path:
        root = tmp_path / "changed"
        (root / "annotations").mkdir(parents=True)
        (root / "val").symlink_to(data / "val")
        document = json.loads((data / "annotations" / "instances_val.json").read_text())
        change(document["annotations"])
        (root / "annotations" / "instances_val.json").write_text(json.dumps(document))
        return root

    return copy


def test_metrics_are_those_of_an_evaluation(data: Path) -> None:
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
    assert "<table>" in found._repr_html_()


def test_planted_errors_come_first(changed: Callable[..., Path]) -> None:
    """An error of each kind, in images where the shipped weights are right."""
    planted: dict[str, Any] = {}

    def plant(annotations: list[dict[str, Any]]) -> None:
        large = [item for item in annotations if min(item["bbox"][2:]) >= 20]
        apart = [item for item in large if sum(o["image_id"] == item["image_id"] for o in annotations) <= 2]
        wrong, loose, twice, gone = apart[0], apart[3], apart[5], apart[7]
        wrong["category_id"] = wrong["category_id"] % 5 + 1
        x, y, w, h = loose["bbox"]
        loose["bbox"] = [x + 0.3 * w, y + 0.2 * h, w, h]
        annotations.append({**twice, "id": 9000})
        annotations.remove(gone)
        planted.update(wrong=wrong["id"], loose=loose["id"], twice=twice["id"], gone=gone)

    suspects = detrcli.report(changed(plant), "shapes").document["suspects"]
    assert suspects.keys() == SUSPECT_KINDS.keys()
    assert suspects["wrong_label"][0]["annotation_id"] == planted["wrong"]
    assert suspects["wrong_label"][0]["suggested_category_id"] != suspects["wrong_label"][0]["category_id"]
    assert suspects["loose_box"][0]["annotation_id"] == planted["loose"]
    assert 0.3 < suspects["loose_box"][0]["iou"] < 0.75
    assert [(item["annotation_id"], item["of"]) for item in suspects["duplicate"]] == [(9000, planted["twice"])]
    first, gone = suspects["missing_label"][0], planted["gone"]
    assert (first["image_id"], first["category_id"]) == (gone["image_id"], gone["category_id"])
    x, y, w, h = gone["bbox"]
    np.testing.assert_allclose(first["box"], [x, y, x + w, y + h], atol=4)
    assert all(0 <= item["score"] <= 1 for members in suspects.values() for item in members if "iou" not in item)


class Recorded(Suspicions):
    """Records whether the predictions for the objects of each image are right, in each of the two passes."""

    def add(self, image_id: int, predictions: Sequence[Predictions], detections: Results) -> None:
        objects = np.flatnonzero(self.truth.of_image == image_id)
        expected = np.searchsorted(self.truth.classes.ids, self.truth.of_category[objects])
        for right, item in zip(self.right, predictions, strict=True):
            classes = self.probabilities(objects, *item)
            right += [p is not None and p.argmax() == k for p, k in zip(classes, expected, strict=True)]

    right: tuple[list[bool], list[bool]] = ([], [])


def test_predictions_for_mirrored_images_are_mirrored_back(data: Path) -> None:
    split = examine_headers(open_data(data), ["val"]).splits["val"]
    detector, truth = detrcli.load("shapes", "cpu"), truth_of(split)
    recorded = Recorded(truth, truth.classes.ids)
    survey(InspectionSession(detector, split, map_classes(detector.classes, truth.classes)), recorded, mirrored=True)
    plain, mirrored = recorded.right
    assert len(plain) == len(mirrored) > 60
    assert np.mean(plain) > 0.95
    assert np.mean(mirrored) > 0.95


def test_more_objects_than_queries(changed: Callable[..., Path]) -> None:
    def multiply(annotations: list[dict[str, Any]]) -> None:
        image = annotations[0]["image_id"]
        annotations[:] = [
            {"id": 100 + n, "image_id": image, "category_id": 1, "bbox": [3 * n, 5, 10, 10], "area": 100, "iscrowd": 0}
            for n in range(TINY.queries + 4)
        ]

    detector = Detector(small_weights(TINY), "cpu")
    found = detrcli.report(changed(multiply), detector, match_classes_by_id=True).document
    assert found["objects"]["missed"]["no_query"] == 4


def test_a_time_limit(data: Path) -> None:
    found = detrcli.report(data, "shapes", seconds=0)
    assert not found.document["complete"]
    assert found.document["images"] == 1
    with pytest.raises(UsageError, match="same"):
        detrcli.compare_reports({"a": found, "b": detrcli.report(data, "shapes", limit=2)})


@pytest.mark.slow
def test_the_command(data: Path, tmp_path: Path, detr: Detr) -> None:
    out = tmp_path / "report"
    shown = detr("report", data, "--weights", "shapes", "--out", out, "--json").ok()
    document = shown.json
    assert document["schema"] == "detr.report/1"
    assert document["page"] == str(out / "index.html")
    assert json.loads((out / "report.json").read_text()) == {k: v for k, v in document.items() if k != "page"}
    assert len(list((out / "images").iterdir())) == document["images"]
    image = next((data / "val").iterdir())
    detr("predict", image, "--weights", "shapes", "--threshold", out / "thresholds.json", "--no-images").ok()
    assert detr("report", data, "--weights", "shapes", "--out", out).code == 2  # it exists
    assert detr("report", tmp_path / "none").code == 2
    assert detr("report", data, "--weights", "shapes", "--folds", 3, "--out", tmp_path / "b").code == 2
    shown = detr("report", data, "--weights", "shapes", "--threshold", 0.9, "--out", tmp_path / "c")
    assert "0.90" in shown.out


@pytest.mark.slow
def test_several_models(data: Path, tmp_path: Path, detr: Detr) -> None:
    out = tmp_path / "report"
    shown = detr("report", data, "--weights", "shapes-detr", "--weights", "shapes", "--out", out, "--json").ok()
    document = shown.json
    assert document["schema"] == "detr.report-compare/1"
    assert [item["name"] for item in document["models"]] == ["shapes-detr", "shapes"]
    gain = document["differences"][0]["metrics"]["AP"]
    aps = [item["metrics"]["AP"] for item in document["models"]]
    assert gain["difference"] == pytest.approx(aps[1] - aps[0], abs=1e-6)
    assert gain["low"] <= gain["difference"] <= gain["high"]
    assert "0/index.html#image=" in (out / "index.html").read_text()
    assert (out / "1" / "index.html").is_file()
