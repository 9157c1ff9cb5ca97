"""All that `detr match-debug` knows of one image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detrcli.config import MatchingConfig
from detrcli.inspection.losses import ObjectLosses
from detrcli.inspection.matching import UNMATCHED, Layer, changed
from detrcli.inspection.mistakes import Extra, Missed
from detrcli.structures import Classes, Target


@dataclass(frozen=True)
class Facts:
    """All that is known of one image."""

    image_id: int
    file: str
    width: int
    height: int
    classes: Classes
    target: Target
    threshold: float
    config: MatchingConfig
    other: MatchingConfig  # other weights of the costs
    layers: Sequence[Layer]  # all of them
    shown: Sequence[Layer]
    charges: Sequence[ObjectLosses]
    queries: np.ndarray  # (L, N)
    other_queries: np.ndarray  # (L, N), with the other weights
    missed: Sequence[Missed]
    extra: Sequence[Extra]

    def name(self, label: int | None) -> str:
        """A class by its index."""
        return "" if label is None else str(self.classes.names[label])

    def target_name(self, n: int) -> str:
        """The class of an object."""
        return self.name(int(self.target.labels[n]))

    @property
    def flips(self) -> list[tuple[int, int, int | None, int | None]]:
        """Layer, object, its query, and the one that it would have with the other weights."""
        return [
            (layer, n, or_none(self.queries[layer])[n], or_none(self.other_queries[layer])[n])
            for layer, n in np.argwhere(changed(self.queries, self.other_queries)).tolist()
        ]


def or_none(queries: np.ndarray) -> list[int | None]:
    """Queries of objects, with None for those that none was left for."""
    return [None if query == UNMATCHED else query for query in queries.tolist()]
