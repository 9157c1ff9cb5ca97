"""Panoptic maps: against the published way taken step by step, and by hand."""

from collections import defaultdict

import numpy as np
import torch
import torch.nn.functional as F
from cases import counted, seeds
from hypothesis import strategies as st
from PIL import Image
from test_masks_of_queries import Given
from torch import Generator, Tensor

from detrcli.losses.scoring import Softmax
from detrcli.resize import ShortestEdge
from detrcli.segmentation.maps import PanopticMap, Predicted
from detrcli.segmentation.published import Published
from detrcli.structures import Classes, Prediction

CLASSES = Classes(
    np.array([1, 18, 92, 187]), np.array(["person", "dog", "banner", "sky"]), np.array([True, True, False, False])
)


def as_published(
    logits: Tensor, masks: Tensor, inside: tuple[int, int], size: tuple[int, int], threshold: float
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Ids (height, width), and class and area of each, by loops and Pillow."""
    scores, labels = logits.softmax(-1).max(-1)
    keep = (labels != logits.shape[-1] - 1) & (scores > threshold)
    chosen = labels[keep].tolist()
    enlarged = F.interpolate(masks[keep][:, None], size=inside, mode="bilinear")[:, 0]
    together = defaultdict(list)
    for place, label in enumerate(chosen):
        if not CLASSES.things[label]:  # type: ignore[index]  # they are said
            together[label].append(place)

    def shares(masks: Tensor, merge: bool) -> tuple[list[int], np.ndarray]:
        ids = masks.softmax(0).argmax(0).numpy().astype(np.uint8)
        for equal in together.values() if merge else ():
            for place in equal:
                ids[ids == place] = equal[0]
        resized = np.asarray(Image.fromarray(ids).resize(size[::-1], Image.Resampling.NEAREST))
        return [int((resized == place).sum()) for place in range(len(masks))], resized

    if not chosen:
        return np.zeros(size, int), []
    areas, ids = shares(enlarged, merge=True)
    while any(area <= 4 for area in areas):
        large = [area > 4 for area in areas]
        chosen = [label for label, kept in zip(chosen, large, strict=True) if kept]
        enlarged = enlarged[torch.tensor(large)]
        areas, ids = shares(enlarged, merge=False)
    return ids.astype(int) + 1, list(zip(chosen, areas, strict=True))


def ours(
    logits: Tensor, masks: Tensor, inside: tuple[int, int], size: tuple[int, int], threshold: float,
    classes: Classes = CLASSES,
) -> PanopticMap:  # fmt: skip
    prediction = Prediction(logits[None], torch.zeros(1, len(logits), 4), Given(masks[None], inside))
    placement = ShortestEdge(min(inside), 999).place(*size)
    assert (placement.height, placement.width) == inside
    return Published().panoptic(Predicted(prediction, 0, size, placement), classes, Softmax(), threshold)


@counted(300, seeds(), st.integers(0, 12), st.floats(0.2, 0.9))
def test_the_published_way(g: Generator, queries: int, threshold: float) -> None:
    size, inside = (64, 85), (30, 39)  # no pixel's middle lies between two of the others
    logits = 3 * torch.randn(queries, 5, generator=g)
    masks = 4 * torch.randn(queries, 5, 7, generator=g)
    found = ours(logits, masks, inside, size, threshold)
    ids, segments = as_published(logits, masks, inside, size, threshold)
    np.testing.assert_array_equal(found.ids, ids)
    assert [(int(np.flatnonzero(CLASSES.ids == one.category_id)[0]), one.area) for one in found.segments] == segments
    for one in found.segments:
        rows, columns = np.nonzero(found.ids == one.id)
        x, y, w, h = one.box
        assert (x, y, x + w, y + h) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert one.thing == (one.category_id < 92)
        assert one.score > threshold


def sure_of(*labels: int) -> Tensor:
    logits = torch.full((len(labels), 5), -9.0)
    logits[torch.arange(len(labels)), torch.tensor(labels)] = 9
    return logits


def halves() -> Tensor:
    """Left, right, and a corner of two pixels."""
    masks = torch.full((3, 8, 8), -5.0)
    masks[0, :, :4], masks[1, :, 4:], masks[2, 0, :2] = 5, 5, 9
    return masks


def test_stuff_is_one_segment_and_things_are_many() -> None:
    stuff = ours(sure_of(3, 3, 4), halves(), (8, 8), (8, 8), 0.85)  # sky, sky, nothing
    # The second sky has no pixels left and goes; its pixels then go to the first, as there is nobody else.
    assert [(one.label, one.area, one.thing) for one in stuff.segments] == [("sky", 64, False)]
    things = ours(sure_of(1, 1, 4), halves(), (8, 8), (8, 8), 0.85)
    assert [(one.label, one.area, one.box) for one in things.segments] == [
        ("dog", 32, (0, 0, 4, 8)),
        ("dog", 32, (4, 0, 4, 8)),
    ]
    assert sorted(np.unique(things.ids)) == [1, 2]


def test_small_segments_go_and_their_pixels_to_others() -> None:
    found = ours(sure_of(0, 1, 0), halves(), (8, 8), (8, 8), 0.85)
    assert [(one.label, one.area) for one in found.segments] == [("person", 32), ("dog", 32)]
    assert [one.query for one in found.segments] == [0, 1]


def test_nothing_to_show() -> None:
    found = ours(sure_of(4, 4, 4), halves(), (8, 8), (8, 8), 0.85)
    assert not found.segments
    assert not found.ids.any()


def test_without_stuff_pixels_may_be_nobodys() -> None:
    masks = torch.full((1, 8, 8), -5.0)
    masks[0, 2:6, 2:6] = 5
    bare = Classes(CLASSES.ids, CLASSES.names)
    found = ours(sure_of(1), masks, (8, 8), (8, 8), 0.85, bare)
    assert [(one.area, one.box) for one in found.segments] == [(16, (2, 2, 4, 4))]
    assert (found.ids == 0).sum() == 48
    assert ours(sure_of(1), masks, (8, 8), (8, 8), 0.85).segments[0].area == 64
