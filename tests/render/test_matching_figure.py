"""Figures of the matching: boxes, costs, labels and the use of queries."""

import itertools

import numpy as np
import pytest
import torch
from letterbox import Letterbox
from PIL import Image
from scipy import ndimage

from detrcli.architectures.detr import ARCHITECTURE, DETRConfig
from detrcli.config import LossConfig
from detrcli.inspection.match_report import MatchReport
from detrcli.inspection.matching import explain_group
from detrcli.inspection.usage import Usage
from detrcli.losses.criterion import Criterion
from detrcli.losses.matching import HungarianMatcher
from detrcli.losses.terms import CostTerm
from detrcli.render import matching_figures as figures
from detrcli.render.color import heat
from detrcli.render.draw import overlap
from detrcli.resize import Placement
from detrcli.structures import Classes, QueryGroup, Target

CLASSES = Classes(ids=np.array([1, 2]), names=np.array(["cat", "a dog with a very long name, indeed"]))
CAT, NO_OBJECT = [0.9, 0.05, 0.05], [0.05, 0.05, 0.9]
LOSS = ARCHITECTURE.make_loss(DETRConfig(), LossConfig())


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
    """Return a report of equal layers, given by the (probabilities, box) of queries; `size` is height and width."""
    logits = torch.log(torch.tensor([[[probabilities for probabilities, _ in queries]]])).repeat(layers, 1, 1, 1)
    boxes = torch.tensor([[[box for _, box in queries]]]).repeat(layers, 1, 1, 1)
    decoder = explain_group(QueryGroup("decoder", logits, boxes), target, loss)
    weights = loss.matcher.weights
    return MatchReport(
        image_id=1, file="a.png", height=size[0], width=size[1],
        placement=placement or Placement.filling(*size), classes=CLASSES,
        annotation_ids=range(len(target)), threshold=threshold, cost_weights=weights, other_weights=weights,
        decoder=decoder, groups=[], shown=range(layers), other_queries=decoder.queries, missed={}, false_positives=[],
    )  # fmt: skip


def has(image: Image.Image, color: tuple[int, int, int]) -> bool:
    return bool((np.asarray(image) == color).all(-1).any())


@pytest.fixture
def cat() -> Target:
    return Target(torch.tensor([0]), torch.tensor([[0.25, 0.5, 0.2, 0.4]]))


@pytest.mark.parametrize("letterbox", [False, True])
def test_boxes_are_drawn_where_they_are(cat: Target, letterbox: bool) -> None:
    """The ground truth, its matched query and an unmatched detection.

    In a letterbox of twice the image's height, heights are half as large in the input.
    """
    queries = [(CAT, [0.3, 0.5, 0.2, 0.4]), (CAT, [0.8, 0.5, 0.2, 0.4]), (NO_OBJECT, [0.8, 0.9, 0.1, 0.1])]
    placement = None
    if letterbox:
        placement = Letterbox(100, 100).place(50, 100)
        queries = [(row, [cx, 0.5 + (cy - 0.5) / 2, w, h / 2]) for row, (cx, cy, w, h) in queries]
        cat = Target(cat.labels, torch.tensor([[0.25, 0.5, 0.2, 0.2]]))
    white = Image.new("RGB", (100, 50), "white")
    report = report_of(queries, cat, placement=placement)
    drawn = figures.paired_image(report, report.layers[0], white)
    assert drawn.size == (560, 280)
    row = np.asarray(drawn)[180]  # below the labels and the line between the centers
    ends = {figures.TRUTH: (0.15, 0.35), figures.MATCHED: (0.2, 0.4), figures.UNMATCHED_QUERY: (0.7, 0.9)}
    for color, (left, right) in ends.items():
        found = np.flatnonzero((row == color).all(-1))
        assert abs(found.min() - 560 * left) <= 3, color
        assert abs(found.max() - 560 * right) <= 3, color
    column = np.asarray(drawn)[:, round(560 * 0.33)]
    assert abs(np.flatnonzero((column == figures.TRUTH).all(-1)).max() - 280 * 0.7) <= 3
    strict = report_of(queries, cat, threshold=0.95, placement=placement)
    assert not has(figures.paired_image(strict, strict.layers[0], white), figures.UNMATCHED_QUERY)


def test_low_costs_are_light_and_the_runner_up_has_a_dot(cat: Target) -> None:
    """Query 0 fits, query 1 is the runner-up, and query 2 has no column."""
    queries = [(CAT, [0.25, 0.5, 0.2, 0.4]), (NO_OBJECT, [0.3, 0.5, 0.2, 0.4]), (NO_OBJECT, [0.9, 0.9, 0.1, 0.1])]
    (layer,) = report_of(queries, cat).layers
    relevant = layer.relevant_queries(0.7)
    assert relevant == [0, 1]
    pixels = np.asarray(figures.cost_map("total", layer.total, relevant, ["0 cat"], layer)).astype(int)
    lightest, darkest = heat(np.array([1.0, 0.0])).astype(int)
    light, dark = (np.argwhere((pixels == color).all(-1)) for color in (lightest, darkest))
    assert len(light) > 100
    assert len(dark) > 100
    assert light[:, 1].max() < dark[:, 1].min()  # query 0 is on the left
    assert tuple(pixels[tuple(dark.mean(0).round().astype(int))]) == (255, 255, 255)


