"""A split as in training, the match reports of its images, the use of queries, and the functions in Python."""

import copy
import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from here import Notes
from letterbox import Letterbox
from PIL import Image
from small import TINY, add_proposals, shapes_with_small_classes, small_weights

from detrcli.api.inspecting import explain_matching, walk
from detrcli.data.examine import examine_headers
from detrcli.data.make import make_shapes
from detrcli.data.source import open_data
from detrcli.errors import DataError, UsageError
from detrcli.evaluation.class_mapping import map_classes
from detrcli.evaluation.truth import classes_in_split
from detrcli.inference.detector import Detector
from detrcli.inspection.match_report import MatchReport, match_report
from detrcli.inspection.session import InspectionSession
from detrcli.inspection.usage import query_usage
from detrcli.reporter import SILENT, Reporter
from detrcli.resize import Resize
from detrcli.training.run_folder import METRICS_FILE

pytestmark = pytest.mark.usefixtures("one_thread")
IMAGES = 6


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    shapes_with_small_classes(folder)
    return folder


def session_of(
    root: Path, resize: Resize | None = None, *, skip_bad: bool = False, reporter: Reporter = SILENT
) -> InspectionSession:
    checkpoint = small_weights(TINY)
    if resize is not None:
        checkpoint = replace(checkpoint, preprocessing=replace(checkpoint.preprocessing, resize=resize))
    detector = Detector(checkpoint, "cpu")
    split = examine_headers(open_data(root), ["val"]).splits["val"]
    mapping = map_classes(detector.classes, classes_in_split(split))
    return InspectionSession(detector, split, mapping, skip_bad=skip_bad, reporter=reporter)


@pytest.fixture(scope="module")
def session(root: Path) -> InspectionSession:
    return session_of(root)


def truth_of(root: Path, image: int) -> list[dict[str, Any]]:
    document = json.loads((root / "annotations" / "instances_val.json").read_text())
    return [entry for entry in document["annotations"] if entry["image_id"] == image]


@pytest.fixture(scope="module")
def index(root: Path) -> int:
    """The image with most objects."""
    return max(range(IMAGES), key=lambda i: len(truth_of(root, i + 1)))


@pytest.fixture(scope="module")
def report(session: InspectionSession, index: int) -> MatchReport:
    return match_report(session, index, layers="all", threshold=0.3, other_weights={"class": 50})


@pytest.mark.parametrize("resize", [None, Letterbox(64, 128)], ids=["as trained", "letterbox"])
def test_targets_are_the_ground_truth(root: Path, index: int, resize: Resize | None) -> None:
    document = match_report(session_of(root, resize), index).document()
    names = {1: "dog", 2: "cat", 3: "Żubr"}
    for target, entry in zip(document["targets"], truth_of(root, index + 1), strict=True):
        assert target["annotation_id"] == entry["id"]
        assert target["category_id"] == entry["category_id"]
        assert target["label"] == names[entry["category_id"]]
        x, y, w, h = entry["bbox"]
        assert target["pixels"] == pytest.approx([x, y, x + w, y + h], abs=2e-3)
        share = 0.5 if resize else 1  # of the input's width
        cx, cy, bw, bh = np.array([x + w / 2, y + h / 2, w, h]) / 64
        assert target["box"] == pytest.approx([0.5 + share * (cx - 0.5), cy, share * bw, bh], abs=1e-5)


def cheapest(cost: np.ndarray) -> float:
    """Return the minimum total of costs (Q, N), by brute force."""
    queries, objects = cost.shape
    choices = itertools.permutations(range(queries), objects)
    return min(float(cost[list(chosen), range(objects)].sum()) for chosen in choices)


