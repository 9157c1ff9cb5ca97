"""Small splits, with an object or detection in a line."""

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
    return truth_of(replace(true.split, written=replace(true.split.written, **columns)))


def results(*detections: tuple[int, int, Box, float]) -> Results:
    """Detections as image, category, box, score."""
    images, categories, boxes, scores = zip(*detections, strict=True) if detections else ((), (), (), ())
    ids = np.array(images, np.int64), np.array(categories, np.int64)
    return Results(*ids, np.array(boxes, float).reshape(-1, 4), np.array(scores, float))


def random_split(seed: int, images: int = 60, off: float = 0.1) -> tuple[Truth, Results]:
    """Objects, most of them with a more or less accurate detection, some with two, and false positives."""
    rng = np.random.default_rng(seed)
    objects, found = [], []
    for image in range(1, images + 1):
        for _ in range(rng.integers(1, 6)):
            box = np.concatenate([rng.uniform(0, 200, 2), rng.uniform(20, 80, 2)])
            category = int(rng.choice([CAT, DOG]))
            objects.append((image, category, tuple(box)))
            for _ in range(rng.choice([0, 1, 2], p=[0.2, 0.6, 0.2])):
                moved = box + off * rng.normal(size=4) * box[[2, 3, 2, 3]]
                found.append((image, category, tuple(moved), float(rng.beta(4, 2))))
            if rng.random() < 0.3:
                found.append((image, category, (400.0, 400.0, 30.0, 30.0), float(rng.beta(2, 4))))
    return truth(*objects, images=images), results(*found)