@pytest.mark.parametrize("objects", [0, 1, 8, 100])
@pytest.mark.parametrize("size", [(128, 128), (20, 300), (3000, 2000)])
def test_labels_do_not_overlap(monkeypatch: pytest.MonkeyPatch, objects: int, size: tuple[int, int]) -> None:
    plates: list[tuple[float, ...]] = []
    monkeypatch.setattr(figures.drawing, "write", lambda draw, place, *rest: plates.append(place))
    g = torch.Generator().manual_seed(0)
    target = Target(torch.randint(2, (objects,), generator=g), 0.05 + 0.9 * torch.rand(objects, 4, generator=g))
    queries = [(CAT, box) for box in (0.05 + 0.9 * torch.rand(100, 4, generator=g)).tolist()]
    report = report_of(queries, target, (size[1], size[0]), threshold=0.95, layers=2)
    assert has(figures.matching_figure(report, Image.new("RGB", size)), figures.TRUTH)  # of the legend, or of frames
    per_layer = len(plates) // 2
    assert per_layer >= min(1, objects)
    for places in (plates[:per_layer], plates[per_layer:]):
        assert not any(overlap(a, b) for a, b in itertools.combinations(places, 2))


def test_a_panel_for_each_term_of_the_cost(cat: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    cost_map = figures.cost_map

    def recorded(title: str, *rest: object) -> Image.Image:
        titles.append(title)
        return cost_map(title, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(figures, "cost_map", recorded)
    dice = CostTerm("dice", 4.0, lambda inputs: torch.rand(1, 1, 2))
    loss = Criterion(LOSS.scoring, HungarianMatcher([*LOSS.matcher.terms, dice]), LOSS.terms)
    report = report_of([(CAT, [0.25, 0.5, 0.2, 0.4]), (CAT, [0.3, 0.5, 0.2, 0.4])], cat, loss=loss)
    five = figures.matching_figure(report, Image.new("RGB", (100, 50)))
    assert titles == ["class, times 1", "l1, times 5", "giou, times 2", "dice, times 4", "total"]
    four = figures.matching_figure(report_of([(CAT, [0.25, 0.5, 0.2, 0.4])] * 2, cat), Image.new("RGB", (100, 50)))
    assert five.height > four.height  # rows of two panels


def usage_of(boxes: np.ndarray) -> Usage:
    queries, images, _ = boxes.shape
    return Usage(
        classes=CLASSES, threshold=0.7, cost_weights={}, loss_terms=(), images=images, targets=2 * queries,
        used=np.ones((queries, 2), dtype=int), sizes=np.zeros((queries, 3), dtype=int),
        centers=np.zeros((queries, 2)), detected=np.zeros(queries, dtype=int), boxes=boxes,
        image_sizes=np.full((images, 2), 100), moved=np.zeros(1, dtype=int), closest=[], worst=[],
    )  # fmt: skip


def test_a_tile_shows_centers_and_sizes() -> None:
    """A small box at the top left, a wide box at the top right, a tall box at the bottom left."""
    boxes = np.array([[0.2, 0.2, 0.05, 0.05], [0.8, 0.2, 0.6, 0.3], [0.2, 0.8, 0.3, 0.6]])
    pixels = np.asarray(figures.query_tile(boxes, np.full((3, 2), 200))).astype(int)
    for color, (x, y) in zip(figures.SIZE_COLORS.values(), ((0.2, 0.2), (0.8, 0.2), (0.2, 0.8)), strict=True):
        rows, columns = np.nonzero((abs(pixels - color) < 12).all(-1))
        assert abs(columns.mean() - x * len(pixels)) <= 1.5
        assert abs(rows.mean() - y * len(pixels)) <= 1.5


@pytest.mark.parametrize("queries", [1, 25, 100])
def test_an_atlas_has_a_tile_for_each_query(queries: int) -> None:
    """Each with the same wide box in its center, so that each has a dot of that color."""
    drawn = np.asarray(figures.atlas(usage_of(np.tile([0.5, 0.5, 0.6, 0.5], (queries, 1, 1))))).astype(int)
    dots = (abs(drawn - figures.SIZE_COLORS["large and wide"]) < 40).all(-1)
    tiles = dots[-(-(-queries // 10) * 134) :]  # without legend
    assert ndimage.label(tiles)[1] == queries


def test_instability_has_a_panel_for_each_curve() -> None:
    shares = np.random.default_rng(0).random((5, 12))  # more layers than colors
    drawn = figures.instability_figure(range(2, 7), shares, {"loss": [], "AP": [(2, 0.1), (3, 0.2)]})
    assert drawn.width == 3 * figures.instability_figure(range(2, 7), shares, {}).width
