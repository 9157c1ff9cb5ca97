"""Bootstrap confidence intervals of the AP of a model, and of the difference between two models on the same images.

An image drawn twice counts twice. hotcoco's own comparison counts it once: its intervals are a fifth too narrow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detrcli.evaluation.metrics import MAX_DETECTIONS, RECALLS
from detrcli.evaluation.pairing import IGNORED, groups, paired
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth

CONFIDENCE = 0.95
DRAWS = 1000  # of a small split; a larger split needs fewer, since its metrics vary less
DRAWN_IMAGES = 400_000  # approximate number of images in all draws
IOUS = np.linspace(0.5, 0.95, 10)
# Minimum and maximum area of the objects that count, in pixels; the largest bound is COCO's.
SIZES = {"": (0.0, 1e10), "s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}


@dataclass(frozen=True)
class Interval:
    value: float
    low: float  # of the 95 % confidence interval
    high: float

    @property
    def covers_zero(self) -> bool:
        return self.low <= 0 <= self.high


@dataclass(frozen=True)
class Difference:
    name: str
    gains: Mapping[
        str, Interval
    ]  # over the first of several models: of AP, AP50, AP75, AP by size, and `AP of NAME` of each class

    @property
    def verdict(self) -> str:
        gain = self.gains.get("AP")
        if gain is None:
            return f"{self.name}: not enough data to compare."
        interval = f"{gain.value:+.3f} AP, 95 % interval {gain.low:+.3f} to {gain.high:+.3f}"
        if gain.covers_zero:
            return f"{self.name} may be as good: {interval}."
        return f"{self.name} is {'better' if gain.value > 0 else 'worse'}: {interval}."

    def document(self, first: str) -> dict[str, Any]:
        metrics = {name: {"difference": i.value, "low": i.low, "high": i.high} for name, i in self.gains.items()}
        return {"name": self.name, "against": first, "metrics": metrics}


def compared(truth: Truth, named: Sequence[tuple[str, Results]]) -> list[Difference]:
    """Compare the results of each model with those of the first."""
    (_, first), *others = named
    return [Difference(name, differences(truth, first, results)) for name, results in others]


def interval_of_ap(truth: Truth, results: Results) -> Interval | None:
    """Return AP and its interval; None with fewer than two images or without objects."""
    draws = _draws(truth)
    return None if draws is None else _interval(_mean(_class_aps(truth, results, draws, "")).mean(0))


def differences(truth: Truth, before: Results, after: Results) -> Mapping[str, Interval]:
    """Return the gains of AP, AP50, AP75, AP by size and `AP of NAME` of each class, on the same draws."""
    gains: dict[str, Interval] = {}
    if (draws := _draws(truth)) is None:
        return gains
    for size in SIZES:
        old, new = (_class_aps(truth, results, draws, size) for results in (before, after))  # (K, T, draws)
        gain = _mean(new) - _mean(old)  # (T, draws)
        if np.isfinite(gain[:, 0]).all():
            gains[f"AP{size}"] = _interval(gain.mean(0))
        if not size:
            gains["AP50"], gains["AP75"] = _interval(gain[0]), _interval(gain[5])
            for name, of_class in zip(truth.classes.names, (new - old).mean(1), strict=True):
                if np.isfinite(of_class[0]):
                    gains[f"AP of {name}"] = _interval(of_class)
    return gains


def _draws(truth: Truth) -> np.ndarray | None:
    """Return how often each image is drawn, (1 + draws, images), first the split itself; None if it is too small."""
    images = len(truth.images)
    if images < 2 or truth.crowd.all():
        return None
    rng = np.random.default_rng(0)
    count = max(200, min(DRAWS, DRAWN_IMAGES // images))
    drawn = rng.multinomial(images, np.full(images, 1 / images), size=count)
    return np.concatenate([np.ones((1, images), dtype=drawn.dtype), drawn])


def _interval(values: np.ndarray) -> Interval:
    """Return the interval of the values of the split and the draws, (1 + draws,); draws without objects are NaN."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(values[1:], [tail, 1 - tail])
    return Interval(float(values[0]), float(low), float(high))


def _mean(class_aps: np.ndarray) -> np.ndarray:
    """Average AP over the classes with objects, (K, T, draws) to (T, draws); NaN if there are none."""
    measured = np.isfinite(class_aps)
    total = np.where(measured, class_aps, 0).sum(0)
    return np.divide(total, measured.sum(0), out=np.full_like(total, np.nan), where=measured.any(0))


def _class_aps(truth: Truth, results: Results, draws: np.ndarray, size: str) -> np.ndarray:
    """Return the AP of each class at each IoU in each draw, (K, T, draws); NaN where there are no objects."""
    smallest, largest = SIZES[size]
    results = results.part(results.known_to(truth))
    by_score = np.lexsort((-results.scores, results.category_ids, results.image_ids))
    kept = [own[:MAX_DETECTIONS] for _, own in groups(results.image_ids, results.category_ids, by_score)]
    results = results.part(np.concatenate([*kept, np.zeros(0, dtype=int)]))
    outside = (truth.areas < smallest) | (truth.areas > largest)
    matched = paired(truth, results, IOUS.tolist(), outside)  # (T, M)
    area = results.boxes[:, 2:].prod(1)
    counts = (matched != IGNORED) & ((matched >= 0) | ((area >= smallest) & (area <= largest)))  # (T, M)
    image = np.searchsorted(truth.image_ids, results.image_ids)  # (M,)
    values = np.full((len(truth.classes), len(IOUS), len(draws)), np.nan)
    for k, id_ in enumerate(truth.classes.ids.tolist()):
        of_class = ~(truth.crowd | outside) & (truth.of_category == id_)
        if not of_class.any():
            continue
        objects = draws[:, np.searchsorted(truth.image_ids, truth.of_image[of_class])].sum(1)  # (draws,)
        own = np.flatnonzero(results.category_ids == id_)
        own = own[np.argsort(-results.scores[own], kind="stable")]
        weights = draws[:, image[own]]
        for t in range(len(IOUS)):
            ap = _ap(matched[t, own] >= 0, counts[t, own], weights, objects)
            values[k, t] = np.where(objects > 0, ap, np.nan)
    return values


def _ap(right: np.ndarray, counts: np.ndarray, weights: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Return AP, (draws,), of detections by descending score, (M,), that are drawn `weights` times, (draws, M)."""
    hits = np.flatnonzero(right)  # precision has its maxima at true positives
    if not len(hits):
        return np.zeros(len(weights))
    kept = np.where(counts[: hits[-1] + 1], weights[:, : hits[-1] + 1], 0).cumsum(1)[:, hits]
    true_positives = weights[:, hits].cumsum(1)  # (draws, hits)
    precision = np.maximum.accumulate((true_positives / np.maximum(kept, 1))[:, ::-1], axis=1)[:, ::-1]
    recall = true_positives / np.maximum(objects, 1)[:, None]
    # Recalls that are never reached have a precision of 0.
    padded = np.concatenate([precision, np.zeros((len(weights), 1))], 1)
    return np.array([padded[i, recall[i].searchsorted(RECALLS)].mean() for i in range(len(weights))])
