"""A split as training sees it, and the reports of its images: what they say is what the matching did."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small import TINY, small_weights

from detrcli.data.examine import headers_only
from detrcli.data.make import make_shapes
from detrcli.data.source import open_data
from detrcli.errors import DataError, UsageError
from detrcli.evaluation.class_mapping import map_classes
from detrcli.evaluation.truth import classes_in_split
from detrcli.inference.detector import Detector
from detrcli.inspection.mistakes import Answer
from detrcli.inspection.report import MatchReport, match_report
from detrcli.inspection.session import InspectionSession
from detrcli.inspection.usage import usage
from detrcli.resize import Letterbox, Resize
from detrcli.structures import Output, QueryGroup

pytestmark = pytest.mark.usefixtures("one_thread")
IMAGES = 6


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shapes under the names of the small model's classes, the last image without objects."""
    folder = tmp_path_factory.mktemp("root")
    make_shapes(folder, images=30, size=64, classes=("circle", "square", "star"), objects=4)
    path = folder / "annotations" / "instances_val.json"
    document = json.loads(path.read_text())
    for category, name in zip(document["categories"], ("dog", "cat", "Żubr"), strict=True):
        category["name"] = name
    document["annotations"] = [one for one in document["annotations"] if one["image_id"] != IMAGES]
    path.write_text(json.dumps(document))
    return folder


def session_of(root: Path, resize: Resize | None = None, *, skip_bad: bool = False) -> InspectionSession:
    checkpoint = small_weights(TINY)
    if resize is not None:
        checkpoint = replace(checkpoint, preprocessing=replace(checkpoint.preprocessing, resize=resize))
    detector = Detector(checkpoint, "cpu")
    split = headers_only(open_data(root), ["val"]).splits["val"]
    return InspectionSession.of(
        detector, split, map_classes(detector.classes, classes_in_split(split)), skip_bad=skip_bad
    )


@pytest.fixture(scope="module")
def session(root: Path) -> InspectionSession:
    return session_of(root)


def truth_of(root: Path, image: int) -> list[dict[str, Any]]:
    document = json.loads((root / "annotations" / "instances_val.json").read_text())
    return [entry for entry in document["annotations"] if entry["image_id"] == image]


def place_with_most(root: Path) -> int:
    return max(range(IMAGES), key=lambda place: len(truth_of(root, place + 1)))


@pytest.fixture(scope="module")
def report(session: InspectionSession, root: Path) -> MatchReport:
    return match_report(session, place_with_most(root), layers="all", threshold=0.3, other_weights={"class": 50})


def test_images_are_found_by_id_and_by_file(session: InspectionSession, root: Path) -> None:
    assert session.find() == 0
    for named in ("3", 3, "000002.png", "val/000002.png", str(root / "val" / "000002.png")):
        assert session.find(named) == 2
    for named in ("002.png", "99"):
        with pytest.raises(UsageError, match="no picture of this split has that id or file"):
            session.find(named)


@pytest.mark.parametrize("resize", [None, Letterbox(64, 128)], ids=["as trained", "letterbox"])
def test_targets_are_the_ground_truth_in_pixels(root: Path, resize: Resize | None) -> None:
    place = place_with_most(root)
    document = match_report(session_of(root, resize), place).document()
    names = {1: "dog", 2: "cat", 3: "Żubr"}
    for target, entry in zip(document["targets"], truth_of(root, place + 1), strict=True):
        assert target["annotation_id"] == entry["id"]
        assert target["category_id"] == entry["category_id"]
        assert target["label"] == names[entry["category_id"]]
        x, y, w, h = entry["bbox"]
        assert target["pixels"] == pytest.approx([x, y, x + w, y + h], abs=2e-3)
        share = 0.5 if resize else 1  # of the input's width that the picture has
        cx, cy, bw, bh = np.array([x + w / 2, y + h / 2, w, h]) / 64
        assert target["box"] == pytest.approx([0.5 + share * (cx - 0.5), cy, share * bw, bh], abs=1e-5)


def test_costs_sum_and_pairs_are_the_cheapest(report: MatchReport) -> None:
    document = report.document()
    n = len(document["targets"])
    assert [layer["layer"] for layer in document["layers"]] == [0, 1, 2]
    for layer in document["layers"]:
        cost = {name: np.array(values) for name, values in layer["cost"].items()}
        assert {values.shape for values in cost.values()} == {(9, n)}
        total = sum(weight * cost[name] for name, weight in document["cost_weights"].items())
        np.testing.assert_allclose(cost["total"], total, atol=1e-5)
        least = min(
            sum(cost["total"][q, i] for i, q in enumerate(chosen)) for chosen in itertools.permutations(range(9), n)
        )
        assert sum(pair["total"] for pair in layer["pairs"]) == pytest.approx(least, abs=1e-4)
        assert document["queries"][layer["layer"]] == [pair["query"] for pair in layer["pairs"]]
        l1 = [layer["cost"]["l1"][pair["query"]][pair["target"]] for pair in layer["pairs"]]
        shares = [loss["l1"] for loss in layer["loss"]["targets"]]
        assert shares == pytest.approx([5 * cost / n for cost in l1], abs=1e-4)
    for change in document["changed"]:
        before, after = document["queries"][change["layer"] - 1 : change["layer"] + 1]
        assert change["targets"] == [i for i in range(n) if before[i] != after[i]]