def test_costs_sum_and_pairs_are_the_cheapest(report: MatchReport) -> None:
    document = report.document()
    n = len(document["targets"])
    assert [layer["layer"] for layer in document["layers"]] == [0, 1, 2]
    for layer in document["layers"]:
        cost = {name: np.array(values) for name, values in layer["cost"].items()}
        assert {values.shape for values in cost.values()} == {(9, n)}
        total = sum(weight * cost[name] for name, weight in document["cost_weights"].items())
        np.testing.assert_allclose(cost["total"], total, atol=1e-5)
        assert sum(pair["total"] for pair in layer["pairs"]) == pytest.approx(cheapest(cost["total"]), abs=1e-4)
        assert document["queries"][layer["layer"]] == [pair["query"] for pair in layer["pairs"]]
        l1 = [layer["cost"]["l1"][pair["query"]][pair["target"]] for pair in layer["pairs"]]
        losses = [loss["l1"] for loss in layer["loss"]["targets"]]
        assert losses == pytest.approx([5 * cost / n for cost in l1], abs=1e-4)
    for change in document["changed"]:
        before, after = document["queries"][change["layer"] - 1 : change["layer"] + 1]
        assert change["targets"] == [i for i in range(n) if before[i] != after[i]]


def test_other_weights_change_pairs(report: MatchReport) -> None:
    other = report.document()["other_weights"]
    assert other["cost_weights"] == {"class": 50, "l1": 5, "giou": 2}
    assert other["flips"]
    for flip in other["flips"]:
        assert report.layers[flip["layer"]].pairs[flip["target"]].query == flip["query"]
        assert flip["other_query"] != flip["query"]
    for layer, queries in zip(report.layers, report.other_queries, strict=True):
        cost = sum(weight * layer.terms[name].astype(float) for name, weight in other["cost_weights"].items())
        assert cost[queries, range(len(queries))].sum() == pytest.approx(cheapest(cost), abs=1e-4)


def test_tables_have_a_cell_for_each_column(report: MatchReport) -> None:
    tables = list(report.tables())
    for table in tables:
        assert {len(row) for row in table.rows} == {len(table.columns)}
    pairs = next(table for table in tables if "runner-up" in table.title)
    matched = [row[0] for row in pairs.rows if row[0] != "runner-up"]
    assert matched == [f"{n} {report.target_name(n)}" for n in range(len(report.target))]
    assert "50 class + 5 l1 + 2 giou" in tables[-1].title
    assert len(tables[-1].rows) == len(report.flips)


def test_mistakes_at_both_ends_of_the_threshold(session: InspectionSession, index: int) -> None:
    """At a threshold of 1 all objects are missed; at 0 every unmatched query is a false positive."""
    strict = match_report(session, index, threshold=1)
    assert list(strict.missed) == list(range(len(strict.target)))
    assert [prediction.layer for prediction in strict.missed[0]] == [0, 1, 2]
    assert strict.false_positives == []
    assert all(strict.miss_reason(prediction) for layers in strict.missed.values() for prediction in layers)
    loose = match_report(session, index, threshold=0)
    unmatched = set(range(9)) - set(loose.layers[-1].queries.tolist())
    assert {positive.query for positive in loose.false_positives} == unmatched
    for positive in loose.false_positives:
        assert (positive.target is None) == (loose.describe(positive) == "background")


def test_an_image_without_objects(session: InspectionSession) -> None:
    document = match_report(session, IMAGES - 1).document()
    assert document["targets"] == document["layers"][0]["pairs"] == document["missed"] == []
    assert document["layers"][0]["cost"]["total"] == [[]] * 9


def test_usage_errors(session: InspectionSession) -> None:
    for layers in ("3", "first", -1):
        with pytest.raises(UsageError, match=f"layers={layers}"):
            match_report(session, 0, layers=layers)
    with pytest.raises(UsageError, match="class, l1, giou"):
        match_report(session, 0, other_weights={"dice": 1})
    foreign = copy.copy(session)
    foreign.loss = SimpleNamespace(matcher=None)  # type: ignore[assignment]  # without the rest
    with pytest.raises(UsageError, match="matched"):
        match_report(foreign, 0)


def test_other_groups_by_name(session: InspectionSession, monkeypatch: pytest.MonkeyPatch) -> None:
    add_proposals(monkeypatch, session.detector.model)
    report = match_report(session, 0)
    document = report.document()
    (group,) = document["groups"]
    assert group["name"] == "encoder"
    assert group["targets"][0]["pixels"] == document["targets"][0]["pixels"]
    assert len(group["layers"]) == 1
    assert len(group["layers"][0]["cost"]["total"]) == 7
    assert len(document["queries"]) == 3  # of the decoder alone
    (table,) = (table for table in report.tables() if "groups" in table.title)
    assert table.rows[0][:4] == ("encoder", 1, 7, len(document["targets"]))


