"""What is drawn of a matching: looked at where it can be wrong without anybody noticing."""

import numpy as np
import pytest
import torch
from PIL import Image

from detrcli.config import MatchingConfig
from detrcli.inspection.matching import Layer, explain
from detrcli.inspection.usage import Usage
from detrcli.render.colour import heat
from detrcli.render.instability_figure import instability_figure
from detrcli.render.matching_figure import GIVEN, OBJECT, SURE, _costs, matching_sheet, paired_picture
from detrcli.render.usage_figure import KINDS, _tile, atlas
from detrcli.structures import Classes, Output, Prediction, Target

CLASSES = Classes(ids=np.array([1, 2]), names=np.array(["cat", "a dog with a very long name, indeed"]))
CAT, NOTHING = [0.9, 0.05, 0.05], [0.05, 0.05, 0.9]


def layer_of(queries: list[tuple[list[float], list[float]]], target: Target) -> Layer:
    prediction = Prediction(
        torch.log(torch.tensor([[says for says, _ in queries]])), torch.tensor([[box for _, box in queries]])
    )
    return explain(Output(prediction, ()), target, MatchingConfig())[0]


def has(picture: Image.Image, colour: tuple[int, int, int]) -> bool:
    return bool((np.asarray(picture) == colour).all(-1).any())


@pytest.fixture
def one() -> Target:
    return Target(torch.tensor([0]), torch.tensor([[0.25, 0.5, 0.2, 0.4]]))


def test_boxes_stand_where_they_are(one: Target) -> None:
    """The object's frame at its left edge, that of its query at its own, a sure one without an object apart."""
    queries = [(CAT, [0.3, 0.5, 0.2, 0.4]), (CAT, [0.8, 0.5, 0.2, 0.4]), (NOTHING, [0.8, 0.9, 0.1, 0.1])]
    picture = paired_picture(Image.new("RGB", (100, 50), "white"), layer_of(queries, one), one, CLASSES, 0.7)
    assert picture.size == (560, 280)
    row = np.asarray(picture)[180]  # below the labels and the line between the centres
    for colour, left, right in ((OBJECT, 0.15, 0.35), (GIVEN, 0.2, 0.4), (SURE, 0.7, 0.9)):
        found = np.flatnonzero((row == colour).all(-1))
        assert abs(found.min() - 560 * left) <= 3, colour
        assert abs(found.max() - 560 * right) <= 3, colour
    assert not has(
        paired_picture(Image.new("RGB", (100, 50), "white"), layer_of(queries, one), one, CLASSES, 0.95), SURE
    )


def test_cheap_is_light_and_the_pair_is_framed(one: Target) -> None:
    """Query 0 fits, 1 is second, 2 matters not and has no column."""
    queries = [(CAT, [0.25, 0.5, 0.2, 0.4]), (NOTHING, [0.3, 0.5, 0.2, 0.4]), (NOTHING, [0.9, 0.9, 0.1, 0.1])]
    layer = layer_of(queries, one)
    matter = layer.that_matter(0.7)
    assert matter == [0, 1]
    pixels = np.asarray(_costs("total", layer.total, matter, ["0 cat"], layer)).astype(int)
    lightest, darkest = heat(np.array([1.0, 0.0])).astype(int)
    light, dark = (np.argwhere((pixels == colour).all(-1)) for colour in (lightest, darkest))
    assert len(light) > 100
    assert len(dark) > 100
    assert light[:, 1].max() < dark[:, 1].min()  # query 0 is on the left
    middle = dark.mean(0).round().astype(int)
    assert tuple(pixels[tuple(middle)]) == (255, 255, 255)  # the dot of the runner-up


@pytest.mark.parametrize("objects", [0, 1, 8, 100])
@pytest.mark.parametrize("size", [(128, 128), (20, 300), (3000, 2000)])
def test_any_number_of_objects_in_pictures_of_any_size(objects: int, size: tuple[int, int]) -> None:
    g = torch.Generator().manual_seed(0)
    target = Target(
        torch.randint(2, (objects,), generator=g), 0.05 + 0.9 * torch.rand(objects, 4, generator=g)
    )
    queries = [(CAT, box) for box in (0.05 + 0.9 * torch.rand(100, 4, generator=g)).tolist()]
    sheet = matching_sheet(
        Image.new("RGB", size), [layer_of(queries, target)] * 2, target, CLASSES, 0.95, MatchingConfig()
    )
    assert 500 < sheet.width < 5000
    assert sheet.height < 10_000


def usage_of(boxes: np.ndarray, used: np.ndarray) -> Usage:
    queries = len(boxes)
    return Usage(
        images=boxes.shape[1], targets=int(used.sum()), used=used, sizes=np.zeros((queries, 3), dtype=int),
        centres=np.zeros((queries, 2)), sure=np.zeros(queries, dtype=int), boxes=boxes,
        image_sizes=np.full((boxes.shape[1], 2), 100), moved=np.zeros(1, dtype=int), closest=[], worst=[],
    )  # fmt: skip


def test_a_tile_shows_centres_and_sizes() -> None:
    """A small box at the top left, a wide one at the top right, a tall one at the bottom left."""
    boxes = np.array([[0.2, 0.2, 0.05, 0.05], [0.8, 0.2, 0.6, 0.3], [0.2, 0.8, 0.3, 0.6]])
    pixels = np.asarray(_tile(boxes, np.full((3, 2), 200))).astype(int)
    for colour, (x, y) in zip(KINDS.values(), ((0.2, 0.2), (0.8, 0.2), (0.2, 0.8)), strict=True):
        rows, columns = np.nonzero((abs(pixels - colour) < 12).all(-1))
        assert abs(columns.mean() - x * len(pixels)) <= 1.5
        assert abs(rows.mean() - y * len(pixels)) <= 1.5


@pytest.mark.parametrize("queries", [1, 25, 100])
def test_an_atlas_of_any_number_of_queries(queries: int) -> None:
    boxes = np.random.default_rng(0).random((queries, 7, 4))
    drawn = atlas(usage_of(boxes, np.ones((queries, 2), dtype=int)))
    assert drawn.width < 2000
    assert drawn.height < 2000


def test_more_layers_than_colours() -> None:
    shares = np.random.default_rng(0).random((5, 12))
    drawn = instability_figure(range(2, 7), shares, {"loss": [], "AP": [(2, 0.1), (3, 0.2)]})
    assert drawn.width == 3 * instability_figure(range(2, 7), shares, {}).width
