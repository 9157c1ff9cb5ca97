"""`detr data check` on masks: each kind of problem is planted, reported, and excluded where possible."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from here import Detr
from panoptic_set import HEIGHT, IMAGES, WIDTH, Document, document_of, mask_of, write
from PIL import Image

from detrcli.data import examine as examine_module
from detrcli.data.annotations import annotate, classes_in_report
from detrcli.data.augmentation import mask_pixels
from detrcli.data.segmentations import to_rle
from detrcli.data.source import open_data
from detrcli.evaluation.truth import truth_masks, truth_of

POLYGON = [[10, 10, 30, 10, 30, 25, 10, 25]]


def instances(root: Path, change: Callable[[Document], object] = lambda document: None) -> Path:
    """Write two images with a polygon and an RLE mask each; `change` applies to train only."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[5:15, 40:55] = True
    for split, files in (("train", ("a.png", "b.png")), ("val", ("c.png",))):
        (root / split).mkdir(parents=True)
        document: Document = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
        for image, file in enumerate(files, 1):
            noise = np.random.default_rng([image, split == "val"]).integers(0, 256, (8, 12, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((WIDTH, HEIGHT)).save(root / split / file)
            document["images"].append({"id": image, "file_name": file, "width": WIDTH, "height": HEIGHT})
            for number, (box, outline) in enumerate([([10, 10, 20, 15], POLYGON), ([40, 5, 15, 10], to_rle(mask))]):
                document["annotations"].append(
                    {
                        "id": 10 * image + number, "image_id": image, "category_id": 1, "bbox": box,
                        "area": box[2] * box[3], "iscrowd": 0, "segmentation": outline,
                    }
                )  # fmt: skip
        if split == "train":
            change(document)
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return root


def outline(segmentation: object) -> Callable[[Path], object]:
    """Change the first object of train."""
    return lambda root: instances(root, lambda d: d["annotations"][0].update(segmentation=segmentation))


def stuff(change: Callable[[Document], object]) -> Callable[[Path], object]:
    """Annotations that cover the image, as panoptic data in the form of instances."""

    def make(root: Path) -> None:
        def shared(document: Document) -> None:
            document["categories"] = [
                {"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}
            ]  # fmt: skip
            for image in (1, 2):
                own = [item for item in document["annotations"] if item["image_id"] == image]
                free = np.ones((HEIGHT, WIDTH), dtype=bool)
                free[10:25, 10:30] = free[5:15, 40:55] = False
                document["annotations"].append(
                    {
                        **own[0], "id": 10 * image + 5, "category_id": 2, "bbox": [0, 0, WIDTH, HEIGHT],
                        "segmentation": to_rle(free),
                    }
                )  # fmt: skip
            change(document)

        instances(root, shared)

    return make


def panoptic(change: Callable[[Document], object]) -> Callable[[Path], object]:
    def make(root: Path) -> None:
        write(root)
        document = document_of("train")
        change(document)
        (root / "annotations" / "panoptic_train2017.json").write_text(json.dumps(document))

    return make


def info(document: Document, number: int = 1) -> Document:
    """Change a segment of a.jpg, whose annotation is the last."""
    return document["annotations"][-1]["segments_info"][number]


def map_of(spoil: Callable[[Path], object]) -> Callable[[Path], object]:
    def make(root: Path) -> None:
        write(root)
        spoil(root / "annotations" / "panoptic_train2017" / "a.png")

    return make


def painted(color: tuple[int, int, int]) -> Callable[[Path], object]:
    """Paint the cat of a.jpg in another color."""

    def spoil(path: Path) -> None:
        pixels = np.array(Image.open(path))
        pixels[mask_of(IMAGES["train"]["a.jpg"], 1)] = color
        Image.fromarray(pixels).save(path)

    return map_of(spoil)


A = "image 4000000000"
CAT, DOG = f"segment 1792 of {A}", f"segment 197121 of {A}"
OTHER_SIZE = {"size": [WIDTH, HEIGHT], "counts": [WIDTH * HEIGHT]}

# Severity of a problem without and with --skip-bad.
ERROR, LEFT_OUT, WARNING = ("error", "error"), ("error", "warning"), ("warning", "warning")
PLANTED: dict[str, tuple[tuple[str, str], str, str, Callable[[Path], Any]]] = {
    # severity, kind, where
    "a word": (LEFT_OUT, "bad-mask", "annotation 10", outline("cat")),
    "half a corner": (LEFT_OUT, "bad-mask", "annotation 10", outline([[1, 2, 3, 4, 5, 6, 7]])),
    "words for corners": (LEFT_OUT, "bad-mask", "annotation 10", outline([["a"] * 6])),
    "far corners": (LEFT_OUT, "bad-mask", "annotation 10", outline([[0, 0, 1e9, 0, 1e9, 1e9]])),
    "runs too short": (LEFT_OUT, "bad-mask", "annotation 10", outline({"size": [HEIGHT, WIDTH], "counts": [5, 6]})),
    "runs without size": (LEFT_OUT, "bad-mask", "annotation 10", outline({"counts": [5, 6]})),
    "turned runs": (LEFT_OUT, "mask-size", "annotation 10", outline(OTHER_SIZE)),
    "nothing on": (
        WARNING, "empty-mask", "annotation 10", outline({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}),
    ),
    "a line": (WARNING, "flat-polygon", "annotation 10", outline([*POLYGON, [12, 12, 20, 20]])),
    "elsewhere": (WARNING, "mask-outside", "annotation 10", outline([[13, 10, 33, 10, 33, 25, 13, 25]])),
    "no outline": (WARNING, "no-mask", "annotation 10", outline([])),
    "on each other": (
        WARNING, "overlap", "image 1",
        stuff(
            lambda d: d["annotations"][0].update(segmentation=[[0, 9, 30, 9, 30, 25, 0, 25]], bbox=[0, 9, 30, 16])
        ),
    ),
    "a gap": (WARNING, "unclaimed", "image 1", stuff(lambda d: d["annotations"].pop(0))),
    "no map": (LEFT_OUT, "missing-map", A, map_of(lambda path: path.unlink())),
    "no map is named": (LEFT_OUT, "missing-map", A, panoptic(lambda d: d["annotations"].pop())),
    "text for a map": (LEFT_OUT, "bad-map", A, map_of(lambda path: path.write_text("x"))),
    "half a map": (LEFT_OUT, "bad-map", A, map_of(lambda path: path.write_bytes(path.read_bytes()[:90]))),
    "a gray map": (LEFT_OUT, "bad-map", A, map_of(lambda path: Image.new("L", (WIDTH, HEIGHT)).save(path))),
    "a small map": (LEFT_OUT, "mask-size", A, map_of(lambda path: Image.new("RGB", (9, 9)).save(path))),
    "a map elsewhere": (
        ERROR, "leaves-folder", A,
        panoptic(lambda d: d["annotations"][-1].update(file_name="../panoptic_val2017/c.png")),
    ),
    "no color": (
        LEFT_OUT, "missing-segment", f"segment 77 of {A}",
        panoptic(lambda d: d["annotations"][-1]["segments_info"].append({**info(d), "id": 77})),
    ),
    "a stranger": (WARNING, "unknown-segment", A, panoptic(lambda d: d["annotations"][-1]["segments_info"].pop(1))),
    "twice": (
        LEFT_OUT, "segment-twice", CAT,
        panoptic(lambda d: d["annotations"][-1]["segments_info"].append({**info(d), "category_id": 4})),
    ),
    "a box aside": (WARNING, "mask-outside", DOG, panoptic(lambda d: info(d, 2).update(bbox=[20, 20, 30, 15]))),
    "black": (WARNING, "unclaimed", A, painted((0, 0, 0))),
}  # fmt: skip
WITH_ANOTHER = {"a stranger": "unclaimed", "black": "missing-segment"}  # the consequence


@pytest.mark.parametrize("planted", PLANTED)
def test_each_problem_is_reported(detr: Detr, tmp_path: Path, planted: str) -> None:
    """No other problem is reported, with or without --skip-bad, and the exit code is that of its severity."""
    (alone, skipping), kind, where, make = PLANTED[planted]
    make(tmp_path / "data")
    # There is a gap in b.jpg; and without a.jpg no dog to learn.
    unrelated = {"unclaimed", "class-not-in-train", WITH_ANOTHER.get(planted, "")} - {kind}
    for options, severity in (((), alone), (("--skip-bad",), skipping)):
        shown = detr("data", "check", "data", "--json", *options)
        found = [(p["severity"], p["kind"]) for p in shown.json["problems"] if p["kind"] not in unrelated]
        assert found == [(severity, kind)]
        if kind != "unclaimed":
            assert [p["where"] for p in shown.json["problems"] if p["kind"] == kind] == [where]
        elif planted == "black":
            assert "2 of 2" in next(p["what"] for p in shown.json["problems"] if p["kind"] == kind)
        assert shown.code == (3 if "error" in {p["severity"] for p in shown.json["problems"]} else 0)


def test_nothing_wrong(detr: Detr, tmp_path: Path) -> None:
    instances(tmp_path / "data")
    shown = detr("data", "check", "data", "--json").json
    assert (shown["problems"], shown["masks"]) == ([], True)
    stuff(lambda document: None)(tmp_path / "shared")
    assert detr("data", "check", "shared", "--json").json["problems"] == []
    write(tmp_path / "panoptic")
    (gap,) = detr("data", "check", "panoptic", "--json").json["problems"]
    assert gap["kind"] == "unclaimed"
    assert "1 of 2 images have pixels of no segment, 10.6%" in gap["what"]


@pytest.mark.parametrize(
    ("planted", "images", "boxes"),
    [
        ("a word", 2, 3),
        ("turned runs", 2, 3),
        ("nothing on", 2, 4),
        ("no color", 2, 5),
        ("twice", 2, 5),
        ("a small map", 1, 2),
        ("half a map", 1, 2),
    ],
)
def test_excluded_annotations_are_neither_trained_nor_evaluated(
    detr: Detr, tmp_path: Path, planted: str, images: int, boxes: int
) -> None:
    PLANTED[planted][-1](tmp_path / "data")
    split = detr("data", "check", "data", "--json", "--skip-bad").json["splits"]["train"]
    assert (split["images"], split["boxes"]) == (images, boxes)
    examined = examine_module.examine(open_data(tmp_path / "data"), skip_bad=True)
    train = examined.splits["train"]
    annotations = annotate(train, classes_in_report(examined), masks=True)
    assert (len(annotations), len(annotations.boxes)) == (images, boxes)
    for i in range(images):
        masks = annotations.masks(i)
        assert masks is not None
        mask_pixels(masks, HEIGHT, WIDTH)
    truth = truth_of(train)
    masks_ = truth_masks(truth)
    assert masks_ is not None
    assert len(masks_) == len(truth.boxes) >= boxes


def test_data_without_masks_is_read_once(detr: Detr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty outlines, as some exports of boxes have, are not checked as masks."""

    def without(document: Document) -> None:
        for number, item in enumerate(document["annotations"]):
            item["segmentation"] = [] if number else None

    instances(tmp_path / "data", without)
    val = tmp_path / "data" / "annotations" / "instances_val.json"
    document = json.loads(val.read_text())
    without(document)
    val.write_text(json.dumps(document, indent=2))
    monkeypatch.setattr(examine_module, "check_masks", None)
    shown = detr("data", "check", "data", "--json").ok()
    assert shown.json["masks"] is None


def test_masks_are_examined_on_request(detr: Detr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detrcli.data.image_files.TIME_LIMIT", -1.0)
    PLANTED["a word"][-1](tmp_path / "data")
    shown = detr("data", "check", "data").ok()
    assert "--full" in shown.err
    assert detr("data", "check", "data", "--full").code == 3


@pytest.mark.slow
def test_training_and_evaluation_check_first(detr: Detr, tmp_path: Path) -> None:
    """Training and evaluation of masks fail on mask errors."""
    PLANTED["turned runs"][-1](tmp_path / "data")
    quick = ("--weights", "none", "--epochs", 1, "--size", 40, "--set", "workers=0", "--set", "queries=4")
    shown = detr("train", "data", "--model", "dino-tiny-masks", "--out", "run", *quick)
    shown.fails(3, "mask-size: annotation 10", "--skip-bad")
    assert not Path("run").exists()
    shown = detr("train", "data", "--model", "dino-tiny-masks", "--out", "run", *quick, "--skip-bad").ok()
    assert "mask-size: annotation 10" in shown.err
    detr("train", "--resume", "run", "--epochs", 2).ok()
    evaluated = ("eval", "data", "--split", "train", "--weights", "run", "--json")
    assert detr(*evaluated).code == 3
    assert detr(*evaluated, "--skip-bad").json["masks"]["AP"] >= 0
