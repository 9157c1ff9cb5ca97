"""COCO's panoptic files: ids, classes, boxes and masks, which are read on demand."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import annotated
from here import Detr, Shown
from panoptic_set import HEIGHT, IMAGES, WIDTH, document_of, mask_of, write
from PIL import Image
from torch import Tensor
from trainings import assert_resumes_to_the_same_bits, data_of

from detrcli.data import panoptic_maps as maps
from detrcli.data.annotations import Annotations
from detrcli.data.augmentation import flip, make_sample, mask_pixels
from detrcli.data.examine import examine
from detrcli.data.images import open_image
from detrcli.data.make import make_shapes
from detrcli.data.panoptic_maps import ids_to_rgb, rgb_to_ids
from detrcli.data.segmentations import mask_of as mask_of_text
from detrcli.data.source import open_data
from detrcli.errors import DataError
from detrcli.evaluation.truth import classes_in_split, truth_of


def pixels_of(annotations: Annotations, i: int) -> Tensor:
    return mask_pixels(annotations.masks(i), HEIGHT, WIDTH)


def test_colors_are_ids() -> None:
    colors = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 1], [255, 255, 255], [3, 2, 1]]], dtype=np.uint8)
    ids = rgb_to_ids(colors)
    assert ids.tolist() == [[1, 256, 65536, 16_777_215, 3 + 512 + 65536]]
    np.testing.assert_array_equal(ids_to_rgb(ids), colors)


@pytest.mark.parametrize("beside_images", [False, True])
@pytest.mark.parametrize("named", ["", "annotations/panoptic_train2017.json"])
def test_a_dataset_is_as_drawn(tmp_path: Path, beside_images: bool, named: str) -> None:
    """Given by the folder or by a file, with the maps in either place; crowds are not trained on."""
    root = write(tmp_path / "coco", beside_images=beside_images)
    source = open_data(root / named)
    assert (source.layout, source.splits) == ("coco-panoptic", ["train", "val"])
    for split in ("train", "val"):
        annotations, classes = annotated(root / named, split, masks=True)
        columns = zip(classes.ids.tolist(), classes.names, classes.things, strict=True)
        assert list(columns) == [(1, "cat", True), (4, "dog", True), (9, "sky", False)]
        assert len(annotations) == len(IMAGES[split])
        for i, (file, segments) in enumerate(IMAGES[split].items()):
            assert annotations.path(i) == root / f"{split}2017" / file
            learned = [n for n, segment in enumerate(segments) if not segment.crowd]
            objects = annotations.objects(i)
            assert classes.ids[objects["labels"]].tolist() == [segments[n].category for n in learned]
            drawn = np.array([mask_of(segments, n) for n in learned])
            np.testing.assert_array_equal(pixels_of(annotations, i), drawn)
            for box, mask in zip(objects["boxes"].tolist(), drawn, strict=True):
                rows, columns = np.nonzero(mask)
                assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_the_ground_truth_has_crowds_areas_and_new_ids(tmp_path: Path) -> None:
    examined = examine(open_data(write(tmp_path / "coco")))
    assert examined.ok, examined.problems
    truth = truth_of(examined.splits["train"])
    assert truth.crowd.sum() == 1
    assert len(set(truth.annotation_ids.tolist())) == 6
    masks = [mask_of_text(text, HEIGHT, WIDTH) for text in truth.segmentations.texts()]
    assert [int(mask.sum()) for mask in masks] == truth.areas.tolist()
    crowd = masks[int(np.flatnonzero(truth.crowd)[0])]
    np.testing.assert_array_equal(crowd, mask_of(IMAGES["train"]["a.jpg"], 3))
    only = truth_of(examined.splits["train"], classes=["sky", "dog"]).classes
    assert only.things.tolist() == [True, False]


def test_things_is_none_if_all_classes_are_things(tmp_path: Path) -> None:
    root = write(tmp_path / "coco")
    for path in (root / "annotations").glob("*.json"):
        path.write_text(path.read_text().replace('"isthing": 0', '"isthing": 1'))
    assert classes_in_split(examine(open_data(root)).splits["train"]).things is None


def test_instances_take_precedence_over_panoptic_files(tmp_path: Path) -> None:
    make_shapes(tmp_path / "shapes", images=4, size=32, panoptic=True)
    folder = open_data(tmp_path / "shapes")
    assert (folder.layout, len(folder.read("val").names)) == ("coco", 5)
    for name in ("train", "val"):
        file = open_data(tmp_path / "shapes" / "annotations" / f"panoptic_{name}.json")
        assert (file.layout, file.named) == ("coco-panoptic", name)
        assert file.read("val").names[5:] == ["sky", "grass", "sand"]


def test_a_held_out_split_keeps_its_maps(tmp_path: Path) -> None:
    root = write(tmp_path / "coco")
    (root / "annotations" / "panoptic_val2017.json").unlink()
    source = open_data(root)
    assert source.holds_out
    for split in ("train", "val"):
        written = source.read(split)
        (file,) = written.files
        segments = IMAGES["train"][file]
        assert written.maps.segment_ids.tolist() == [segment.id for segment in segments]
        for place, text in enumerate(written.segmentations.texts()):
            np.testing.assert_array_equal(mask_of_text(text, HEIGHT, WIDTH), mask_of(segments, place))


def test_maps_are_read_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for boxes, and once for all segments of an image."""
    read: list[Path] = []
    plain = maps.read_map
    monkeypatch.setattr(maps, "read_map", lambda path, *size: read.append(path) or plain(path, *size))
    maps._read_cached.cache_clear()
    root = write(tmp_path / "coco")
    annotations, _ = annotated(root, masks=True)
    assert read == []
    before = pixels_of(annotations, 0)
    assert [path.name for path in read] == ["a.png"]
    image = open_image(annotations.path(0)).image
    flipped = flip(make_sample(image, annotations.objects(0), annotations.masks(0))).masks
    assert torch.equal(mask_pixels(flipped, HEIGHT, WIDTH), before.flip(2))
    assert len(read) == 1
    Image.open(root / "annotations" / "panoptic_train2017" / "b.png").save(read[0])  # replace the map
    assert before[1].any()
    assert not pixels_of(annotations, 0)[1].any()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_text("x"), "not a JPEG, PNG"),
        (lambda path: Image.new("RGB", (9, 9)).save(path), "9 x 9, but the image is 60 x 40"),
        (lambda path: Image.new("L", (60, 40)).save(path), "not a PNG with three colors"),
        (lambda path: path.write_bytes(path.read_bytes()[:90]), "cannot be decoded"),
    ],
    ids=["missing", "text", "size", "gray", "half"],
)
def test_a_map_that_breaks_after_the_check(tmp_path: Path, spoil: Callable[[Path], object], reason: str) -> None:
    annotations, _ = annotated(write(tmp_path / "coco"), masks=True)
    spoil(tmp_path / "coco" / "annotations" / "panoptic_train2017" / "a.png")
    with pytest.raises(ValueError, match=f"a.png.*{reason}"):
        pixels_of(annotations, 0)


