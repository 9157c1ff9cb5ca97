"""From which score on detections should count: where F1 is highest, of all classes and of each."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detrcli.errors import DataError
from detrcli.evaluation.errors import SAME
from detrcli.evaluation.pairing import IGNORED, found_objects
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth
from detrcli.system.files import write_whole
from detrcli.system.text import normalize_name

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
    found = found_objects(truth, results)
    right, counts = found >= 0, found != IGNORED
    real = ~truth.crowd

    def best(of_class: np.ndarray, objects: int) -> BestThreshold:
        chosen = of_class & counts
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
    last = np.append(scores[1:] < scores[:-1], True)[: len(scores)]  # equal scores are kept or dropped together
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
            normalize_name(name): float(one["threshold"]) for name, one in document["classes"].items() if one["f1"] > 0
        }
        if not all(0 <= value <= 1 for value in (overall, *by_class.values())):
            raise ValueError("a threshold is no score between 0 and 1")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{path}: no thresholds of `detr eval --thresholds` ({error}).") from None
    return overall, by_class