def test_usage_adds_up_the_images(session: InspectionSession) -> None:
    found = query_usage(session, examples=5, threshold=0.3)
    reports = [match_report(session, i, layers="all", threshold=0.3) for i in range(IMAGES)]
    assert found.images == IMAGES
    assert found.targets == sum(len(image.target) for image in reports)
    last = np.concatenate([image.layers[-1].queries for image in reports])
    np.testing.assert_array_equal(found.used.sum(1), np.bincount(last, minlength=9))
    assert found.dead == sorted(set(range(9)) - set(last.tolist())) != []
    np.testing.assert_array_equal(found.sizes.sum(1), found.used.sum(1))
    detected = np.sum([image.layers[-1].scores >= 0.3 for image in reports], axis=0)
    np.testing.assert_array_equal(found.detected, detected)
    queries = np.concatenate([image.decoder.queries for image in reports], axis=1)
    np.testing.assert_array_equal(found.moved, (queries[1:] != queries[:-1]).sum(1))
    margins = sorted(pair.margin or 0 for image in reports for pair in image.layers[-1].pairs)
    assert [example.margin for example in found.closest] == pytest.approx(margins[:5], abs=1e-6)

    document = json.loads(json.dumps(found.document(), allow_nan=False))
    assert [entry["margin"] for entry in document["smallest_margins"]] == pytest.approx(margins[:5], abs=1e-3)
    for query in document["queries"]:
        assert query["used"] == sum(entry["targets"] for entry in query["classes"])
        assert (query["centre"] is None) == (query["used"] == 0)
    instability = [(entry["layer"], entry["changed"]) for entry in document["instability"]]
    assert instability == [*enumerate(found.moved.tolist(), 1)]
    all_moved = replace(found, targets=1, moved=np.ones_like(found.moved)).document()
    assert {entry["share"] for entry in all_moved["instability"]} == {1}
    losses = [entry["loss"]["total"] for entry in document["largest_losses"]]
    assert losses == sorted(losses, reverse=True)
    for entry in document["largest_losses"]:
        layer = reports[entry["image"]["id"] - 1].layers[-1]
        cost = {name: values[entry["query"], entry["target"]] for name, values in layer.terms.items()}
        assert entry["runner_up"] == next(p.runner_up for p in layer.pairs if p.target == entry["target"])
        expected = -math.log(-cost["class"]) + 5 * cost["l1"] + 2 * (1 + cost["giou"])
        assert entry["loss"]["total"] == pytest.approx(expected, abs=1e-3)
    for table in found.tables():
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_sizes_are_those_of_coco(tmp_path: Path) -> None:
    """Objects of up to 32 x 32 pixels are small, of up to 96 x 96 medium."""
    sides = [(32, 32), (33, 32), (96, 96), (97, 96)]
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 128, "height": 128}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "bbox": [0, 0, w, h]} for i, (w, h) in enumerate(sides)
        ],
        "categories": [{"id": 1, "name": "dog"}],
    }
    for folder in ("val", "annotations"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (128, 128)).save(tmp_path / "val" / "a.png")
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(document))
    assert query_usage(session_of(tmp_path)).sizes.sum(0).tolist() == [1, 2, 1]


def test_usage_is_relative_to_the_image(root: Path) -> None:
    """In a letterbox, the input is twice as wide as the image."""
    session = session_of(root, Letterbox(64, 128))
    found, report = query_usage(session), match_report(session, 0)
    corners = report.pixels(report.layers[-1].boxes) / 64  # (Q, 4)
    np.testing.assert_allclose(found.boxes[:, 0, :2], (corners[:, :2] + corners[:, 2:]) / 2, atol=1e-5)
    centers: dict[int, list[np.ndarray]] = {}
    for i in range(IMAGES):
        image = match_report(session, i)
        boxes = image.pixels(image.target.boxes.numpy()) / 64  # (N, 4)
        for pair in image.layers[-1].pairs:
            centers.setdefault(pair.query, []).append((boxes[pair.target, :2] + boxes[pair.target, 2:]) / 2)
    for query, points in centers.items():
        np.testing.assert_allclose(found.centers[query], np.mean(points, axis=0), atol=1e-5)
    for example in found.worst:
        document = example.document
        x, y, w, h = np.array(truth_of(root, document["image"]["id"])[document["target"]]["bbox"]) / 64
        assert document["box"] == pytest.approx([x + w / 2, y + h / 2, w, h], abs=1e-4)


