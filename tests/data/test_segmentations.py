"""Segmentations are read on demand from every layout that has them, and become masks; masks become polygons."""

import json
from pathlib import Path
from typing import Any

import folders
import numpy as np
import pytest
import torch
from cases import counted, seeds
from pycocotools import mask as rle
from scipy import ndimage

from detrcli.config import Preprocessing
from detrcli.data.annotations import Annotations
from detrcli.data.dataset import DetectionDataset
from detrcli.data.layouts.coco import masks_of
from detrcli.data.make import VAL_FIRST, make_shapes
from detrcli.data.segmentations import to_rle
from detrcli.data.shapes import scene
from detrcli.errors import DataError
from detrcli.polygons import polygons_of
from detrcli.resize import ShortestEdge
from detrcli.run_lengths import MaskRows, box_around, decode, encode, pixels_of


def annotations_of(data: Path, split: str = "train", *, masks: bool = True) -> Annotations:
    return folders.annotated(data, split, masks=masks)[0]


def example_of(annotations: Annotations, i: int, size: int) -> Any:
    preprocessing = Preprocessing(ShortestEdge(size, 4 * size))
    return DetectionDataset(annotations, preprocessing, augmentation="none")[0, i]


def masks_in(annotations: Annotations, i: int, size: int) -> np.ndarray:
    return example_of(annotations, i, size).target.masks.numpy()


def test_run_lengths_are_those_of_pycocotools() -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.02, 0.5, 0.99, 1.0):
        mask = rng.random((57, 83)) < share
        assert np.array_equal(decode(encode(mask), 57, 83), mask)
        assert encode(mask) == rle.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    with pytest.raises(ValueError, match="do not fill"):
        decode(encode(mask), 57, 82)


def test_rows_of_masks() -> None:
    masks = [np.arange(12).reshape(3, 4) % n == 0 for n in (2, 3, 5)]
    rows = MaskRows((3, 4), list(map(encode, masks)))
    assert len(rows) == 3
    assert all(np.array_equal(a, b) for a, b in zip(rows, masks, strict=True))
    assert np.array_equal(rows[2], masks[2])
    for chosen in (np.array([2, 0]), np.array([True, False, True]), np.array([], dtype=np.int64)):
        assert [mask.tolist() for mask in rows[chosen]] == np.array(masks)[chosen].tolist()
    assert rows.rle(1)["size"] == [3, 4]
    assert np.array_equal(decode(rows.rle(1)["counts"].encode(), 3, 4), masks[1])


def test_shapes_have_the_masks_of_their_scenes(tmp_path: Path) -> None:
    make_shapes(tmp_path / "shapes", images=20, size=64)
    annotations = annotations_of(tmp_path / "shapes", "val")
    for i in range(len(annotations)):
        drawn = scene(0, VAL_FIRST + i, 64)
        np.testing.assert_array_equal(masks_in(annotations, i, 64), drawn.masks)
        np.testing.assert_array_equal(masks_in(annotations, i, 128), drawn.masks.repeat(2, 1).repeat(2, 2))
        if len(drawn.masks):
            file = tmp_path / "shapes" / "annotations" / "instances_val.json"
            masks = masks_of(file, f"{i:06d}.png", 64, 64)
            np.testing.assert_array_equal([mask.pixels for mask in masks], drawn.masks)
            x, y, w, h = np.array([box_around(mask) for mask in drawn.masks]).T
            assert [mask.box.tolist() for mask in masks] == np.stack([x, y, x + w, y + h], 1).tolist()
    assert annotations_of(tmp_path / "shapes", masks=False).masks(0) is None
    (tmp_path / "shapes" / "annotations" / "instances_val.json").unlink()
    for split in ("train", "val"):  # now held out of train
        annotations = annotations_of(tmp_path / "shapes", split)
        for i, number in enumerate(annotations.image_ids.tolist()):
            np.testing.assert_array_equal(masks_in(annotations, i, 64), scene(0, number - 1, 64).masks)


