"""From which score on detections should count: where F1 is highest, of all classes and of each."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detrcli.errors import DataError
from detrcli.evaluation.errors import SAME
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth
from detrcli.system.files import write_whole
from detrcli.system.text import key

SCHEMA = "detr.thresholds/1"


@dataclass(frozen=True)
class BestThreshold:
    """The score from which F1 is highest, and what holds there."""

    threshold: float
    f1: float
    precision: float
    recall: float
    objects: int


@dataclass(frozen=True)
class Thresholds:
    """Those of all classes together, and of each by its name."""

    overall: BestThreshold
    by_class: Mapping[str, BestThreshold]

    def document(self) -> dict[str, Any]:
        """In plain values."""
        classes = {name: asdict(one) for name, one in self.by_class.items()}
        return {"schema": SCHEMA, "iou": SAME, "all": asdict(self.overall), "classes": classes}


def best_thresholds(truth: Truth, results: Results) -> Thresholds:
    """From detections of all scores."""
    here = np.isin(results.image_ids, truth.image_ids) & np.isin(results.category_ids, truth.classes.ids)
    results = results.part(here)
    right, counts = true_positives(truth, results)
    real = ~truth.crowd

    def best(found: np.ndarray, objects: int) -> BestThreshold:
        chosen = found & counts
        return best_threshold(results.scores[chosen], right[chosen], objects)

    return Thresholds(
        best(np.ones(len(results), dtype=bool), int(real.sum())),
        {
            str(name): best(results.category_ids == id_, int((real & (truth.of_category == id_)).sum()))
            for id_, name in zip(truth.classes.ids, truth.classes.names, strict=True)
        },
    )


def best_threshold(scores: np.ndarray, right: np.ndarray, objects: int) -> BestThreshold:
    """Of detections (M,) and whether each finds an object of its own, out of so many.

    The threshold lies in the middle between the last score that should count and the next one.
    """
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], right[order].cumsum()  # (M,)
    kept = np.arange(1, len(scores) + 1)
    last = np.append(scores[1:] < scores[:-1], True)[
        : len(scores)
    ]  # equal scores are kept or dropped together
    f1 = np.where(last, 2 * hits / np.maximum(kept + objects, 1), -1.0)
    if not len(scores) or f1.max() <= 0:
        return BestThreshold(1.0, 0.0, 0.0, 0.0, objects)
    best = int(f1.argmax())
    following = scores[best + 1] if best + 1 < len(scores) else 0.0
    return BestThreshold(
        threshold=float((scores[best] + following) / 2),
        f1=float(f1[best]),
        precision=float(hits[best] / kept[best]),
        recall=float(hits[best] / objects) if objects else 0.0,
        objects=objects,
    )


def true_positives(truth: Truth, results: Results) -> tuple[np.ndarray, np.ndarray]:
    """Which detections find an object, and which count at all, both (M,), as COCO's evaluation matches.

    In every image and class the surest comes first and takes the free object that it overlaps most; what lies on a
    crowd, and finds nothing else, counts as neither right nor wrong.
    """
    right, counts = np.zeros(len(results), dtype=bool), np.ones(len(results), dtype=bool)
    in_order = np.lexsort((-results.scores, results.category_ids, results.image_ids))
    objects_of = dict(
        _groups(truth.of_image, truth.of_category, np.lexsort((truth.of_category, truth.of_image)))
    )
    for pair, places in _groups(results.image_ids, results.category_ids, in_order):
        objects = objects_of.get(pair)
        if objects is None:
            continue
        overlaps = _overlaps(results.boxes[places], truth.boxes[objects], truth.crowd[objects])  # (m, n)
        crowd, taken = truth.crowd[objects], np.zeros(len(objects), dtype=bool)
        for place, row in zip(places, overlaps, strict=True):
            free = np.where(taken | crowd, -1.0, row)
            if free.max(initial=-1.0) >= SAME:
                taken[int(free.argmax())] = True
                right[place] = True
            elif np.where(crowd, row, -1.0).max(initial=-1.0) >= SAME:
                counts[place] = False
    return right, counts


def _groups(
    images: np.ndarray, categories: np.ndarray, order: np.ndarray
) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """The places of every pair of image and category, which `order` puts one after the other."""
    pairs = np.stack([images, categories])[:, order]  # (2, M)
    starts = np.flatnonzero((pairs[:, 1:] != pairs[:, :-1]).any(0)) + 1
    for places in np.split(order, starts) if len(order) else []:
        yield (int(images[places[0]]), int(categories[places[0]])), places


def _overlaps(boxes: np.ndarray, others: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU of x, y, w, h (m, 4) with (n, 4); over a crowd the share of the box that lies in it."""
    first, second = boxes[:, None], others[None]
    top = np.maximum(first[..., :2], second[..., :2])
    end = np.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    common = (end - top).clip(min=0).prod(-1)  # (m, n)
    own, theirs = first[..., 2:].prod(-1), second[..., 2:].prod(-1)
    whole = np.where(crowd, own, own + theirs - common)
    return np.divide(common, whole, out=np.zeros_like(common), where=whole > 0)


def write_thresholds(thresholds: Thresholds, path: Path) -> None:
    """As `detr predict --threshold` takes them."""
    write_whole(path, (json.dumps(thresholds.document(), indent=2) + "\n").encode())


def read_thresholds(path: Path) -> tuple[float, dict[str, float]]:
    """The threshold of all other classes, and those of the classes by the keys of their names."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise ValueError(f"its schema is {document['schema']!r}")
        overall = float(document["all"]["threshold"])
        # A class of which nothing was ever right has no threshold of its own.
        by_class = {
            key(name): float(one["threshold"]) for name, one in document["classes"].items() if one["f1"] > 0
        }
        if not all(0 <= value <= 1 for value in (overall, *by_class.values())):
            raise ValueError("a threshold is no score between 0 and 1")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: no thresholds of `detr eval --thresholds` ({error}).") from None
    return overall, by_class
