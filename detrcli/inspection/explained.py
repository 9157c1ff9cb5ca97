"""A group of queries of one image with all that is known of its matching: found once, told in several ways."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from detrcli.boxes import from_pixels, to_pixels
from detrcli.errors import UsageError
from detrcli.inspection.losses import ObjectLosses, image_normalisers, object_losses
from detrcli.inspection.matching import LayerMatching, explain_matching, matched_with
from detrcli.losses.criterion import Criterion
from detrcli.losses.loss import Loss
from detrcli.losses.matching import HungarianMatcher
from detrcli.resize import Placement
from detrcli.structures import QueryGroup, Target


@dataclass(frozen=True)
class GroupMatching:
    """A group of queries and what it was matched with."""

    name: str
    target: Target  # on the CPU
    layers: Sequence[LayerMatching]
    losses: Sequence[ObjectLosses] | None  # of each layer; None where the loss cannot be taken apart

    @property
    def queries(self) -> np.ndarray:
        """The query of each object in every layer, (L, N)."""
        return np.stack([layer.queries for layer in self.layers])


def explain_group(
    group: QueryGroup, target: Target, loss: Loss, normalisers: Mapping[str, float] | None = None
) -> GroupMatching:
    """Match a group of a single image once, as training does; explain the pairs and what they are charged.

    Without normalisers those of a training step that sees this image alone.
    """
    matcher = matcher_of(loss)
    own, match = matched_with(group, target, matcher)
    losses = None
    if isinstance(loss, Criterion):
        losses = object_losses(group, own, match, loss, normalisers or image_normalisers(group, target, loss))
    return GroupMatching(
        name=group.name,
        target=own.to(torch.device("cpu")),
        layers=explain_matching(group, own, matcher, loss.scoring, match),
        losses=losses,
    )


def matcher_of(loss: Loss) -> HungarianMatcher:
    """How queries are matched; a UsageError where a model keeps that to itself."""
    if loss.matcher is None:
        raise UsageError("This model does not say how its queries are matched: there is nothing to explain.")
    return loss.matcher


def of_picture(boxes: np.ndarray, placement: Placement) -> np.ndarray:
    """Boxes (..., 4), cx, cy, w, h in [0, 1] of the network's input, to the same in [0, 1] of the picture."""
    if placement.fills:
        return boxes
    moved: np.ndarray = from_pixels(to_pixels(torch.from_numpy(boxes), 1, 1, placement), 1, 1).numpy()
    return moved
