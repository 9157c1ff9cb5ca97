"""Which detections of an image are kept: by threshold, class, query and number, and clipped to the image."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

import numpy as np
import torch

from detrcli.boxes import clip_boxes
from detrcli.checkpoints.coco import UNUSED
from detrcli.errors import UsageError
from detrcli.evaluation.thresholds import read_thresholds
from detrcli.inference import DEFAULT_THRESHOLD
from detrcli.messages import argument
from detrcli.structures import Classes, Detections
from detrcli.system.text import normalize_name

EMPTY = 0.01  # pixels; a clipped box with a shorter side is empty


@dataclass(frozen=True)
class Selection:
    """The detections to keep, of all that a detector returns."""

    threshold: float | str | Path | None = None  # a score, or a file of thresholds by class
    classes: Sequence[str] | None = None  # names
    one_label: bool = False  # only the best class of each query
    max_detections: int | None = None  # per image, those of the highest scores
    clip: bool = False  # boxes to the image

    def __post_init__(self) -> None:
        if self.max_detections is not None and self.max_detections < 1:
            raise UsageError(f"{argument('max_detections', self.max_detections)}: it must be at least 1.")

    def thresholds(self) -> tuple[float, dict[str, float]]:
        """Return the overall threshold, and the thresholds of individual classes by normalized name."""
        if self.threshold is None:
            return DEFAULT_THRESHOLD, {}
        if isinstance(self.threshold, str | Path) and os.path.isfile(path := Path(self.threshold).expanduser()):
            return read_thresholds(path)
        with suppress(ValueError):
            score = float(str(self.threshold))
            if 0 <= score <= 1:
                return score, {}
        raise UsageError(
            f"{argument('threshold', self.threshold)}: it must be a score between 0 and 1, or a file of thresholds "
            "from `detr eval`."
        )

    def minimum_scores(
        self, classes: Classes, overall: float, by_class: Mapping[str, float]
    ) -> Mapping[int, float] | None:
        """Return the minimum score by class id, infinite for unwanted classes; None if there is nothing to filter."""
        names = self.classes
        if names is None and not by_class:
            return None
        keys = {int(id_): normalize_name(name) for id_, name in zip(classes.ids, classes.names.tolist(), strict=True)}
        minimum = {id_: by_class.get(key, overall) if by_class else 0.0 for id_, key in keys.items()}
        if names is not None:
            wanted = {normalize_name(name): name.strip() for name in names if name.strip()}
            unknown = [name for key, name in wanted.items() if key not in keys.values()]
            if unknown or not wanted:
                known = ", ".join(dict.fromkeys(name for name in classes.names.tolist() if name != UNUSED))
                problem = f"the weights have no class {', '.join(unknown)}" if unknown else "no class is named"
                raise UsageError(f"{argument('classes')}: {problem}. The classes are {known}.")
            minimum = {id_: score if keys[id_] in wanted else inf for id_, score in minimum.items()}
        return minimum

    def apply(self, detections: Detections, size: tuple[int, int], minimum: Mapping[int, float] | None) -> Detections:
        """Return the detections to keep of an image of this (height, width)."""
        if minimum is not None:
            limits = np.array([minimum[id_] for id_ in detections.category_ids.tolist()])
            detections = detections.part(detections.scores >= limits)
        if self.one_label:
            detections = detections.best_of_queries()
        if self.max_detections is not None:
            detections = detections.highest(self.max_detections)
        return clipped(detections, size) if self.clip else detections


def clipped(detections: Detections, size: tuple[int, int]) -> Detections:
    """Clip the boxes to an image of this (height, width), and remove those that become empty."""
    boxes = clip_boxes(torch.from_numpy(detections.boxes), *size).numpy()
    return replace(detections, boxes=boxes).part(np.flatnonzero((boxes[:, 2:] - boxes[:, :2] >= EMPTY).all(1)))
