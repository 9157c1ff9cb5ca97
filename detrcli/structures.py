"""What flows between the rooms, each with its shapes.

B images, Q queries, K classes, N objects of an image, T objects of all images of a batch, L decoder layers,
C channels, H and W pixels, h and w feature cells, S = h * w tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Pictures of possibly different sizes, padded at the right and the bottom to one size."""

    images: Tensor  # (B, 3, H, W), normalised
    padding: Tensor  # (B, H, W), True where there is no picture

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        return Batch(self.images.to(device), self.padding.to(device))


@dataclass(frozen=True)
class Target:
    """The objects of one image."""

    labels: Tensor  # (N,), contiguous class indices
    boxes: Tensor  # (N, 4), cx, cy, w, h in [0, 1]

    def to(self, device: torch.device) -> Target:
        """The same on another device."""
        return Target(self.labels.to(device), self.boxes.to(device))


@dataclass(frozen=True)
class Prediction:
    """What the heads say of every query."""

    logits: Tensor  # (B, Q, K + 1), the last class is "no object"
    boxes: Tensor  # (B, Q, 4), cx, cy, w, h in [0, 1]


@dataclass(frozen=True)
class Group:
    """A prediction that is supervised by itself, as that of each decoder layer is."""

    name: str
    prediction: Prediction


@dataclass(frozen=True)
class Output:
    """All that a forward pass predicts."""

    last: Prediction
    auxiliary: tuple[Group, ...]  # the layers before the last, first layer first

    @property
    def groups(self) -> tuple[Group, ...]:
        """Every supervised prediction, the last layer's at the end."""
        return (*self.auxiliary, Group("last", self.last))


@dataclass(frozen=True)
class Match:
    """Which query answers for which object: the M pairs of one group, over all images of the batch."""

    images: Tensor  # (M,), ascending
    queries: Tensor  # (M,)
    targets: Tensor  # (M,), counted through all images of the batch, 0..T-1


@dataclass(frozen=True)
class Classes:
    """What a class index means: the data's own ids and names, which travel with the weights."""

    ids: np.ndarray  # (K,), int64
    names: np.ndarray  # (K,), str

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Detections:
    """What was found in one picture, N of it."""

    boxes: np.ndarray  # (N, 4), x0, y0, x1, y1 in pixels, float32
    scores: np.ndarray  # (N,), the highest class probability, float32
    category_ids: np.ndarray  # (N,), the data's own ids
    queries: np.ndarray  # (N,), which object query found it
    labels: np.ndarray  # (N,), names of the classes

    def __len__(self) -> int:
        return len(self.scores)
