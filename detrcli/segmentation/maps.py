"""Maps of a picture: what every pixel belongs to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from detrcli.run_lengths import box_around
from detrcli.structures import Classes

MapKind = Literal["panoptic", "semantic"]


@dataclass(frozen=True)
class Segment:
    """An object, or all that there is of a kind of stuff."""

    id: int  # in the map
    query: int
    category_id: int
    label: str
    thing: bool
    score: float
    area: int  # pixels of the picture
    box: tuple[int, int, int, int]  # x, y, width, height


@dataclass(frozen=True)
class PanopticMap:
    """The object, or the stuff, that every pixel of a picture belongs to."""

    ids: np.ndarray  # (H, W) int32, a segment's id; 0 where there is none
    segments: Sequence[Segment]


@dataclass(frozen=True)
class Region:
    """All that there is of a class."""

    category_id: int
    label: str
    area: int  # pixels of the picture
    box: tuple[int, int, int, int]  # x, y, width, height


@dataclass(frozen=True)
class SemanticMap:
    """The class of every pixel of a picture."""

    ids: np.ndarray  # (H, W) int64, the data's own ids of classes
    regions: Sequence[Region]

    @classmethod
    def of(cls, labels: np.ndarray, classes: Classes) -> "SemanticMap":
        """From class indices (H, W)."""
        return cls(
            classes.ids[labels],
            [
                Region(int(classes.ids[label]), str(classes.names[label]), int(mask.sum()), box_around(mask))
                for label in np.unique(labels).tolist()
                for mask in [labels == label]
            ],
        )


def is_thing(classes: Classes, label: int) -> bool:
    """Whether each object of a class counts for itself; so it is of all classes where nobody says which are stuff."""
    return classes.things is None or bool(classes.things[label])
