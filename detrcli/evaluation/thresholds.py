"""Score thresholds with the highest F1, of all classes together and of each class."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detrcli.errors import DataError
from detrcli.evaluation.pairing import FOUND_IOU, IGNORED, found_objects
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth
from detrcli.system.files import write_whole
from detrcli.system.text import normalize_name

SCHEMA = "detr.thresholds/1"


@dataclass(frozen=True)
class BestThreshold:
    threshold: float
    f1: float
    precision: float
    recall: float
    objects: int


@dataclass(frozen=True)
class Thresholds:
    overall: BestThreshold  # of all classes together
    by_class: Mapping[str, BestThreshold]  # by class name

    def document(self) -> dict[str, Any]:
        classes = {name: asdict(best) for name, best in self.by_class.items()}
        return {"schema": SCHEMA, "iou": FOUND_IOU, "all": asdict(self.overall), "classes": classes}


def best_thresholds(truth: Truth, results: Results) -> Thresholds:
    """Compute the best thresholds from detections of all scores."""
    results = results.part(results.known_to(truth))
    found = found_objects(truth, results)

    def best(detections: np.ndarray, objects: np.ndarray) -> BestThreshold:
        chosen = detections & (found != IGNORED)
        return best_threshold(results.scores[chosen], found[chosen] >= 0, int((objects & ~truth.crowd).sum()))

    by_class = {
        name: best(results.category_ids == id_, truth.of_category == id_)
        for id_, name in zip(truth.classes.ids, truth.classes.names.tolist(), strict=True)
    }
    return Thresholds(best(np.ones(len(results), dtype=bool), np.ones(len(truth.objects), dtype=bool)), by_class)


def best_threshold(scores: np.ndarray, right: np.ndarray, objects: int) -> BestThreshold:
    """Return the best threshold, midway between two scores, (M,), for detections that are true positives if `right`."""
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], right[order].cumsum()  # (M,)
    kept = np.arange(1, len(scores) + 1)
    last = np.append(scores[1:] < scores[:-1], True)[: len(scores)]  # equal scores are kept or dropped together
    f1 = np.where(last, 2 * hits / np.maximum(kept + objects, 1), -1.0)
    if not len(scores) or f1.max() <= 0:
        return BestThreshold(1.0, 0.0, 0.0, 0.0, objects)
    best = int(f1.argmax())
    following = scores[best + 1] if best + 1 < len(scores) else 0.0
    precision, recall = float(hits[best] / kept[best]), float(hits[best] / objects) if objects else 0.0
    return BestThreshold(float((scores[best] + following) / 2), float(f1[best]), precision, recall, objects)


def write_thresholds(thresholds: Thresholds, path: Path) -> None:
    write_whole(path, (json.dumps(thresholds.document(), indent=2) + "\n").encode())


def read_thresholds(path: Path) -> tuple[float, dict[str, float]]:
    """Return the overall threshold and those of classes, by normalized name."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise ValueError(f"its schema is {document['schema']!r}")
        overall = float(document["all"]["threshold"])
        # A class without a true positive uses the overall threshold.
        classes = document["classes"].items()
        by_class = {normalize_name(name): float(best["threshold"]) for name, best in classes if best["f1"] > 0}
        if not all(0 <= value <= 1 for value in (overall, *by_class.values())):
            raise ValueError("a threshold is not between 0 and 1")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{path}: not a file of thresholds from `detr eval` ({error}).") from None
    return overall, by_class