def test_an_unreadable_image(tmp_path: Path) -> None:
    make_shapes(tmp_path, images=15, size=64, classes=("circle",), objects=3)
    broken = tmp_path / "val" / "000001.png"
    data = broken.read_bytes()
    broken.write_bytes(data[: len(data) // 2])
    path = tmp_path / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace('"circle"', '"dog"'))
    with pytest.raises(DataError, match="000001.png"):
        match_report(session_of(tmp_path), 1)
    with pytest.raises(DataError, match="000001.png"):
        query_usage(session_of(tmp_path))
    reporter = Notes()
    assert query_usage(session_of(tmp_path, skip_bad=True, reporter=reporter)).images == 2
    assert "000001.png" in reporter.notes[0]
    for path in (tmp_path / "val").iterdir():
        path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="No image"):
        query_usage(session_of(tmp_path, skip_bad=True))


PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(small_weights(), "cpu")


def test_the_matching_of_an_image_and_of_a_split(root: Path, detector: Detector) -> None:
    image = explain_matching(root, detector, image="000001.png", layers="all")
    assert image.document["image"]["id"] == 2
    assert image._repr_png_().startswith(PNG)
    split = explain_matching(root, detector, whole_split=True)
    assert split.document["images"] == IMAGES
    assert split.document["schema"] == "detr.match-debug-all/1"
    assert split._repr_png_().startswith(PNG)
    with pytest.raises(UsageError):
        explain_matching()


def test_weights_are_not_loaded_if_the_data_has_errors(tmp_path: Path) -> None:
    make_shapes(tmp_path, images=10, size=64)
    (tmp_path / "val" / "000000.png").unlink()

    with pytest.raises(DataError):
        explain_matching(tmp_path, "nowhere")


def test_the_matching_of_a_run(tmp_path: Path) -> None:
    """An image with two objects, two layers and three evaluations."""
    queries = np.array([[[0, 1], [2, 3]], [[0, 4], [3, 2]], [[0, 4], [3, 5]]])  # (E, L, N)
    epochs, image_ids, counts = np.array([2, 4, 6]), np.array([7]), np.array([2])
    np.savez(tmp_path / "matching.npz", epochs=epochs, queries=queries, image_ids=image_ids, counts=counts)
    (tmp_path / METRICS_FILE).write_text("epoch,loss,AP\n2,3,0.1\n4,2,\n6,1,0.5\n")
    found = explain_matching(run=tmp_path)
    assert found.document["evaluations"] == [
        {"epoch": 4, "changed": [1, 2], "loss": 2.0, "AP": None},
        {"epoch": 6, "changed": [0, 1], "loss": 1.0, "AP": 0.5},
    ]
    assert found._repr_png_().startswith(PNG)
    (tmp_path / METRICS_FILE).write_text("epoch,loss,AP\nlast,1,1\n")
    with pytest.raises(DataError, match=METRICS_FILE):
        explain_matching(run=tmp_path)


def test_a_walk_ends_with_the_detections_of_predict(root: Path, detector: Detector, tmp_path: Path) -> None:
    image = root / "val" / "000000.png"
    way, predicted = walk(image, detector), detector.predict(image, threshold=0)
    assert (way.document["width"], way.document["height"]) == (64, 64)
    assert way.steps[0].shape == (3, 64, 64)
    assert way.own_shapes == [step.shape for step in way.steps]
    order = np.argsort(-predicted.scores, kind="stable")
    assert way.detections.queries.tolist() == predicted.queries[order].tolist()
    np.testing.assert_array_equal(way.detections.scores, predicted.scores[order])
    (tmp_path / "b.png").write_text("no image")
    for named in ("b.png", "none.png"):
        with pytest.raises(DataError, match=named):
            walk(tmp_path / named, detector)