def coco(tmp_path: Path, *segmentations: object) -> Path:
    """An image of 10 x 8 pixels in two splits, with an object for each segmentation; `...` omits the field."""
    annotations = [
        {"id": i, "image_id": 1, "category_id": 3, "bbox": [2, 1, 4, 3], "area": 12}
        | ({} if segmentation is ... else {"segmentation": segmentation})
        for i, segmentation in enumerate(segmentations, 1)
    ]
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 10, "height": 8}, {"id": 2, "file_name": "sub/b.png"}],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "dog"}],
    }
    for split in ("train", "val"):
        folders.image(tmp_path / split / "a.png", (10, 8))
        folders.image(tmp_path / split / "sub" / "b.png", (10, 8))
        folders.written(tmp_path / "annotations" / f"instances_{split}.json", json.dumps(document))
    return tmp_path


POLYGON = [[2, 1, 6, 1, 6, 4, 2, 4]]
MASK = np.zeros((8, 10), dtype=bool)
MASK[1:4, 2:6] = True
COUNTS = {"size": [8, 10], "counts": [17, 3, 5, 3, 5, 3, 5, 3, 36]}  # down the columns: off, on, off


def test_polygons_and_both_kinds_of_rle(tmp_path: Path) -> None:
    """A polygon of two corners is empty. Files with NaN are read, too."""
    two_corners = [2, 1, 6, 4]
    data = coco(tmp_path, POLYGON, COUNTS, to_rle(MASK), [two_corners, *POLYGON], [two_corners])
    expected = [MASK, MASK, MASK, MASK, np.zeros_like(MASK)]
    for area in ("12", "NaN"):
        for path in (data / "annotations").iterdir():
            path.write_text(path.read_text().replace('"area": 12', f'"area": {area}'))
        np.testing.assert_array_equal(masks_in(annotations_of(data), 0, 8), expected)
        masks = masks_of(data / "annotations" / "instances_train.json", "a.png", 8, 10)
        assert [mask.label for mask in masks] == ["dog"] * 5
        np.testing.assert_array_equal([mask.pixels for mask in masks], expected)


@pytest.mark.parametrize("missing", [..., None, []])
def test_an_object_without_mask_fails_before_training(tmp_path: Path, missing: object) -> None:
    data = coco(tmp_path, POLYGON, missing)
    annotations_of(data, masks=False)
    with pytest.raises(DataError, match=r"1 of 2 objects have no mask.*annotation 2"):
        annotations_of(data)


MALFORMED = "neither polygons nor RLE"


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        *((polygons, MALFORMED) for polygons in ([[1, 2, 3]], [1], [[0, 0, 1e9, 1, 1, 1e9]], [[0, 0, "x", 1, 1, 0]])),
        *(({"size": [8, 10], "counts": c}, MALFORMED) for c in ([10**12], [5], [90, -10], "o" * 5000, 5, None, {})),
        ("everything", MALFORMED),
        ({"size": 8, "counts": [80]}, MALFORMED),
        ({"size": [2, 3], "counts": [1, 2, 3]}, "3 x 2, the image 10 x 8"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, "1000000 x 1000000, the image 10 x 8"),
    ],
)
def test_malformed_masks_of_an_image_fail(tmp_path: Path, segmentation: object, reason: str) -> None:
    """In training and in `masks_of`, with the name of the image."""
    data = coco(tmp_path, segmentation)
    error = example_of(annotations_of(data), 0, 8)
    assert isinstance(error, DataError)
    assert "a.png" in error.message
    assert reason in error.message
    with pytest.raises(DataError, match=f"a.png.*{reason}"):
        masks_of(data / "annotations" / "instances_train.json", "a.png", 8, 10)


def test_images_without_masks(tmp_path: Path) -> None:
    file = coco(tmp_path, POLYGON) / "annotations" / "instances_train.json"
    for name, message in (("c.png", "0 of its images have the name c.png"), ("b.png", "b.png has no masks")):
        with pytest.raises(DataError, match=message):
            masks_of(file, name, 8, 10)
    file.write_text("{}")
    with pytest.raises(DataError, match="not a COCO"):
        masks_of(file, "a.png", 8, 10)


