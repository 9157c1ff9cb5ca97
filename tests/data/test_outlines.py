"""Outlines come lazily out of every layout that has them, and become the masks of the network's input."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detrcli.config import Preprocessing
from detrcli.data.annotations import Annotations, annotate, classes_in_report
from detrcli.data.dataset import DetectionDataset, Example, UnreadableSample
from detrcli.data.examine import examine
from detrcli.data.lazy_masks import LazyMasks
from detrcli.data.make import VAL_FIRST, make_shapes
from detrcli.data.segmentations import as_text, to_rle
from detrcli.data.shapes import scene
from detrcli.data.source import open_data
from detrcli.errors import DataError
from detrcli.resize import ShortestEdge


def annotations_of(data: Path, split: str = "train", *, masks: bool = True) -> Annotations:
    examined = examine(open_data(data), masks=False)
    return annotate(examined.splits[split], classes_in_report(examined), masks=masks)


def example(annotations: Annotations, i: int, size: int) -> Example:
    dataset = DetectionDataset(annotations, Preprocessing(ShortestEdge(size, 4 * size)), augmentation="none")
    found = dataset[0, i]
    assert isinstance(found, Example)
    return found


def test_shapes_have_the_masks_that_were_drawn(tmp_path: Path) -> None:
    make_shapes(tmp_path / "shapes", images=20, size=64)
    annotations = annotations_of(tmp_path / "shapes", "val")
    for i in range(len(annotations)):
        drawn = scene(0, VAL_FIRST + i, 64).masks
        masks = example(annotations, i, 64).target.masks
        assert masks is not None
        np.testing.assert_array_equal(masks, drawn)
        twice = example(annotations, i, 128).target.masks
        assert twice is not None
        np.testing.assert_array_equal(twice, drawn.repeat(2, 1).repeat(2, 2))
    assert example(annotations_of(tmp_path / "shapes", masks=False), 0, 64).target.masks is None


def folder(tmp_path: Path, segmentations: list[object]) -> Path:
    """A picture of 10 x 8 pixels in two splits, with an object for each outline; `...` stands for none."""
    annotations = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [2, 1, 4, 3], "area": 12, "segmentation": one}
        for i, one in enumerate(segmentations, 1)
    ]
    for entry in annotations:
        if entry["segmentation"] is ...:
            del entry["segmentation"]
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 10, "height": 8}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "dog"}],
    }
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        Image.new("RGB", (10, 8)).save(tmp_path / split / "a.png")
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return tmp_path


POLYGON = [[2, 1, 6, 1, 6, 4, 2, 4]]


def test_polygons_and_both_kinds_of_run_lengths(tmp_path: Path) -> None:
    expected = np.zeros((8, 10), dtype=bool)
    expected[1:4, 2:6] = True
    runs = {"size": [8, 10], "counts": [17, 3, 5, 3, 5, 3, 5, 3, 36]}
    found = example(annotations_of(folder(tmp_path, [POLYGON, runs, to_rle(expected)])), 0, 8).target.masks
    assert found is not None
    np.testing.assert_array_equal(found, [expected] * 3)


def test_a_polygon_of_two_corners_covers_nothing(tmp_path: Path) -> None:
    found = example(annotations_of(folder(tmp_path, [[[2, 1, 6, 4]], [[0, 0, 1, 1], *POLYGON]])), 0, 8)
    assert found.target.masks is not None
    assert found.target.masks.flatten(1).sum(1).tolist() == [0, 12]


def test_numbers_that_only_python_reads_do_not_hide_the_outlines(tmp_path: Path) -> None:
    data = folder(tmp_path, [POLYGON])
    for path in (data / "annotations").iterdir():
        path.write_text(path.read_text().replace('"area": 12', '"area": NaN'))
    masks = example(annotations_of(data), 0, 8).target.masks
    assert masks is not None
    assert masks.sum() == 12


@pytest.mark.parametrize("missing", [..., None, []])
def test_an_object_without_mask_is_told_before_training(tmp_path: Path, missing: object) -> None:
    data = folder(tmp_path, [POLYGON, missing])
    annotations_of(data, masks=False)
    with pytest.raises(DataError, match="1 of 2 objects have no mask, the first of them is annotation 2"):
        annotations_of(data)


@pytest.mark.parametrize(
    ("outline", "said"),
    [
        ([[1, 2, 3]], "neither polygons nor RLE"),
        ({"size": [8, 10], "counts": [5]}, "neither polygons nor RLE"),
        ({"size": [4, 4], "counts": [16]}, "a mask is 4 x 4, the picture 10 x 8"),
        ("everything", "neither polygons nor RLE"),
    ],
)
def test_a_broken_outline_is_told_with_its_picture(tmp_path: Path, outline: object, said: str) -> None:
    dataset = DetectionDataset(
        annotations_of(folder(tmp_path, [outline])), Preprocessing(ShortestEdge(8, 16)), augmentation="none"
    )
    found = dataset[0, 0]
    assert isinstance(found, UnreadableSample)
    assert "a.png" in found.message
    assert said in found.message


def test_polygons_of_yolo(tmp_path: Path) -> None:
    """Beside a box, which is no mask."""
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "labels" / split).mkdir(parents=True)
        Image.new("RGB", (10, 8)).save(tmp_path / "images" / split / "a.png")
    polygon = "0 0.2 0.125 0.6 0.125 0.6 0.5 0.2 0.5\n"
    (tmp_path / "labels" / "train" / "a.txt").write_text(polygon)
    (tmp_path / "labels" / "val" / "a.txt").write_text(polygon + "0 0.5 0.5 0.2 0.2\n")
    masks = example(annotations_of(tmp_path), 0, 8).target.masks
    assert masks is not None
    assert masks[0].nonzero().amin(0).tolist() == [1, 2]
    assert masks[0].nonzero().amax(0).tolist() == [3, 5]
    with pytest.raises(DataError, match="1 of 2 objects have no mask"):
        annotations_of(tmp_path, "val")


def test_masks_of_the_part_that_validates_stay_with_their_objects(tmp_path: Path) -> None:
    """Where a data set has no such split, a part of train is held out."""
    make_shapes(tmp_path / "shapes", images=30, size=48)
    (tmp_path / "shapes" / "annotations" / "instances_val.json").unlink()
    for split in ("train", "val"):
        annotations = annotations_of(tmp_path / "shapes", split)
        for i in range(len(annotations)):
            drawn = scene(0, int(annotations.image_ids[i]) - 1, 48).masks
            masks = example(annotations, i, 48).target.masks
            assert masks is not None
            np.testing.assert_array_equal(masks, drawn)


def test_only_one_mask_is_held_at_full_size() -> None:
    """Forty objects of a large picture take the memory of one, and of what the network sees."""
    mask = np.zeros((1500, 2000), dtype=bool)
    mask[300:900, 200:1500] = True
    outlines = [as_text(to_rle(mask))] * 40
    tracemalloc.start()
    placed = LazyMasks.of(outlines, 1500, 2000).resized(0.1, 0.1)
    masks = placed.pixels(150, 200)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert masks.shape == (40, 150, 200)
    assert torch.equal(masks[0], torch.from_numpy(mask[5::10, 5::10].copy()))
    assert most < 10 * mask.nbytes
