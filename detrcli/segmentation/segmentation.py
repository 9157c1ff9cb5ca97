"""What a member has to say of how its queries become masks and maps. The core asks here and knows no other way."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from detrcli.errors import NOT_FINITE, DivergedError, UsageError
from detrcli.losses.scoring import Scoring
from detrcli.resize import Placement
from detrcli.segmentation.maps import MapKind, PanopticMap, SemanticMap
from detrcli.structures import Classes, Detections, Masks, Prediction


@dataclass(frozen=True)
class Predicted:
    """What was predicted of one picture of a batch."""

    prediction: Prediction
    image: int  # its place in the batch
    size: tuple[int, int]  # height and width that the picture is displayed in
    placement: Placement  # where it lies in the network's input

    @property
    def masks(self) -> Masks:
        """Those of its queries."""
        assert self.prediction.masks is not None
        return self.prediction.masks


@dataclass(frozen=True)
class MapRequest:
    """Which map is wanted of every picture."""

    kind: MapKind
    threshold: float | None = None  # of panoptic maps: the score that a query must pass; None: as published
    beside: bool = False  # detections, which are wanted too


# What makes a map of one kind; the last is the score that a query must pass, where there is such a thing.
MapMaker = Callable[[Predicted, Classes, Scoring, float | None], PanopticMap | SemanticMap]


class Segmentation(ABC):
    """One way to make masks and maps of what queries say."""

    @abstractmethod
    def with_masks(self, found: Detections, of: Predicted, threshold: float) -> Detections:
        """Detections with their masks; with the scores and boxes that follow from these, where that is the way.

        By its class alone each of the given ones scores at least the threshold.
        """

    @property
    @abstractmethod
    def maps(self) -> Mapping[MapKind, MapMaker]:
        """The kinds of maps that it makes."""

    def check(self, asked: MapRequest, source: str) -> None:
        """A UsageError where it makes no such maps."""
        if asked.kind not in self.maps:
            raise UsageError(
                f"{source}: this model's masks make {' and '.join(self.maps)} maps; --format {asked.kind} asks for "
                "another kind."
            )

    def map_of(self, of: Predicted, classes: Classes, scoring: Scoring, asked: MapRequest) -> PanopticMap | SemanticMap:
        """The map that is asked for; a DivergedError where the network says no numbers of it."""
        if not of.prediction.logits[of.image].isfinite().all():
            raise DivergedError(NOT_FINITE)
        with torch.no_grad():
            return self.maps[asked.kind](of, classes, scoring, asked.threshold)