def test_other_weights_tell_which_pairs_they_change(report: MatchReport) -> None:
    other = report.document()["other_weights"]
    assert other["cost_weights"] == {"class": 50, "l1": 5, "giou": 2}
    assert other["flips"]
    for flip in other["flips"]:
        assert report.layers[flip["layer"]].pairs[flip["target"]].query == flip["query"]
        assert flip["other_query"] != flip["query"]
    for layer, queries in zip(report.layers, report.other_queries, strict=True):
        terms = other["cost_weights"].items()
        cost = sum(weight * layer.terms[name].astype(float) for name, weight in terms)
        n = len(queries)
        least = min(cost[list(chosen), range(n)].sum() for chosen in itertools.permutations(range(9), n))
        assert cost[queries, range(n)].sum() == pytest.approx(least, abs=1e-4)


def test_weights_of_terms_that_there_are_not(session: InspectionSession) -> None:
    with pytest.raises(UsageError, match="it has class, l1, giou"):
        match_report(session, 0, other_weights={"dice": 1})


def test_arrays_are_those_of_the_document(report: MatchReport) -> None:
    document, arrays = report.document(), report.arrays()
    assert arrays["layers"].tolist() == [0, 1, 2]
    for i, layer in enumerate(document["layers"]):
        for name, values in layer["cost"].items():
            np.testing.assert_allclose(arrays[f"cost_{name}"][i], values, atol=1e-6)
        np.testing.assert_allclose(arrays["boxes"][i], [p["box"] for p in layer["predictions"]], atol=1e-6)
    assert arrays["cost_total"].dtype == np.float32
    assert arrays["queries"].tolist() == document["queries"]
    assert arrays["probabilities"].shape == (3, 9, 3)
    assert arrays["target_category_ids"].tolist() == [one["category_id"] for one in document["targets"]]


def test_tables_have_a_cell_for_each_column(report: MatchReport) -> None:
    tables = report.tables()
    for table in tables:
        assert {len(row) for row in table.rows} == {len(table.columns)}
    pairs = next(table for table in tables if "runner-up" in table.title)
    matched = [row[0] for row in pairs.rows if row[0] != "runner-up"]
    assert matched == [f"{n} {report.target_name(n)}" for n in range(len(report.target))]
    assert tables[-1].title.startswith("with cost = 50 class + 5 l1 + 2 giou")
    assert len(tables[-1].rows) == len(report.flips)


def test_missed_and_false_positives_at_the_ends_of_the_threshold(session: InspectionSession, root: Path) -> None:
    """At a threshold of 1 everything is missed; at 0 every unmatched query is a false positive."""
    place = place_with_most(root)
    strict = match_report(session, place, threshold=1)
    assert [one.target for one in strict.missed] == list(range(len(strict.target)))
    assert [answer.layer for answer in strict.missed[0].answers] == [0, 1, 2]
    assert strict.extra == []
    for one in strict.missed:
        assert all(strict.why(answer) for answer in one.answers)
    loose = match_report(session, place, threshold=0)
    assert {one.query for one in loose.extra} == set(range(9)) - set(loose.layers[-1].queries.tolist())
    for one in loose.extra:
        assert (one.target is None) == (loose.what(one) == "background")


def test_reasons_are_told_with_their_numbers(report: MatchReport) -> None:
    answer = Answer(0, query=1, label=0, score=0.25, own_score=0.25, iou=0.312, why="box")
    assert report.why(answer) == "overlaps too little (IoU 0.31 < 0.5)"
    assert report.why(replace(answer, why="score")) == "score too low (0.250 < 0.3)"


def test_an_image_without_objects(session: InspectionSession) -> None:
    document = match_report(session, IMAGES - 1).document()
    assert document["targets"] == document["layers"][0]["pairs"] == document["missed"] == []
    assert document["layers"][0]["cost"]["total"] == [[]] * 9


def test_layers_that_there_are_not(session: InspectionSession) -> None:
    for wanted in ("3", "first", -1):
        with pytest.raises(UsageError, match="last, all or a number from 0 to 2"):
            match_report(session, 0, layers=wanted)


