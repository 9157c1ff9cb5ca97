"""The ground truth is scored as written, including boxes that training leaves out or clips."""

from pathlib import Path
from typing import Any

import pytest
from judge import read_both, read_truth, twelve

from detrcli.errors import UsageError
from detrcli.evaluation.metrics import score

BOXES = [[10, 10, 30, 20], [80, 40, 60, 60], [200, 5, 10, 10], [5, 5, 20, 0]]  # inside, partly, outside, flat


@pytest.fixture
def document() -> dict[str, Any]:
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 60} for i in (9, 3)],
        "annotations": [
            {"id": i, "image_id": image, "category_id": 1 + i % 2, "bbox": box, "area": 7.0, "iscrowd": 0}
            for image in (9, 3)
            for i, box in enumerate(BOXES)
        ],
        "categories": [{"id": 2, "name": "Bee"}, {"id": 1, "name": "ant"}],
    }


def test_nothing_is_clipped_or_left_out(document: dict[str, Any], tmp_path: Path) -> None:
    """Boxes without width or outside of the image, areas and crowds; each annotation id twice, 0 too."""
    document["annotations"][1]["iscrowd"] = 1
    truth = read_truth(tmp_path, document)
    assert truth.boxes.tolist() == BOXES * 2
    assert truth.areas.tolist() == [7.0] * 8
    assert truth.crowd.tolist() == [i == 1 for i in range(8)]
    assert truth.image_ids.tolist() == [3, 9]
    results = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.5}
        for a in document["annotations"]
    ]
    truth, found = read_both(tmp_path, document, results)
    assert score(truth, found).metrics == pytest.approx(twelve(document, results), abs=1e-9)
    assert score(truth, found).metrics["AP"] > 0


def test_invalid_boxes_are_not_objects(document: dict[str, Any], tmp_path: Path) -> None:
    for i, box in ((0, [1, 2, 3]), (5, [1, 2, float("nan"), 4]), (6, None)):
        document["annotations"][i]["bbox"] = box
    truth = read_truth(tmp_path, document)
    assert truth.boxes.tolist() == [*BOXES[1:], BOXES[0], BOXES[3]]
    assert truth.of_image.tolist() == [9, 9, 9, 3, 3]


def test_a_missing_area_is_that_of_the_box(document: dict[str, Any], tmp_path: Path) -> None:
    for annotation in document["annotations"]:
        del annotation["area"]
    assert read_truth(tmp_path, document).areas.tolist() == [w * h for _, _, w, h in BOXES * 2]


def test_the_first_images_of_the_file(document: dict[str, Any], tmp_path: Path) -> None:
    truth = read_truth(tmp_path, document, limit=1)
    assert truth.image_ids.tolist() == [9]
    assert set(truth.of_image.tolist()) == {9}


def test_some_classes(document: dict[str, Any], tmp_path: Path) -> None:
    truth = read_truth(tmp_path, document, classes=[" bee "])
    assert truth.classes.names.tolist() == ["Bee"]
    assert set(truth.of_category.tolist()) == {2}
    with pytest.raises(UsageError, match=r"(?s)classes.*wasp.*ant, Bee\."):
        read_truth(tmp_path, document, classes=["wasp", "ant"])


@pytest.mark.parametrize("flat", [False, True])
def test_a_parent_class_counts_only_with_objects(document: dict[str, Any], tmp_path: Path, flat: bool) -> None:
    """A box without height counts, though training leaves it out."""
    document["categories"].append({"id": 0, "name": "insects"})
    document["categories"][1]["supercategory"] = "insects"
    if flat:
        document["annotations"][3]["category_id"] = 0
    assert read_truth(tmp_path, document).classes.ids.tolist() == [0, 1, 2][not flat :]
