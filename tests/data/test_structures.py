"""Values that pass on fields that they do not know."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from detrcli.structures import Batch, Detections, Match, Target


@dataclass(frozen=True)
class Tracked(Target):
    """A target with a further field."""

    tracks: Tensor  # (N,)


def test_all_fields_of_a_target_are_moved() -> None:
    """To the meta device, which exists on every machine."""
    target = Tracked(torch.tensor([1, 2]), torch.rand(2, 4), torch.tensor([7, 8]))
    moved = target.to(torch.device("meta"))
    assert type(moved) is Tracked
    assert len(moved) == 2
    assert {field.device.type for field in (moved.labels, moved.boxes, moved.tracks)} == {"meta"}
    assert torch.equal(target.to(torch.device("cpu")).tracks, target.tracks)


def test_a_batch_without_padding_is_moved() -> None:
    for padding in (None, torch.zeros(1, 4, 4, dtype=torch.bool)):
        moved = Batch(torch.zeros(1, 3, 4, 4), padding).to(torch.device("meta"))
        assert moved.images.device.type == "meta"
        assert (moved.padding is None) is (padding is None)


def test_pairs_of_a_layer() -> None:
    match = Match(*torch.tensor([[0, 0, 1], [0, 1, 1], [5, 6, 7], [2, 1, 0]]))
    assert [field.tolist() for field in vars(match.layer(0)).values()] == [[0, 0], [0, 1], [5, 6], [2, 1]]
    assert match.layer(1).queries.tolist() == [7]
    assert match.layer(2).queries.tolist() == []


def test_a_selection_of_detections() -> None:
    boxes, scores = np.arange(12.0).reshape(3, 4), np.array([0.9, 0.8, 0.7])
    detections = Detections(boxes, scores, np.array([4, 5, 4]), np.array([2, 2, 0]), np.array(["a", "b", "a"]))
    part = detections.part(detections.category_ids == 4)
    assert part.queries.tolist() == [2, 0]
    assert part.boxes[:, 0].tolist() == [0, 8]
    assert part.labels.tolist() == ["a", "a"]