def test_other_groups_are_explained_by_name(session: InspectionSession, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = type(session.detector.model).forward

    def with_proposals(model: Any, batch: object, targets: object = None) -> Output:
        decoder = forward(model, batch, targets).decoder
        return Output(decoder, (QueryGroup("encoder", decoder.logits[:1, :, :7], decoder.boxes[:1, :, :7]),))

    monkeypatch.setattr(type(session.detector.model), "forward", with_proposals)
    report = match_report(session, 0)
    document = report.document()
    (group,) = document["groups"]
    assert group["name"] == "encoder"
    assert group["targets"][0]["pixels"] == document["targets"][0]["pixels"]
    assert len(group["layers"]) == 1
    assert len(group["layers"][0]["cost"]["total"]) == 7
    assert len(document["queries"]) == 3  # the decoder's layers alone


def test_usage_counts_the_images_one_by_one(session: InspectionSession) -> None:
    done: list[int] = []
    found = usage(session, most=5, threshold=0.3, advance=lambda: done.append(1))
    reports = [match_report(session, place, layers="all", threshold=0.3) for place in range(IMAGES)]
    assert (found.images, len(done)) == (IMAGES, IMAGES)
    assert found.targets == sum(len(one.target) for one in reports)
    last = np.concatenate([one.layers[-1].queries for one in reports])
    np.testing.assert_array_equal(found.used.sum(1), np.bincount(last, minlength=9))
    assert found.dead == sorted(set(range(9)) - set(last.tolist()))
    assert found.dead
    assert found.summary[0].endswith(f"were matched to none ({', '.join(map(str, found.dead))})")
    assert replace(found, used=found.used + 1).summary[0].endswith("0 of 9 queries were matched to none")
    np.testing.assert_array_equal(found.sizes.sum(1), found.used.sum(1))
    queries = np.concatenate([one.decoder.queries for one in reports], axis=1)
    np.testing.assert_array_equal(found.moved, (queries[1:] != queries[:-1]).sum(1))
    margins = sorted(pair.margin or 0 for one in reports for pair in one.layers[-1].pairs)
    assert [one.margin for one in found.closest] == pytest.approx(margins[:5], abs=1e-6)

    document = json.loads(json.dumps(found.document(), allow_nan=False))
    assert [one["margin"] for one in document["smallest_margins"]] == pytest.approx(margins[:5], abs=1e-3)
    instability = [(one["layer"], one["changed"]) for one in document["instability"]]
    assert instability == [*enumerate(found.moved.tolist(), 1)]
    of_one = replace(found, targets=1, moved=np.ones_like(found.moved)).document()
    assert {one["share"] for one in of_one["instability"]} == {1}
    losses = [one["loss"]["total"] for one in document["largest_losses"]]
    assert losses == sorted(losses, reverse=True)
    for one in document["largest_losses"]:
        layer = reports[one["image"]["id"] - 1].layers[-1]
        cost = {name: values[one["query"], one["target"]] for name, values in layer.terms.items()}
        expected = -math.log(-cost["class"]) + 5 * cost["l1"] + 2 * (1 + cost["giou"])
        assert one["loss"]["total"] == pytest.approx(expected, abs=1e-3)
    for table in found.tables():
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_sizes_are_those_of_coco(tmp_path: Path) -> None:
    """Up to 32 x 32 pixels an object is small, and up to 96 x 96 it is medium."""
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
    assert usage(session_of(tmp_path)).sizes.sum(0).tolist() == [1, 2, 1]


def test_usage_is_told_in_shares_of_the_picture(root: Path) -> None:
    """In a letterbox boxes are shares of an input twice as wide as the picture."""
    session = session_of(root, Letterbox(64, 128))
    found = usage(session)
    report = match_report(session, 0)
    corners = report.pixels(report.layers[-1].boxes) / 64  # (Q, 4)
    np.testing.assert_allclose(found.boxes[:, 0, :2], (corners[:, :2] + corners[:, 2:]) / 2, atol=1e-5)
    for one in found.worst:
        entry = truth_of(root, one.image_id)[one.target]
        x, y, w, h = np.array(entry["bbox"]) / 64
        assert one.box.tolist() == pytest.approx([x + w / 2, y + h / 2, w, h], abs=1e-4)


def test_a_picture_that_cannot_be_read(tmp_path: Path) -> None:
    make_shapes(tmp_path, images=15, size=64, classes=("circle",), objects=3)
    broken = tmp_path / "val" / "000001.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    path = tmp_path / "annotations" / "instances_val.json"
    document = json.loads(path.read_text())
    document["categories"] = [{"id": 1, "name": "dog"}]
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match="000001.png"):
        match_report(session_of(tmp_path), 1)
    with pytest.raises(DataError, match="000001.png"):
        usage(session_of(tmp_path))
    notes: list[str] = []
    session = replace(session_of(tmp_path, skip_bad=True), note=notes.append)
    assert usage(session).images == 2
    assert "000001.png" in notes[0]


def test_the_picture_is_the_one_of_its_place(session: InspectionSession, root: Path) -> None:
    with Image.open(root / "val" / "000002.png") as image:
        np.testing.assert_array_equal(np.asarray(session.picture(2)), np.asarray(image.convert("RGB")))
    assert session.size(2) == (64, 64)


def test_a_model_that_keeps_its_matching_to_itself(session: InspectionSession) -> None:
    class Foreign:
        scoring, matcher = session.loss.scoring, None

    with pytest.raises(UsageError, match="does not say how its queries are matched"):
        match_report(replace(session, loss=Foreign()), 0)  # type: ignore[arg-type]  # with no scoring
