"""Polygons drawn by pycocotools reproduce their masks."""

import warnings

import numpy as np
import pytest
from cases import counted, seeds
from pycocotools import mask as rle
from scipy import ndimage
from torch import Generator, randint

from detrcli.polygons import polygons_of


def drawn(polygons: list[list[int]], height: int, width: int) -> np.ndarray:
    if not polygons:
        return np.zeros((height, width), dtype=bool)
    runs = rle.merge(rle.frPyObjects([list(map(float, polygon)) for polygon in polygons], height, width))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools with numpy 2
        return np.asarray(rle.decode(runs), dtype=bool)


def mask_of(*rows: str) -> np.ndarray:
    return np.array([[char == "#" for char in row] for row in rows])


def area(polygon: list[int]) -> float:
    x, y = np.array(polygon).reshape(-1, 2).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2


def test_a_rectangle_has_four_corners() -> None:
    mask = np.zeros((8, 10), dtype=bool)
    mask[1:4, 2:6] = True
    assert polygons_of(mask) == [[2, 1, 6, 1, 6, 4, 2, 4]]
    assert polygons_of(np.ones((3, 5), dtype=bool)) == [[0, 0, 5, 0, 5, 3, 0, 3]]
    assert polygons_of(np.zeros((3, 5), dtype=bool)) == []


@pytest.mark.parametrize(
    ("mask", "parts"),
    [
        (mask_of("##..", "##..", "..##", "..##"), 2),  # a common corner, in both directions
        (mask_of("..##", "..##", "##..", "##.."), 2),
        (mask_of("#####", "#...#", "#.#.#", "#...#", "#####"), 2),  # a part inside a hole
        (mask_of("#######", "#.#.#.#", "#######"), 1),  # adjacent holes
        (mask_of("#####", "#.#.#", "#####", "#.#.#", "#####"), 1),  # also vertically
        (mask_of("####", "#.##", "##.#", "####"), 1),  # holes that touch at a corner
        (mask_of("####", "##.#", "#.##", "####"), 1),
        (mask_of("#.#", ".#.", "#.#"), 5),
        (mask_of("###", "#.#", "#.#"), 1),  # open below
    ],
)
def test_by_hand(mask: np.ndarray, parts: int) -> None:
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
def test_random_masks(g: Generator) -> None:
    """Area, number of parts and all pixels are equal, and every corner is a turn."""
    mask = blob(np.random.default_rng(int(randint(0, 2**31, (), generator=g))))
    polygons = polygons_of(mask)
    np.testing.assert_array_equal(drawn(polygons, *mask.shape), mask)
    assert sum(map(area, polygons)) == mask.sum()
    assert len(polygons) == ndimage.label(mask)[1]
    for polygon in polygons:
        steps = np.diff(np.array(polygon).reshape(-1, 2), axis=0, append=[polygon[:2]])
        assert ((steps == 0).sum(1) == 1).all()
