"""Splits worked by hand: objects and detections in a line each."""

from collections.abc import Sequence

import numpy as np

from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth
from detrcli.structures import Classes

Box = tuple[float, float, float, float]
CAT, DOG = 3, 8


def truth(*objects: tuple[int, int, Box], crowd: Sequence[bool] | None = None, images: int = 4) -> Truth:
    """Objects as image, category, box."""
    boxes = np.array([box for *_, box in objects], dtype=float).reshape(-1, 4)
    return Truth(
        images=np.arange(images),
        image_ids=np.arange(1, images + 1),
        classes=Classes(np.array([CAT, DOG]), np.array(["cat", "dog"])),
        annotation_ids=np.arange(len(objects)) + 101,
        of_image=np.array([image for image, *_ in objects], dtype=np.int64),
        of_category=np.array([category for _, category, _ in objects], dtype=np.int64),
        boxes=boxes,
        areas=boxes[:, 2] * boxes[:, 3],
        crowd=np.array(crowd if crowd is not None else [False] * len(objects), dtype=bool),
    )


def results(*found: tuple[int, int, Box, float]) -> Results:
    """Detections as image, category, box, score."""
    return Results(
        np.array([image for image, *_ in found], dtype=np.int64),
        np.array([category for _, category, *_ in found], dtype=np.int64),
        np.array([box for *_, box, _ in found], dtype=float).reshape(-1, 4),
        np.array([score for *_, score in found], dtype=float),
    )