def test_polygons_of_yolo(tmp_path: Path) -> None:
    """A box beside them has no mask."""
    polygon = "0 0.2 0.125 0.6 0.125 0.6 0.5 0.2 0.5\n"
    for split, lines in (("train", polygon), ("val", polygon + "0 0.5 0.5 0.2 0.2\n")):
        folders.image(tmp_path / "images" / split / "a.png", (10, 8))
        folders.written(tmp_path / "labels" / split / "a.txt", lines)
    (mask,) = torch.from_numpy(masks_in(annotations_of(tmp_path), 0, 8))
    assert mask.nonzero().amin(0).tolist() == [1, 2]
    assert mask.nonzero().amax(0).tolist() == [3, 5]
    with pytest.raises(DataError, match="1 of 2 objects have no mask"):
        annotations_of(tmp_path, "val")


def drawn(polygons: list[list[int]], height: int, width: int) -> np.ndarray:
    if not polygons:
        return np.zeros((height, width), dtype=bool)
    return pixels_of(rle.merge(rle.frPyObjects([list(map(float, polygon)) for polygon in polygons], height, width)))


def area(polygon: list[int]) -> float:
    x, y = np.array(polygon).reshape(-1, 2).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2


def test_a_polygon_of_a_rectangle_has_four_corners() -> None:
    assert polygons_of(MASK) == POLYGON
    assert polygons_of(np.ones((3, 5), dtype=bool)) == [[0, 0, 5, 0, 5, 3, 0, 3]]
    assert polygons_of(np.zeros((3, 5), dtype=bool)) == []


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ("##.. ##.. ..## ..##", 2),  # a common corner, in both directions
        ("..## ..## ##.. ##..", 2),
        ("##### #...# #.#.# #...# #####", 2),  # a part inside a hole
        ("####### #.#.#.# #######", 1),  # adjacent holes
        ("##### #.#.# ##### #.#.# #####", 1),  # also vertically
        ("#### #.## ##.# ####", 1),  # holes that touch at a corner
        ("#### ##.# #.## ####", 1),
        ("#.# .#. #.#", 5),
        ("### #.# #.#", 1),  # open below
    ],
)
def test_polygons_by_hand(rows: str, parts: int) -> None:
    mask = np.array([[char == "#" for char in row] for row in rows.split()])
    polygons = polygons_of(mask)
    assert len(polygons) == parts
    np.testing.assert_array_equal(drawn(polygons, *mask.shape), mask)
    assert sum(map(area, polygons)) == mask.sum()


def blob(rng: np.random.Generator) -> np.ndarray:
    """A smooth, ragged or noisy mask with holes and parts."""
    height, width = (int(side) for side in rng.integers(1, 70, 2))
    noise = rng.random((height, width))
    kind = rng.integers(3)
    if kind:
        noise = ndimage.gaussian_filter(noise, float(rng.choice([0.7, 2, 5])))
    return noise > np.quantile(noise, rng.choice([0.02, 0.3, 0.5, 0.7, 0.98]))


@counted(2000, seeds())
def test_polygons_of_random_masks(g: torch.Generator) -> None:
    """Area, number of parts and all pixels are equal, and every corner is a turn."""
    mask = blob(np.random.default_rng(int(torch.randint(0, 2**31, (), generator=g))))
    polygons = polygons_of(mask)
    np.testing.assert_array_equal(drawn(polygons, *mask.shape), mask)
    assert sum(map(area, polygons)) == mask.sum()
    assert len(polygons) == ndimage.label(mask)[1]
    for polygon in polygons:
        steps = np.diff(np.array(polygon).reshape(-1, 2), axis=0, append=[polygon[:2]])
        assert ((steps == 0).sum(1) == 1).all()
