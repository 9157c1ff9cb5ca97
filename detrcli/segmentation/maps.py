"""Panoptic and semantic maps, and the interface of the classes that compute them. Does not import torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from detrcli.errors import NOT_FINITE, DivergedError, UsageError
from detrcli.messages import argument
from detrcli.run_lengths import box_around
from detrcli.structures import Classes, Detections, Masks, Prediction

if TYPE_CHECKING:
    from detrcli.losses.scoring import Scoring
    from detrcli.resize import Placement

MapKind = Literal["panoptic", "semantic"]


@dataclass(frozen=True)
class Region:
    """All pixels of a class in a semantic map."""

    category_id: int
    label: str
    area: int  # pixels of the image
    box: tuple[int, int, int, int]  # x, y, width, height


@dataclass(frozen=True)
class Segment(Region):
    """The pixels of an object, or all pixels of a stuff class, in a panoptic map."""

    id: int  # in the map
    query: int  # its index
    thing: bool
    score: float


@dataclass(frozen=True)
class PanopticMap:
    """The object or stuff class of every pixel."""

    ids: np.ndarray  # (H, W) int32, ids of segments; 0 for pixels without a segment
    segments: Sequence[Segment]


@dataclass(frozen=True)
class SemanticMap:
    """The class of every pixel."""

    ids: np.ndarray  # (H, W) int64, category ids of the dataset
    regions: Sequence[Region]

    @classmethod
    def of(cls, labels: np.ndarray, classes: Classes) -> SemanticMap:
        """Create a map from class indices (H, W)."""
        regions = []
        for label in np.unique(labels):
            mask = labels == label
            category = int(classes.ids[label]), str(classes.names[label])
            regions.append(Region(*category, int(mask.sum()), box_around(mask)))
        return cls(classes.ids[labels], regions)


@dataclass(frozen=True)
class MapRequest:
    """The kind of map to compute for every image."""

    kind: MapKind
    threshold: float | None = None  # minimum score of queries in panoptic maps; None: as published
    with_detections: bool = False  # whether detections are computed too


@dataclass(frozen=True)
class ImagePrediction:
    """The prediction for a single image of a batch."""

    prediction: Prediction
    image: int  # index in the batch
    size: tuple[int, int]  # height and width of the original image as it is displayed
    placement: Placement  # of the image in the network's input

    @property
    def masks(self) -> Masks:
        assert self.prediction.masks is not None
        return self.prediction.masks


class Segmentation(ABC):
    """The computation of masks and maps from predictions, as published with an architecture."""

    kinds: ClassVar[tuple[MapKind, ...]]
    boxes_around_masks: ClassVar[bool] = False  # whether scores and boxes of detections depend on their masks

    @property
    @abstractmethod
    def resizing(self) -> Sequence[str | Sequence[int]]:
        """The sizes to which mask logits are resized in turn before they are compared with 0.

        `input`, `image` (without the padding of the input), or height and width.
        """

    @abstractmethod
    def with_masks(self, detections: Detections, predicted: ImagePrediction, threshold: float) -> Detections:
        """Return detections with their masks, and with scores and boxes from the masks if these define them.

        The detections' class scores are at least the threshold.
        """

    @abstractmethod
    def panoptic(
        self, predicted: ImagePrediction, classes: Classes, scoring: Scoring, threshold: float | None = None
    ) -> PanopticMap:
        """Return the panoptic map of queries that score above the threshold, by default the published threshold."""

    def semantic(self, predicted: ImagePrediction, classes: Classes, scoring: Scoring) -> SemanticMap:
        """Return the semantic map, if `kinds` has it."""
        raise NotImplementedError  # `check` refuses the request before

    def check(self, request: MapRequest, source: str) -> None:
        """Raise UsageError if the model has no maps of this kind."""
        if request.kind not in self.kinds:
            kinds = " and ".join(self.kinds)
            raise UsageError(f"{source}: the model has only {kinds} maps. Change {argument('format', request.kind)}.")

    def map_of(
        self, predicted: ImagePrediction, classes: Classes, scoring: Scoring, request: MapRequest
    ) -> PanopticMap | SemanticMap:
        """Return the requested map; raise DivergedError if predictions are not finite."""
        if not predicted.prediction.logits[predicted.image].isfinite().all():
            raise DivergedError(NOT_FINITE)
        if request.kind == "semantic":
            return self.semantic(predicted, classes, scoring)
        return self.panoptic(predicted, classes, scoring, request.threshold)


def is_thing(classes: Classes, label: int) -> bool:
    """Return whether a class has separate objects; true for all classes of data without stuff."""
    return classes.things is None or bool(classes.things[label])
