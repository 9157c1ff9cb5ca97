"""Masks, panoptic and semantic maps of mask classification, against transformers to the pixel."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cases import GivenMasks, certain_logits, counted, seeds
from hypothesis import strategies as st
from mask_families import processor_of
from torch import Generator, Tensor

from detrcli.architectures.adapters.mask_classifiers import PairsOfSoftmax
from detrcli.boxes import masks_to_boxes
from detrcli.config import Preprocessing
from detrcli.errors import DivergedError
from detrcli.inference.detector import detections
from detrcli.resize import Placement
from detrcli.segmentation.maps import ImagePrediction, MapKind, MapRequest
from detrcli.segmentation.mask_classification import MaskClassification
from detrcli.structures import Classes, Detections, Prediction

K = 4
CLASSES = Classes(np.arange(K), np.array(["person", "dog", "grass", "sky"]))
STUFF = Classes(CLASSES.ids, CLASSES.names, np.array([True, True, False, False]))
SIDES = {"mask2former": 384, "maskformer": None}
names = st.sampled_from(sorted(SIDES))
sizes = st.sampled_from([(31, 45), (96, 128), (12, 16)])


def scenes(g: Generator, queries: int) -> tuple[Tensor, Tensor]:
    """Class logits (Q, K + 1) and mask logits (Q, 12, 16): blobs, some of them small, some covered by others."""
    logits = 2.5 * torch.randn(queries, K + 1, generator=g)
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="ij")
    place = torch.rand(queries, 3, 1, 1, generator=g) * torch.tensor([12.0, 16.0, 6.0])[:, None, None]
    masks = place[:, 2] - (y - place[:, 0]).abs() - (x - place[:, 1]).abs()  # (Q, 12, 16)
    return logits, 2 * masks + torch.randn(masks.shape, generator=g)


def given(logits: Tensor, masks: Tensor, size: tuple[int, int]) -> tuple[Any, ImagePrediction]:
    """The same prediction for transformers and for us."""
    theirs = SimpleNamespace(class_queries_logits=logits[None], masks_queries_logits=masks[None])
    boxes = torch.zeros(1, len(logits), 4)
    prediction = Prediction(logits[None], boxes, GivenMasks(masks[None], (48, 64)))
    return theirs, ImagePrediction(prediction, 0, size, Placement.filling(48, 64))


@counted(200, seeds(), st.integers(1, 20), sizes, st.floats(0.01, 0.6), names)
def test_instances(g: Generator, queries: int, size: tuple[int, int], threshold: float, name: str) -> None:
    theirs, of = given(*scenes(g, queries), size)
    (found,) = detections(
        of.prediction, [size], CLASSES, PairsOfSoftmax(), Preprocessing(), threshold,
        MaskClassification(side=SIDES[name]),
    )  # fmt: skip
    (wanted,) = processor_of(name).post_process_instance_segmentation(
        theirs, threshold=threshold, target_sizes=[size], return_binary_maps=True
    )
    expected = wanted["segments_info"]
    assert len(found) == len(expected)
    assert found.masks is not None
    assert (np.diff(found.scores) <= 0).all()
    np.testing.assert_allclose(found.scores, sorted((each["score"] for each in expected), reverse=True), atol=1e-5)
    for mask, label, score, box in zip(found.masks, found.category_ids, found.scores, found.boxes, strict=True):
        assert any(
            (mask == theirs.bool().numpy()).all()
            for theirs, segment in zip(wanted["segmentation"], expected, strict=True)
            if segment["label_id"] == label and abs(segment["score"] - score) < 2e-4
        )
        y, x = np.nonzero(mask)
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


@counted(300, seeds(), st.integers(1, 12), sizes, st.floats(0.2, 0.7), names)
def test_panoptic_maps_of_transformers(
    g: Generator, queries: int, size: tuple[int, int], threshold: float, name: str
) -> None:
    logits, masks = scenes(g, queries)
    for classes, fused in ((CLASSES, set()), (STUFF, {2, 3})):
        theirs, of = given(logits, masks, size)
        (wanted,) = processor_of(name).post_process_panoptic_segmentation(
            theirs, threshold=threshold, label_ids_to_fuse=fused, target_sizes=[size]
        )
        found = MaskClassification(side=SIDES[name]).panoptic(of, classes, PairsOfSoftmax(), threshold)
        expected: dict[int, dict[str, Any]] = {}
        for segment in wanted["segments_info"]:
            expected.setdefault(segment["id"], segment)
        ids = wanted["segmentation"].numpy() if expected else np.zeros(size)
        assert ((found.ids > 0) == (ids > 0)).all()
        if any(expected[segment["id"]]["label_id"] != segment["label_id"] or (
            segment is not expected[segment["id"]] and not segment["was_fused"]
        ) for segment in wanted["segments_info"]):  # fmt: skip
            continue  # after separate areas of stuff, transformers assigns ids twice
        np.testing.assert_array_equal(found.ids, ids)
        for segment, (id_, published) in zip(found.segments, expected.items(), strict=True):
            assert (segment.id, segment.category_id) == (id_, published["label_id"])
            assert segment.score == pytest.approx(published["score"], abs=1e-6)
            assert segment.area == (ids == segment.id).sum()
            assert segment.thing == (segment.category_id not in fused)


def test_ids_with_separate_areas_of_stuff() -> None:
    """Sky, person, sky, person: three segments."""
    masks = torch.full((4, 8, 8), -9.0)
    for query in range(4):
        masks[query, :, 2 * query : 2 * query + 2] = 9
    _, of = given(certain_logits([3, 0, 3, 0]), masks, (8, 8))
    found = MaskClassification().panoptic(of, STUFF, PairsOfSoftmax())
    assert [(segment.id, segment.label, segment.query, segment.area, segment.box) for segment in found.segments] == [
        (1, "sky", 0, 32, (0, 0, 6, 8)),
        (2, "person", 1, 16, (2, 0, 2, 8)),
        (3, "person", 3, 16, (6, 0, 2, 8)),
    ]
    assert found.ids[0].tolist() == [1, 1, 2, 2, 1, 1, 3, 3]


@pytest.mark.parametrize("edge", [3.0, 0.0, -1e-6])
@pytest.mark.parametrize("claimed", [5, 10, 14, 19])
@pytest.mark.parametrize("lost", [1, 2, 3, 4])
def test_bounds_of_transformers(claimed: int, lost: int, edge: float) -> None:
    """A query that loses pixels, among the cases a fifth of them, and a pixel with a probability of about a half."""
    masks = torch.full((2, 1, 20), -9.0)
    masks[0, 0, :claimed] = 4
    masks[1, 0, claimed - lost : claimed + 9] = 9
    masks[0, 0, 0] = edge
    theirs, of = given(7 * certain_logits([0, 1]), masks, (1, 20))  # both scores are 1
    (wanted,) = processor_of("maskformer").post_process_panoptic_segmentation(
        theirs, label_ids_to_fuse=set(), target_sizes=[(1, 20)]
    )
    found = MaskClassification().panoptic(of, CLASSES, PairsOfSoftmax())
    assert found.ids.tolist() == wanted["segmentation"].tolist()


def test_without_confident_queries() -> None:
    logits = torch.full((3, K + 1), 0.0)
    _, of = given(logits, torch.randn(3, 8, 8), (8, 9))
    found = MaskClassification().panoptic(of, STUFF, PairsOfSoftmax())
    assert not found.segments
    assert not found.ids.any()
    assert found.ids.shape == (8, 9)


@counted(200, seeds(), st.integers(1, 20), sizes, names)
def test_semantic_maps_of_transformers(g: Generator, queries: int, size: tuple[int, int], name: str) -> None:
    theirs, of = given(*scenes(g, queries), size)
    (wanted,) = processor_of(name).post_process_semantic_segmentation(theirs, target_sizes=[size])
    found = MaskClassification(side=SIDES[name]).semantic(of, CLASSES, PairsOfSoftmax())
    np.testing.assert_array_equal(found.ids, wanted)
    expected = {segment.category_id: segment.area for segment in found.regions}
    assert expected == dict(zip(*(part.tolist() for part in wanted.unique(return_counts=True)), strict=True))
    assert all(segment.label == CLASSES.names[segment.category_id] for segment in found.regions)


def test_detections_with_empty_masks_are_removed() -> None:
    masks = torch.full((2, 8, 8), -5.0)
    masks[1, 2:4, 3:7] = 5
    _, of = given(torch.zeros(2, K + 1), masks, (8, 8))
    queries = np.array([0, 1, 1, 0])
    found = Detections(np.zeros((4, 4), np.float32), np.full(4, 0.5, np.float32), np.arange(4), queries, CLASSES.names)
    left, again = (MaskClassification().with_masks(kept, of, 0.0) for kept in (found, found.part(queries == 0)))
    assert left.category_ids.tolist() == [1, 2]
    assert left.boxes.tolist() == [[3, 2, 7, 4]] * 2
    np.testing.assert_allclose(left.scores, 0.5 * torch.tensor(5.0).sigmoid().item(), rtol=1e-5)
    assert len(again) == 0


@pytest.mark.parametrize("kind", ["panoptic", "semantic"])
@pytest.mark.parametrize("broken", ["classes", "masks"])
def test_predictions_that_are_not_finite(kind: MapKind, broken: str) -> None:
    logits, masks = certain_logits([0, 3]), torch.ones(2, 4, 4)
    (logits if broken == "classes" else masks)[1] = torch.nan
    _, of = given(logits, masks, (8, 8))
    with pytest.raises(DivergedError, match="not finite"):
        MaskClassification().map_of(of, CLASSES, PairsOfSoftmax(), MapRequest(kind))


@counted(100, seeds(), st.integers(1, 9), st.integers(1, 9), st.floats(0, 1))
def test_boxes_around_masks(g: Generator, height: int, width: int, share: float) -> None:
    masks = torch.rand(2, 3, height, width, generator=g) < share**3
    for mask, box in zip(masks.flatten(0, 1), masks_to_boxes(masks).flatten(0, 1).tolist(), strict=True):
        y, x = np.nonzero(mask.numpy())
        assert box == ([x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else [0, 0, 0, 0])
