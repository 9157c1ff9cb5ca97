"""Masks come out of annotation files as they were drawn."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as rle

from detrcli.data.make import VAL_FIRST, make_shapes
from detrcli.data.masks import masks_of
from detrcli.data.shapes import scene
from detrcli.errors import DataError


def test_masks_of_made_shapes_are_those_of_their_scene(tmp_path: Path) -> None:
    make_shapes(tmp_path / "shapes", images=20)
    for i in range(4):
        made = scene(0, VAL_FIRST + i)
        if not len(made.masks):
            continue
        masks = masks_of(tmp_path / "shapes" / "annotations" / "instances_val.json", f"{i:06d}.png", 128, 128)
        assert len(masks) == len(made.masks)
        for mask, drawn, (x, y, w, h) in zip(masks, made.masks, made.boxes.tolist(), strict=True):
            assert np.array_equal(mask.pixels, drawn)
            assert mask.box.tolist() == [x, y, x + w, y + h]


def written(path: Path, segmentation: object) -> Path:
    path.write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "sub/a.png"}, {"id": 2, "file_name": "b.png"}],
                "annotations": [{"image_id": 1, "category_id": 3, "segmentation": segmentation}],
                "categories": [{"id": 3, "name": "dog"}],
            }
        )
    )
    return path


def test_polygons_and_counts(tmp_path: Path) -> None:
    (polygon,) = masks_of(written(tmp_path / "a.json", [[2, 1, 6, 1, 6, 4, 2, 4]]), "a.png", 8, 10)
    expected = np.zeros((8, 10), dtype=bool)
    expected[1:4, 2:6] = True
    assert polygon.label == "dog"
    assert np.array_equal(polygon.pixels, expected)
    counts = {"size": [2, 3], "counts": [1, 2, 3]}  # column by column: off, on, off
    (mask,) = masks_of(written(tmp_path / "b.json", counts), "a.png", 2, 3)
    assert mask.pixels.tolist() == [[False, True, False], [True, False, False]]


def test_compressed_counts_are_those_of_pycocotools(tmp_path: Path) -> None:
    """Of masks at random, from few long runs to many short ones."""
    rng = np.random.default_rng(0)
    for share in (0.0, 0.02, 0.5, 0.99, 1.0):
        pixels = np.asfortranarray(rng.random((57, 83)) < share, dtype=np.uint8)
        encoded = rle.encode(pixels)
        segmentation = {"size": [57, 83], "counts": encoded["counts"].decode()}
        (mask,) = masks_of(written(tmp_path / "a.json", segmentation), "a.png", 57, 83)
        assert np.array_equal(mask.pixels, pixels)


@pytest.mark.parametrize(
    ("segmentation", "picture", "said"),
    [
        ([[0, 0, 1, 1, 1, 0]], "c.png", "0 of its images are called c.png"),
        ([[0, 0, 1, 1, 1, 0]], "b.png", "no masks in b.png"),
        ({"size": [2, 3], "counts": [1, 2, 3]}, "a.png", "is 3 x 2, the picture 9 x 9"),
        ("mask", "a.png", "neither polygons nor RLE"),
        ([1], "a.png", "neither polygons nor RLE"),
        ([[0, 0, 1e9, 1, 1, 1e9]], "a.png", "neither polygons nor RLE"),
        ([[0, 0, "x", 1, 1, 0]], "a.png", "neither polygons nor RLE"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, "a.png", "is 1000000 x 1000000, the picture 9 x 9"),
        ({"size": [9, 9], "counts": [10**12]}, "a.png", "neither polygons nor RLE"),
        ({"size": [9, 9], "counts": [90, -9]}, "a.png", "neither polygons nor RLE"),
        ({"size": [9, 9], "counts": "o" * 5000}, "a.png", "neither polygons nor RLE"),
        ({"size": [9, 9], "counts": 5}, "a.png", "neither polygons nor RLE"),
        ({"size": 9, "counts": [81]}, "a.png", "neither polygons nor RLE"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, segmentation: object, picture: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        masks_of(written(tmp_path / "a.json", segmentation), picture, 9, 9)
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(DataError, match="not a COCO"):
        masks_of(tmp_path / "b.json", "a.png", 9, 9)