def test_annotation_files_cannot_name_maps_to_open(tmp_path: Path) -> None:
    """The text of a segment is not valid JSON."""
    text = f"map 5 {write(tmp_path / 'coco') / 'annotations' / 'panoptic_train2017' / 'a.png'}"
    for segmentation in (json.dumps(text), json.dumps({"map": text}), f" {text}"):
        with pytest.raises(ValueError, match="neither polygons nor RLE"):
            mask_of_text(segmentation.encode(), HEIGHT, WIDTH)


@pytest.mark.parametrize("segments", [5, "all", [7], [[1]], {"id": 1}], ids=str)
def test_malformed_segments(tmp_path: Path, segments: object) -> None:
    root = write(tmp_path / "coco")
    document = document_of("train")
    document["annotations"][0]["segments_info"] = segments
    (root / "annotations" / "panoptic_train2017.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match="panoptic_train2017.json: not a COCO annotation file"):
        open_data(root).read("train")


def test_the_fingerprint_of_training_data_depends_on_stuff(tmp_path: Path) -> None:
    """A run cannot be resumed after a class became stuff."""
    root = write(tmp_path / "coco")
    before = data_of(root).fingerprint
    dog = '"name": "dog", "supercategory": "animal", "isthing": '
    for path in (root / "annotations").glob("*.json"):
        path.write_text(path.read_text().replace(f"{dog}1", f"{dog}0"))
    assert data_of(root).fingerprint != before


def test_training_evaluation_and_prediction(detr: Detr, tmp_path: Path) -> None:
    write(tmp_path / "coco")

    def run(line: str) -> Shown:
        return detr(*line.split()).ok()

    small = "--epochs 1 --size 40 --set workers=0 --set queries=8 --batch-size 2"
    run(f"train coco --model dino-tiny-masks --weights none --out run {small}")
    output = "--format panoptic --threshold 0 --out maps --no-images"
    categories = run(f"predict coco/val2017/c.jpg --weights run {output}").json["categories"]
    assert {category["name"]: category["isthing"] for category in categories} == {"cat": 1, "dog": 1, "sky": 0}
    quality = run("eval coco --weights run --json").json["panoptic"]
    assert quality.keys() >= {"PQ", "SQ", "RQ", "things", "stuff", "per_class"}
    run("data show coco --out sheet.png --augmented --size 64")


def test_a_fixed_copy_has_the_same_masks(detr: Detr, tmp_path: Path) -> None:
    """As instances with RLE, and with `isthing`."""
    write(tmp_path / "coco")
    written = open_data(tmp_path / "coco").read("train")
    change = {
        "kind": "wrong_label", "verdict": "wrong", "image_id": int(written.of_image[0]),
        "annotation_id": int(written.annotation_ids[0]), "category_id": 4, "box": [1, 2, 3, 4],
    }  # fmt: skip
    listed = {"schema": "detr.fix/1", "split": "train", "changes": [change]}
    (tmp_path / "list.json").write_text(json.dumps(listed))
    detr("data", "fix", "coco", "--list", "list.json", "--out", "new").ok()
    copy = open_data(tmp_path / "new").read("train")
    assert copy.things == written.things
    assert written.of_category.tolist() != copy.of_category.tolist() == [4, *written.of_category[1:].tolist()]
    for ours, theirs in zip(copy.segmentations.texts(), written.segmentations.texts(), strict=True):
        np.testing.assert_array_equal(mask_of_text(ours, HEIGHT, WIDTH), mask_of_text(theirs, HEIGHT, WIDTH))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.slow
def test_training_resumes_to_the_same_bits(tmp_path: Path) -> None:
    make_shapes(tmp_path / "shapes", images=8, size=48, objects=3, panoptic=True)
    data = tmp_path / "shapes" / "annotations" / "panoptic_train.json"
    assert_resumes_to_the_same_bits(data, tmp_path, model="dino-tiny-masks")
