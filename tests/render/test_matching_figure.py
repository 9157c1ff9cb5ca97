"""What is drawn of a matching: looked at where it can be wrong without anybody noticing."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from detrcli.architectures import detr, preset
from detrcli.config import LossConfig
from detrcli.inspection.explained import explain_group
from detrcli.inspection.report import MatchReport
from detrcli.inspection.usage import Usage
from detrcli.losses.criterion import Criterion
from detrcli.losses.matching import HungarianMatcher
from detrcli.losses.terms import CostTerm
from detrcli.render import matching_figure as drawn_by
from detrcli.render.colour import heat
from detrcli.render.draw import overlap
from detrcli.render.instability_figure import instability_figure
from detrcli.render.matching_figure import MATCHED, TRUTH, UNMATCHED_QUERY, cost_map, matching_figure, paired_picture
from detrcli.render.usage_figure import KINDS, atlas, query_tile
from detrcli.resize import Letterbox, Placement
from detrcli.structures import Classes, QueryGroup, Target

CLASSES = Classes(ids=np.array([1, 2]), names=np.array(["cat", "a dog with a very long name, indeed"]))
CAT, NOTHING = [0.9, 0.05, 0.05], [0.05, 0.05, 0.9]
LOSS = detr.ARCHITECTURE.make_loss(preset("detr-r50").config, LossConfig())


def report_of(
    queries: list[tuple[list[float], list[float]]],
    target: Target,
    size: tuple[int, int] = (50, 100),
    *,
    threshold: float = 0.7,
    layers: int = 1,
    placement: Placement | None = None,
    loss: Criterion = LOSS,
) -> MatchReport:
    """The same layer several times; the picture's size is its height and width."""
    logits = torch.log(torch.tensor([[[says for says, _ in queries]]])).repeat(layers, 1, 1, 1)
    boxes = torch.tensor([[[box for _, box in queries]]]).repeat(layers, 1, 1, 1)
    decoder = explain_group(QueryGroup("decoder", logits, boxes), target, loss)
    weights = loss.matcher.weights
    return MatchReport(
        image_id=1, file="a.png", height=size[0], width=size[1],
        placement=placement or Placement.filling(*size), classes=CLASSES,
        annotation_ids=range(len(target)), threshold=threshold, cost_weights=weights, other_weights=weights,
        decoder=decoder, groups=[], shown=range(layers), other_queries=decoder.queries, missed=[], extra=[],
    )  # fmt: skip


def has(picture: Image.Image, colour: tuple[int, int, int]) -> bool:
    return bool((np.asarray(picture) == colour).all(-1).any())


@pytest.fixture
def one() -> Target:
    return Target(torch.tensor([0]), torch.tensor([[0.25, 0.5, 0.2, 0.4]]))


@pytest.mark.parametrize("letterbox", [False, True])
def test_boxes_stand_where_they_are(one: Target, letterbox: bool) -> None:
    """The frame of the ground truth at its left edge, its query's at its own, an unmatched detection's apart.

    In a letterbox of twice the picture's height the same shares of the picture are half as high in the input.
    """
    queries = [(CAT, [0.3, 0.5, 0.2, 0.4]), (CAT, [0.8, 0.5, 0.2, 0.4]), (NOTHING, [0.8, 0.9, 0.1, 0.1])]
    placement = None
    if letterbox:
        placement = Letterbox(100, 100).place(50, 100)
        queries = [(says, [cx, 0.5 + (cy - 0.5) / 2, w, h / 2]) for says, (cx, cy, w, h) in queries]
        one = Target(one.labels, torch.tensor([[0.25, 0.5, 0.2, 0.2]]))
    white = Image.new("RGB", (100, 50), "white")
    report = report_of(queries, one, placement=placement)
    picture = paired_picture(report, report.layers[0], white)
    assert picture.size == (560, 280)
    row = np.asarray(picture)[180]  # below the labels and the line between the centres
    for colour, left, right in ((TRUTH, 0.15, 0.35), (MATCHED, 0.2, 0.4), (UNMATCHED_QUERY, 0.7, 0.9)):
        found = np.flatnonzero((row == colour).all(-1))
        assert abs(found.min() - 560 * left) <= 3, colour
        assert abs(found.max() - 560 * right) <= 3, colour
    column = np.asarray(picture)[:, round(560 * 0.33)]
    found = np.flatnonzero((column == TRUTH).all(-1))
    assert abs(found.max() - 280 * 0.7) <= 3
    strict = report_of(queries, one, threshold=0.95, placement=placement)
    assert not has(paired_picture(strict, strict.layers[0], white), UNMATCHED_QUERY)


def test_cheap_is_light_and_the_pair_is_framed(one: Target) -> None:
    """Query 0 fits, 1 is second, 2 matters not and has no column."""
    queries = [(CAT, [0.25, 0.5, 0.2, 0.4]), (NOTHING, [0.3, 0.5, 0.2, 0.4]), (NOTHING, [0.9, 0.9, 0.1, 0.1])]
    (layer,) = report_of(queries, one).layers
    matter = layer.that_matter(0.7)
    assert matter == [0, 1]
    pixels = np.asarray(cost_map("total", layer.total, matter, ["0 cat"], layer)).astype(int)
    lightest, darkest = heat(np.array([1.0, 0.0])).astype(int)
    light, dark = (np.argwhere((pixels == colour).all(-1)) for colour in (lightest, darkest))
    assert len(light) > 100
    assert len(dark) > 100
    assert light[:, 1].max() < dark[:, 1].min()  # query 0 is on the left
    middle = dark.mean(0).round().astype(int)
    assert tuple(pixels[tuple(middle)]) == (255, 255, 255)  # the dot of the runner-up


