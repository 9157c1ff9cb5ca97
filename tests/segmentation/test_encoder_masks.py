"""Masks and maps as published with EoMT, against transformers to the pixel."""

from types import SimpleNamespace

import numpy as np
import torch
from cases import GivenMasks, counted, seeds
from hypothesis import strategies as st
from mask_families import processor_of
from torch import Generator

from detrcli.config import Preprocessing
from detrcli.inference.detector import detections
from detrcli.losses.scoring import Softmax
from detrcli.resize import PaddedEdges
from detrcli.segmentation.encoder_masks import EncoderMasks
from detrcli.segmentation.maps import ImagePrediction
from detrcli.structures import Classes, Prediction

K, SIDE = 4, 64
CLASSES = Classes(np.arange(K), np.array(["person", "dog", "grass", "sky"]))
STUFF = Classes(CLASSES.ids, CLASSES.names, np.array([True, True, False, False]))
RULE = PaddedEdges(SIDE, SIDE)


@counted(200, seeds(), st.integers(1, 20), st.sampled_from([(31, 45), (96, 128), (12, 16), (40, 40)]))
def test_masks_and_maps(g: Generator, queries: int, size: tuple[int, int]) -> None:
    """Blobs, some of them small, some covered by others, in images with padding."""
    logits = 2.5 * torch.randn(queries, K + 1, generator=g)
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    place = torch.rand(queries, 3, 1, 1, generator=g) * torch.tensor([16.0, 16.0, 9.0])[:, None, None]
    masks = place[:, 2] - (y - place[:, 0]).abs() - (x - place[:, 1]).abs()
    masks = 2 * masks + torch.randn(masks.shape, generator=g)  # (Q, 16, 16)
    theirs = SimpleNamespace(class_queries_logits=logits[None], masks_queries_logits=masks[None], patch_offsets=None)
    prediction = Prediction(logits[None], torch.zeros(1, queries, 4), GivenMasks(masks[None], (SIDE, SIDE)))
    predicted = ImagePrediction(prediction, 0, size, RULE.place(*size))
    processor, sizes = processor_of("eomt"), [size]

    (found,) = detections(prediction, sizes, CLASSES, Softmax(), Preprocessing(RULE), 0.0, EncoderMasks())
    (expected,) = processor.post_process_instance_segmentation(theirs, target_sizes=sizes, threshold=0.0)
    np.testing.assert_allclose(found.scores, [info["score"] for info in expected["segments_info"]], atol=2e-6)
    assert found.category_ids.tolist() == [info["label_id"] for info in expected["segments_info"]]
    drawn = np.full(size, -1)
    assert found.masks is not None
    for row, mask in enumerate(found.masks):
        drawn[mask] = row
    np.testing.assert_array_equal(drawn, expected["segmentation"])

    for classes, stuff in ((CLASSES, []), (STUFF, [2, 3])):
        for threshold in (None, 0.3):
            map_ = EncoderMasks().panoptic(predicted, classes, Softmax(), threshold)
            (expected,) = processor.post_process_panoptic_segmentation(
                theirs, target_sizes=sizes, stuff_classes=stuff, **({} if threshold is None else {"threshold": 0.3})
            )
            np.testing.assert_array_equal(map_.ids, expected["segmentation"].int() + 1)
            infos = [(info["id"] + 1, info["label_id"], info["score"]) for info in expected["segments_info"]]
            assert [(s.id, s.category_id, round(s.score, 6)) for s in map_.segments] == infos

    semantic = EncoderMasks().semantic(predicted, CLASSES, Softmax())
    if size[0] == size[1]:  # transformers stretches the padding of other images over them
        (labels,) = processor.post_process_semantic_segmentation(theirs, target_sizes=sizes)
        np.testing.assert_array_equal(semantic.ids, labels)
