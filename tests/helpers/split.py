"""Splits worked by hand: objects and detections in a line each."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from detrcli.data.checks import Split
from detrcli.data.raw_annotations import RawAnnotations
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth, truth_of

Box = tuple[float, float, float, float]
CAT, DOG = 3, 8


def truth(*objects: tuple[int, int, Box], crowd: Sequence[bool] | None = None, images: int = 4) -> Truth:
    """Objects as image, category, box."""
    boxes = np.array([box for *_, box in objects], dtype=float).reshape(-1, 4)
    written = RawAnnotations(
        folder=Path(),
        image_ids=np.arange(1, images + 1),
        files=[f"{i}.png" for i in range(images)],
        sizes=np.full((images, 2), 1000),
        annotation_ids=np.arange(len(objects)) + 101,
        of_image=np.array([image for image, *_ in objects], dtype=np.int64),
        of_category=np.array([category for _, category, _ in objects], dtype=np.int64),
        boxes=boxes,
        areas=boxes[:, 2] * boxes[:, 3],
        crowd=np.array(crowd if crowd is not None else [False] * len(objects), dtype=bool),
        category_ids=np.array([CAT, DOG]),
        names=["cat", "dog"],
        parents=["", ""],
    )
    every = np.ones(images, dtype=bool)
    return truth_of(Split(written, [], every, np.ones(len(objects), dtype=bool), written.sizes, every))


def changed(true: Truth, **columns: np.ndarray) -> Truth:
    """The same objects with other values of some columns."""
    return truth_of(replace(true.split, written=replace(true.split.written, **columns)))


def results(*found: tuple[int, int, Box, float]) -> Results:
    """Detections as image, category, box, score."""
    return Results(
        np.array([image for image, *_ in found], dtype=np.int64),
        np.array([category for _, category, *_ in found], dtype=np.int64),
        np.array([box for *_, box, _ in found], dtype=float).reshape(-1, 4),
        np.array([score for *_, score in found], dtype=float),
    )
