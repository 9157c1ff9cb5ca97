"""Panoptic quality of a set worked by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from here import Detr
from PIL import Image

from detrcli.data.panoptic_maps import ids_to_rgb
from detrcli.errors import DataError
from detrcli.evaluation.panoptic import panoptic_quality

CATEGORIES = [
    {"id": 1, "name": "cat", "isthing": 1},
    {"id": 2, "name": "dog", "isthing": 1},
    {"id": 9, "name": "sky", "isthing": 0},
]
Segment = tuple[int, int, slice, slice]  # id, category, rows and columns


def written(path: Path, *images_: list[Segment], crowd: int | None = None, size: int = 10) -> Path:
    """A file with its maps; later segments cover earlier ones."""
    annotations = []
    for number, segments in enumerate(images_, 1):
        ids = np.zeros((size, size), dtype=np.int32)
        for id_, _, rows, columns in segments:
            ids[rows, columns] = id_
        folder = path.with_suffix("")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ids_to_rgb(ids)).save(folder / f"{number}.png")
        infos = [
            {"id": id_, "category_id": category, "area": int((ids == id_).sum()), "iscrowd": int(id_ == crowd)}
            for id_, category, *_ in segments
        ]
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": infos})
    images = [{"id": n, "file_name": f"{n}.jpg", "height": size, "width": size} for n in range(1, len(images_) + 1)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}))
    return path


ALL = slice(None)
TRUTH = [
    # Image 1: sky above, two cats below it.
    [(5, 9, slice(0, 5), ALL), (70_000, 1, slice(5, 10), slice(0, 5)), (3, 1, slice(5, 10), slice(5, 10))],
    # Image 2: sky, and a missed dog.
    [(8, 9, slice(0, 8), ALL), (4, 2, slice(8, 10), ALL)],
]
FOUND = [
    # The sky one row short: IoU 40 / 50. The first cat a column short: 20 / 25. The second: 10 / 25, too little.
    [(1, 9, slice(0, 4), ALL), (2, 1, slice(5, 10), slice(0, 4)), (3, 1, slice(5, 10), slice(8, 10))],
    # The sky whole.
    [(1, 9, slice(0, 8), ALL)],
]


def test_by_hand(tmp_path: Path) -> None:
    """SQ is the mean IoU of the matches, RQ = TP / (TP + FP / 2 + FN / 2): 1 / 2 for cats, 2 / 2 for skies."""
    found = panoptic_quality(written(tmp_path / "t.json", *TRUTH), written(tmp_path / "p.json", *FOUND))
    by_class = {quality.label: (quality.PQ, quality.SQ, quality.RQ) for quality in found.per_class}
    assert by_class == {"cat": pytest.approx((0.4, 0.8, 0.5)), "dog": (0, 0, 0), "sky": pytest.approx((0.9, 0.9, 1))}
    assert pytest.approx((0.4 / 2, 0.9, 1.3 / 3)) == (found.things.PQ, found.stuff.PQ, found.all.PQ)
    assert pytest.approx((1.7 / 3, 1.5 / 3)) == (found.all.SQ, found.all.RQ)
    assert found.images == 2


def test_classes_are_paired_by_name(tmp_path: Path) -> None:
    """As of a model that numbers classes from 0, in another order, with a class that the data does not have."""
    truth, predicted = written(tmp_path / "t.json", *TRUTH), written(tmp_path / "p.json", *FOUND)
    wanted = panoptic_quality(truth, predicted)
    document = json.loads(predicted.read_text())
    own = ["Sky", "dog", "cat", "unicorn"]
    document["categories"] = [{"id": i, "name": name, "isthing": 1} for i, name in enumerate(own)]
    for annotation in document["annotations"]:
        for info in annotation["segments_info"]:
            info["category_id"] = {1: 2, 2: 1, 9: 0}[info["category_id"]]
    predicted.write_text(json.dumps(document))
    assert panoptic_quality(truth, predicted) == wanted
    document["annotations"][1]["segments_info"][0]["category_id"] = 3
    predicted.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"p\.json: image 2 .*category 3"):
        panoptic_quality(truth, predicted)


def test_segments_on_a_crowd_or_on_unlabeled_pixels_are_ignored(tmp_path: Path) -> None:
    truth = written(tmp_path / "t.json", [(1, 9, slice(0, 2), ALL), (2, 1, slice(2, 6), ALL)], crowd=2)
    predicted = [(1, 9, slice(0, 2), ALL), (2, 1, slice(2, 4), ALL), (3, 1, slice(7, 10), ALL)]
    found = panoptic_quality(truth, written(tmp_path / "p.json", predicted))
    assert [(quality.label, quality.PQ) for quality in found.per_class] == [("sky", 1)]
    assert found.things.PQ == -1 or found.things.PQ == 0


def test_the_command(detr: Detr, tmp_path: Path) -> None:
    truth, predicted = written(tmp_path / "t.json", *TRUTH), written(tmp_path / "p.json", *FOUND)
    shown = detr("eval", "--panoptic", truth, "--predictions", predicted, "--json").ok()
    assert shown.json["panoptic"]["PQ"] == pytest.approx(1.3 / 3)
    assert shown.json["panoptic"]["things"].keys() == {"PQ", "SQ", "RQ"}
    assert "0.433" in detr("eval", "--panoptic", truth, "--predictions", predicted).out
    assert detr("eval", "--panoptic", truth).code == 2


def changed(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("break_", "message"),
    [
        (lambda folder: (folder / "p" / "2.png").unlink(), "the map of image 2"),
        (lambda folder: (folder / "p.json").write_text("[]"), "not a COCO panoptic file"),
        (lambda folder: (folder / "p.json").unlink(), "cannot be read"),
        (lambda folder: written(folder / "p.json", FOUND[0]), "1 of 2 images .* image 2"),
        (lambda folder: written(folder / "p.json", *FOUND, size=12), "cannot be compared"),
        (lambda folder: changed(folder / "p.json", '"2.png"', '"../t/2.png"'), "outside"),
    ],
)
def test_invalid_files(tmp_path: Path, break_: Any, message: str) -> None:
    truth = written(tmp_path / "t.json", *TRUTH)
    predicted = written(tmp_path / "p.json", *FOUND)
    break_(tmp_path)
    with pytest.raises(DataError, match=message):
        panoptic_quality(truth, predicted)
