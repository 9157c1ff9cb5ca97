"""Masks and panoptic maps of DETR: against the published computation step by step, and by hand."""

from collections import defaultdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import GivenMasks, certain_logits, counted, seeds
from hypothesis import strategies as st
from letterbox import Letterbox
from PIL import Image
from torch import Generator, Tensor

from detrcli.config import Preprocessing
from detrcli.inference.detector import detections
from detrcli.losses.scoring import Sigmoid, Softmax
from detrcli.resize import ShortestEdge
from detrcli.segmentation.detr import DETRSegmentation, masks_of_queries
from detrcli.segmentation.maps import ImagePrediction, PanopticMap
from detrcli.structures import Classes, Prediction

CLASSES = Classes(
    np.array([1, 18, 92, 187]), np.array(["person", "dog", "banner", "sky"]), np.array([True, True, False, False])
)


def masks_as_published(
    logits: Tensor, padded: tuple[int, int], inside: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Enlarge to the padded input, threshold, crop to the image, and resize to its own size."""
    enlarged = F.interpolate(logits[None], size=padded, mode="bilinear", align_corners=False)
    cropped = (enlarged.sigmoid() > 0.5)[:, :, : inside[0], : inside[1]]
    return F.interpolate(cropped.float(), size=size, mode="nearest")[0].bool()


@counted(200, seeds(), st.integers(20, 90), st.integers(20, 90), st.integers(20, 60))
def test_masks(g: Generator, height: int, width: int, side: int) -> None:
    placement = ShortestEdge(side, 3 * side).place(height, width)
    padded = placement.height + 7, placement.width + 12  # by a larger image in the batch
    logits = torch.randn(2, 19, 9, 11, generator=g)
    queries = torch.tensor([3, 3, 18, *range(17)])
    masks = masks_of_queries(GivenMasks(logits, padded), 1, queries, (height, width), placement)
    expected = masks_as_published(logits[1, queries], padded, (placement.height, placement.width), (height, width))
    differs = np.stack(list(masks)) != expected.numpy()
    assert differs.mean() < 1e-4  # where the probability of a logit near 0 is rounded to a half


def test_resizing_by_centers_keeps_symmetry() -> None:
    """In an image smaller than the input, a symmetric mask stays symmetric; resizing by corners moves it."""
    logits = torch.full((1, 1, 20, 20), -5.0)
    logits[0, 0, 6:14, 6:14] = 5
    placement = ShortestEdge(20, 60).place(16, 16)
    for by_corner in (False, True):
        masks = GivenMasks(logits, (20, 20), by_corner)
        (mask,) = masks_of_queries(masks, 0, torch.tensor([0]), (16, 16), placement)
        assert bool((mask == mask[::-1, ::-1]).all()) is not by_corner


def test_masks_in_a_letterbox() -> None:
    """A mask of the image's upper left quarter, which is not that of the input."""
    placement = Letterbox(64, 64).place(20, 40)  # rows 16 to 48 of the input
    logits = torch.full((1, 1, 64, 64), -5.0)
    logits[0, 0, 16:32, :32] = 5
    (mask,) = masks_of_queries(GivenMasks(logits, (64, 64)), 0, torch.tensor([0]), (20, 40), placement)
    assert mask[:10, :20].all()
    assert mask.sum() == 200


@pytest.mark.parametrize(("threshold", "count"), [(0.0, 4), (0.6, 3)])
def test_a_query_of_several_detections_has_one_mask(threshold: float, count: int) -> None:
    logits = torch.tensor([[[2.0, 1.0], [-3.0, 3.0]]])  # (1, Q = 2, K = 2)
    masks = GivenMasks(torch.tensor([[[[9.0]], [[-9.0]]]]), (8, 8))
    prediction = Prediction(logits, torch.full((1, 2, 4), 0.5), masks)
    classes, preprocessing = Classes(np.array([1, 2]), np.array(["cat", "dog"])), Preprocessing(ShortestEdge(8, 8))
    (found,) = detections(prediction, [(8, 8)], classes, Sigmoid(top_k=4), preprocessing, threshold, DETRSegmentation())
    assert found.masks is not None
    assert [mask.all() for mask in found.masks] == [query == 0 for query in found.queries.tolist()]
    assert len(found) == count
    assert found.part(np.array([1])).masks is not None


def map_as_published(
    logits: Tensor, masks: Tensor, inside: tuple[int, int], size: tuple[int, int], threshold: float
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Ids (height, width), and class and area of each segment, by loops and Pillow."""
    scores, labels = logits.softmax(-1).max(-1)
    keep = (labels != logits.shape[-1] - 1) & (scores > threshold)
    chosen = labels[keep].tolist()
    enlarged = F.interpolate(masks[keep][:, None], size=inside, mode="bilinear")[:, 0]
    together = defaultdict(list)
    for index, label in enumerate(chosen):
        if not CLASSES.things[label]:  # type: ignore[index]  # never None
            together[label].append(index)

    def shares(masks: Tensor, merge: bool) -> tuple[list[int], np.ndarray]:
        ids = masks.softmax(0).argmax(0).numpy().astype(np.uint8)
        for equal in together.values() if merge else ():
            for index in equal:
                ids[ids == index] = equal[0]
        resized = np.asarray(Image.fromarray(ids).resize(size[::-1], Image.Resampling.NEAREST))
        return [int((resized == index).sum()) for index in range(len(masks))], resized

    if not chosen:
        return np.zeros(size, int), []
    areas, ids = shares(enlarged, merge=True)
    while any(area <= 4 for area in areas):
        large = [area > 4 for area in areas]
        chosen = [label for label, kept in zip(chosen, large, strict=True) if kept]
        enlarged = enlarged[torch.tensor(large)]
        areas, ids = shares(enlarged, merge=False)
    return ids.astype(int) + 1, list(zip(chosen, areas, strict=True))


def panoptic(
    logits: Tensor, masks: Tensor, inside: tuple[int, int] = (8, 8), size: tuple[int, int] = (8, 8),
    threshold: float = 0.85, classes: Classes = CLASSES,
) -> PanopticMap:  # fmt: skip
    prediction = Prediction(logits[None], torch.zeros(1, len(logits), 4), GivenMasks(masks[None], inside))
    placement = ShortestEdge(min(inside), 999).place(*size)
    assert (placement.height, placement.width) == inside
    return DETRSegmentation().panoptic(ImagePrediction(prediction, 0, size, placement), classes, Softmax(), threshold)


@counted(300, seeds(), st.integers(0, 12), st.floats(0.2, 0.9))
def test_panoptic_maps(g: Generator, queries: int, threshold: float) -> None:
    size, inside = (64, 85), (30, 39)  # no pixel center lies between two of the others
    logits = 3 * torch.randn(queries, 5, generator=g)
    masks = 4 * torch.randn(queries, 5, 7, generator=g)
    found = panoptic(logits, masks, inside, size, threshold)
    ids, expected = map_as_published(logits, masks, inside, size, threshold)
    np.testing.assert_array_equal(found.ids, ids)
    classes = [int(np.flatnonzero(CLASSES.ids == segment.category_id)[0]) for segment in found.segments]
    assert list(zip(classes, [segment.area for segment in found.segments], strict=True)) == expected
    for segment in found.segments:
        rows, columns = np.nonzero(found.ids == segment.id)
        x, y, w, h = segment.box
        assert (x, y, x + w, y + h) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert segment.thing == (segment.category_id < 92)
        assert segment.score > threshold


@pytest.mark.parametrize(
    ("labels", "segments"),
    [
        # The second sky has no pixels left and is removed; its pixels then go to the first.
        ((3, 3, 4), [(0, "sky", 64, (0, 0, 8, 8))]),
        ((1, 1, 4), [(0, "dog", 32, (0, 0, 4, 8)), (1, "dog", 32, (4, 0, 4, 8))]),
        # A segment of two pixels is removed.
        ((0, 1, 0), [(0, "person", 32, (0, 0, 4, 8)), (1, "dog", 32, (4, 0, 4, 8))]),
        ((4, 4, 4), []),
    ],
)
def test_panoptic_maps_by_hand(labels: tuple[int, ...], segments: list[tuple[object, ...]]) -> None:
    masks = torch.full((3, 8, 8), -5.0)
    masks[0, :, :4], masks[1, :, 4:], masks[2, 0, :2] = 5, 5, 9  # left, right, and a corner of two pixels
    found = panoptic(certain_logits(labels), masks)
    assert [(segment.query, segment.label, segment.area, segment.box) for segment in found.segments] == segments
    assert set(np.unique(found.ids)) == ({*range(1, len(segments) + 1)} or {0})


def test_pixels_between_things_have_no_segment_without_stuff() -> None:
    masks = torch.full((1, 8, 8), -5.0)
    masks[0, 2:6, 2:6] = 5
    found = panoptic(certain_logits([1]), masks, classes=Classes(CLASSES.ids, CLASSES.names))
    assert [(segment.area, segment.box) for segment in found.segments] == [(16, (2, 2, 4, 4))]
    assert (found.ids == 0).sum() == 48
    assert panoptic(certain_logits([1]), masks).segments[0].area == 64
