"""The twelve metrics and the AP of each class are those of pycocotools, with both libraries that count."""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from cases import counted
from hypothesis import strategies as st
from judge import Document, class_aps, judged, read_both, twelve

from detrcli.evaluation.metrics import Backend, Scores, hotcoco_evaluation, pycocotools_evaluation, score
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth

# Small, medium and large by COCO's count; many pairs overlap, and many equally.
SIDES = [0.0, 4.0, 20.0, 31.9, 32.0, 60.0, 96.0, 150.5, 300.0]
PLACES = [0.0, 3.0, 10.25, 100.0, 130.0]
SCORES = [0.1, 0.5, 0.5, 0.50000001, 0.9, 1.0]


@st.composite
def sets(draw: st.DrawFn) -> tuple[Document, list[Document]]:
    """Objects and results: crowds, gaps and ten digits in ids, empty images, ties, one class, no detections."""

    def ids(least: int, most: int) -> list[int]:
        return draw(st.lists(st.integers(0, 9_999_999_999), min_size=least, max_size=most, unique=True))

    def box() -> list[float]:
        return [
            *draw(st.tuples(st.sampled_from(PLACES), st.sampled_from(PLACES))),
            *draw(st.tuples(st.sampled_from(SIDES), st.sampled_from(SIDES))),
        ]

    images, categories = ids(1, 4), ids(1, 3)
    annotations = [
        {
            "id": number,
            "image_id": draw(st.sampled_from(images)),
            "category_id": draw(st.sampled_from(categories)),
            "bbox": (side := box()),
            "area": side[2] * side[3] * draw(st.sampled_from([1.0, 0.4])),
            "iscrowd": draw(st.sampled_from([0, 0, 0, 1])),
        }
        for number in draw(st.sampled_from([range(0), range(12), range(0, 60, 7)]))
    ]
    results = []
    for near in draw(st.lists(st.booleans(), max_size=25)):
        taken = draw(st.sampled_from(annotations)) if near and annotations else None
        if taken:
            moved = [v * draw(st.sampled_from([1.0, 1.05, 1.2])) for v in taken["bbox"]]
            entry = {"image_id": taken["image_id"], "category_id": taken["category_id"], "bbox": moved}
        else:
            ids_of = {"image_id": draw(st.sampled_from(images)), "category_id": draw(st.sampled_from(categories))}
            entry = {**ids_of, "bbox": box()}
        results.append({**entry, "score": draw(st.sampled_from(SCORES))})
    truth = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 500, "height": 500} for i in images],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"class {i}"} for i in categories],
    }
    return truth, results


def read(document: Document, results: list[Document]) -> tuple[Truth, Results]:
    with tempfile.TemporaryDirectory() as folder:
        return read_both(Path(folder), document, results)


def same(ours: Scores, document: Document, results: list[Document]) -> None:
    assert ours.metrics == pytest.approx(twelve(document, results), rel=0, abs=1e-9)
    by_class = class_aps(judged(document, results))
    assert {of_class.category_id: (of_class.AP, of_class.AP50) for of_class in ours.per_class} == {
        category: pytest.approx(aps, rel=0, abs=1e-9) for category, aps in by_class.items()
    }


@counted(200, sets())
def test_random_sets(case: tuple[Document, list[Document]]) -> None:
    for backend in (hotcoco_evaluation, pycocotools_evaluation):
        same(score(*read(*case), backend=backend), *case)


def crowded(seed: int = 0, images: int = 2, per_image: int = 150) -> tuple[Document, list[Document]]:
    """More detections of an image and class than are counted."""
    rng = np.random.default_rng(seed)
    annotations: list[Document] = []
    results: list[Document] = []
    for image in range(1, images + 1):
        for _ in range(40):
            corner, side = rng.uniform(0, 300, 2), rng.uniform(10, 120, 2)
            box = [*corner.tolist(), *side.tolist()]
            category = int(rng.integers(1, 3))
            entry = {"id": len(annotations), "image_id": image, "category_id": category, "bbox": box}
            annotations.append({**entry, "area": box[2] * box[3], "iscrowd": int(rng.random() < 0.1)})
        for _ in range(2 * per_image):
            near = annotations[-int(rng.integers(1, 41))]
            box = (np.array(near["bbox"]) * rng.normal(1, 0.1, 4)).tolist()
            results.append({"image_id": image, "category_id": near["category_id"], "bbox": box, "score": rng.random()})
    truth = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 500, "height": 500} for i in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
    }
    return truth, results


@pytest.mark.parametrize("backend", [hotcoco_evaluation, pycocotools_evaluation])
@pytest.mark.parametrize("most", [1, 3, 100, 300])
def test_max_detections(backend: Backend, most: int) -> None:
    """Against the accumulated arrays of pycocotools, whose summary supports 100 only."""
    document, results = crowded()
    ours = score(*read(document, results), max_detections=most, backend=backend)
    theirs = judged(document, results, most).eval
    precision, recall = theirs["precision"], theirs["recall"]
    expected = {
        "AP": precision[:, :, :, 0, 2], "AP75": precision[5, :, :, 0, 2], "APm": precision[:, :, :, 2, 2],
        "AR1": recall[:, :, 0, 0], "AR10": recall[:, :, 0, 1], "AR100": recall[:, :, 0, 2],
        "ARl": recall[:, :, 3, 2],
    }  # fmt: skip
    for name, values in expected.items():
        measured = values[values > -1]
        assert ours.metrics[name] == pytest.approx(measured.mean() if len(measured) else -1, rel=0, abs=1e-9), name
    if most == 100:
        same(ours, document, results)
    real = [entry["category_id"] for entry in document["annotations"] if not entry["iscrowd"]]
    assert {s.category_id: s.targets for s in ours.per_class} == {i: real.count(i) for i in set(real)}


def test_pycocotools_replaces_a_missing_hotcoco(monkeypatch: pytest.MonkeyPatch) -> None:
    case = crowded(per_image=5)
    whole = score(*read(*case))
    monkeypatch.setitem(sys.modules, "hotcoco", None)  # cannot be imported
    assert score(*read(*case)).metrics == pytest.approx(whole.metrics)


def test_results_of_other_images_and_classes_are_ignored() -> None:
    document, results = crowded(images=2, per_image=20)
    truth, found = read(document, results)
    half = truth.part(truth.image_ids == 1)
    part = {
        **document,
        "images": document["images"][:1],
        "annotations": [a for a in document["annotations"] if a["image_id"] == 1],
    }
    same(score(half, found), part, [r for r in results if r["image_id"] == 1])


def test_no_classes() -> None:
    document, _ = crowded(images=1, per_image=1)
    scores = score(*read({**document, "annotations": [], "categories": []}, []))
    assert set(scores.metrics.values()) == {-1.0}
    assert scores.per_class == []