@pytest.fixture
def plates(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, ...]]:
    """Where labels were written."""
    places: list[tuple[float, ...]] = []
    write = drawn_by.write

    def watched(canvas: object, place: tuple[float, ...], *rest: object) -> None:
        places.append(place)
        write(canvas, place, *rest)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(drawn_by, "write", watched)
    return places


@pytest.mark.parametrize("objects", [0, 1, 8, 100])
@pytest.mark.parametrize("size", [(128, 128), (20, 300), (3000, 2000)])
def test_no_labels_overlap_whatever_the_number_and_the_picture(
    plates: list[tuple[float, ...]], objects: int, size: tuple[int, int]
) -> None:
    g = torch.Generator().manual_seed(0)
    target = Target(torch.randint(2, (objects,), generator=g), 0.05 + 0.9 * torch.rand(objects, 4, generator=g))
    queries = [(CAT, box) for box in (0.05 + 0.9 * torch.rand(100, 4, generator=g)).tolist()]
    report = report_of(queries, target, (size[1], size[0]), threshold=0.95, layers=2)
    figure = matching_figure(report, Image.new("RGB", size))
    per_layer = len(plates) // 2
    assert per_layer >= min(1, objects)
    for places in (plates[:per_layer], plates[per_layer:]):
        assert not any(overlap(a, b) for a, b in itertools.combinations(places, 2))
    assert has(figure, TRUTH)  # of the legend, or the frames


def test_a_panel_for_each_term_of_the_cost(one: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    plain = drawn_by.cost_map

    def watched(title: str, *rest: object) -> Image.Image:
        titles.append(title)
        return plain(title, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(drawn_by, "cost_map", watched)
    dice = CostTerm("dice", 4.0, lambda seen: torch.rand(1, 1, 2))
    loss = Criterion(LOSS.scoring, HungarianMatcher([*LOSS.matcher.terms, dice]), LOSS.terms)
    report = report_of([(CAT, [0.25, 0.5, 0.2, 0.4]), (CAT, [0.3, 0.5, 0.2, 0.4])], one, loss=loss)
    five = matching_figure(report, Image.new("RGB", (100, 50)))
    assert titles == ["class, times 1", "l1, times 5", "giou, times 2", "dice, times 4", "total"]
    # Five panels in rows of two: each is whole, with a frame around its pair.
    four = matching_figure(report_of([(CAT, [0.25, 0.5, 0.2, 0.4])] * 2, one), Image.new("RGB", (100, 50)))
    assert five.height > four.height


def usage_of(boxes: np.ndarray, used: np.ndarray) -> Usage:
    queries = len(boxes)
    return Usage(
        classes=CLASSES, threshold=0.7, cost_weights={}, loss_terms=(),
        images=boxes.shape[1], targets=int(used.sum()), used=used, sizes=np.zeros((queries, 3), dtype=int),
        centres=np.zeros((queries, 2)), sure=np.zeros(queries, dtype=int), boxes=boxes,
        image_sizes=np.full((boxes.shape[1], 2), 100), moved=np.zeros(1, dtype=int), closest=[], worst=[],
    )  # fmt: skip


def test_a_tile_shows_centres_and_sizes() -> None:
    """A small box at the top left, a wide one at the top right, a tall one at the bottom left."""
    boxes = np.array([[0.2, 0.2, 0.05, 0.05], [0.8, 0.2, 0.6, 0.3], [0.2, 0.8, 0.3, 0.6]])
    pixels = np.asarray(query_tile(boxes, np.full((3, 2), 200))).astype(int)
    for colour, (x, y) in zip(KINDS.values(), ((0.2, 0.2), (0.8, 0.2), (0.2, 0.8)), strict=True):
        rows, columns = np.nonzero((abs(pixels - colour) < 12).all(-1))
        assert abs(columns.mean() - x * len(pixels)) <= 1.5
        assert abs(rows.mean() - y * len(pixels)) <= 1.5


@pytest.mark.parametrize("queries", [1, 25, 100])
def test_an_atlas_has_a_tile_for_each_query(queries: int) -> None:
    """Each with the same wide box in its middle, so that there is a dot of that colour in each tile."""
    boxes = np.tile([0.5, 0.5, 0.6, 0.5], (queries, 1, 1))
    drawn = np.asarray(atlas(usage_of(boxes, np.ones((queries, 2), dtype=int)))).astype(int)
    near = (abs(drawn - KINDS["large and wide"]) < 40).all(-1)[40:]  # below the legend
    _, dots = ndimage.label(near)
    assert dots == queries


def test_more_layers_than_colours() -> None:
    shares = np.random.default_rng(0).random((5, 12))
    drawn = instability_figure(range(2, 7), shares, {"loss": [], "AP": [(2, 0.1), (3, 0.2)]})
    assert drawn.width == 3 * instability_figure(range(2, 7), shares, {}).width
