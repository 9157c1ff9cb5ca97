"""Masks in pixels of the picture, against the published way taken step by step."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import counted, seeds
from hypothesis import strategies as st
from letterbox import Letterbox
from torch import Generator, Tensor

from detrcli.config import Preprocessing
from detrcli.inference.postprocess import detections
from detrcli.losses.scoring import Sigmoid
from detrcli.resize import ShortestEdge
from detrcli.segmentation.masks import masks_of_queries
from detrcli.segmentation.published import Published
from detrcli.structures import Classes, Prediction


@dataclass(frozen=True)
class Given:
    """Masks that are there already."""

    logits: Tensor  # (B, Q, h, w)
    input_size: tuple[int, int]
    by_corner: bool = True

    def __call__(self, images: Tensor, queries: Tensor) -> Tensor:
        return self.logits[images, queries]


def as_published(logits: Tensor, padded: tuple[int, int], inside: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Enlarged to the padded input, a probability above a half, cut to the picture, and to its own size."""
    enlarged = F.interpolate(logits[None], size=padded, mode="bilinear", align_corners=False)
    cut = (enlarged.sigmoid() > 0.5)[:, :, : inside[0], : inside[1]]
    return F.interpolate(cut.float(), size=size, mode="nearest")[0].bool()


@counted(200, seeds(), st.integers(20, 90), st.integers(20, 90), st.integers(20, 60))
def test_the_published_way(g: Generator, height: int, width: int, side: int) -> None:
    placement = ShortestEdge(side, 3 * side).place(height, width)
    padded = placement.height + 7, placement.width + 12  # by a larger picture in the batch
    logits = torch.randn(2, 19, 9, 11, generator=g)
    queries = torch.tensor([3, 3, 18, *range(17)])
    found = masks_of_queries(Given(logits, padded), 1, queries, (height, width), placement)
    wanted = as_published(logits[1, queries], padded, (placement.height, placement.width), (height, width))
    differs = np.stack(list(found)) != wanted.numpy()
    assert differs.mean() < 1e-4  # where a logit is so near 0 that its probability is rounded to a half


def test_by_the_middle_of_pixels_nothing_moves() -> None:
    """A mask that is symmetric stays so, in a picture smaller than the input; by corners it lies further down."""
    logits = torch.full((1, 1, 20, 20), -5.0)
    logits[0, 0, 6:14, 6:14] = 5
    placement = ShortestEdge(20, 60).place(16, 16)
    for by_corner in (False, True):
        masks = Given(logits, (20, 20), by_corner)
        (mask,) = masks_of_queries(masks, 0, torch.tensor([0]), (16, 16), placement)
        assert bool((mask == mask[::-1, ::-1]).all()) is not by_corner


def test_what_pads_a_picture_is_no_part_of_it() -> None:
    """In a letterbox the picture lies in the middle; a mask of its upper left quarter stays that quarter."""
    placement = Letterbox(64, 64).place(20, 40)  # rows 16 to 48 of the input
    logits = torch.full((1, 1, 64, 64), -5.0)
    logits[0, 0, 16:32, :32] = 5
    (mask,) = masks_of_queries(Given(logits, (64, 64)), 0, torch.tensor([0]), (20, 40), placement)
    assert mask[:10, :20].all()
    assert mask.sum() == 200


@pytest.mark.parametrize("threshold", [0.0, 0.6])
def test_a_query_of_several_detections_has_one_mask(threshold: float) -> None:
    logits = torch.tensor([[[2.0, 1.0], [-3.0, 3.0]]])  # (1, Q = 2, K = 2)
    masks = Given(torch.tensor([[[[9.0]], [[-9.0]]]]), (8, 8))
    classes = Classes(np.array([1, 2]), np.array(["cat", "dog"]))
    prediction = Prediction(logits, torch.full((1, 2, 4), 0.5), masks)
    (found,) = detections(
        prediction, [(8, 8)], classes, Sigmoid(top_k=4), Preprocessing(ShortestEdge(8, 8)), threshold, Published()
    )
    assert found.masks is not None
    covered = [mask.all() for mask in found.masks]
    assert covered == [query == 0 for query in found.queries.tolist()]
    assert len(found) == (4 if threshold == 0 else 3)
    assert found.part(np.array([1])).masks is not None
