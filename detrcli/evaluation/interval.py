"""How sure an AP is, and a difference of two: the images of a split are drawn anew, many times (bootstrap).

An image that is drawn twice counts twice. hotcoco's own comparison lets it count once, which makes its intervals a
fifth too narrow.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from detrcli.evaluation.metrics import MAX_DETECTIONS, RECALLS
from detrcli.evaluation.pairing import IGNORED, groups, paired
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth

CONFIDENCE = 0.95
DRAWS = 1000  # of a small split; a larger one needs fewer, as its figures vary less
WORK = 400_000  # images drawn in all, about
IOUS = np.linspace(0.5, 0.95, 10)
# Pixels of the objects that count, from and below; the largest is COCO's bound.
SIZES = {"": (0.0, 1e10), "s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}


@dataclass(frozen=True)
class Interval:
    """A figure, and between which two it would lie in 95 of 100 splits of the same kind."""

    value: float
    low: float
    high: float

    @property
    def covers_zero(self) -> bool:
        """Whether the figure may as well be none."""
        return self.low <= 0 <= self.high


def interval_of_ap(truth: Truth, results: Results) -> Interval | None:
    """That of the AP of detections; None where there is nothing to draw from."""
    if len(truth.images) < 2 or not (~truth.crowd).any():
        return None
    drawn = _mean(_by_class(truth, results, _draws(len(truth.images)), ""))  # (T, draws)
    return _interval(drawn.mean(0))


def differences(truth: Truth, before: Results, after: Results) -> Mapping[str, Interval]:
    """How much higher AP, AP50, AP75, those by size and `AP of NAME` of each class are; both see the same draws."""
    if len(truth.images) < 2 or not (~truth.crowd).any():
        return {}
    draws = _draws(len(truth.images))
    found: dict[str, Interval] = {}
    for size in SIZES:
        one, other = (_by_class(truth, results, draws, size) for results in (before, after))  # (K, T, draws)
        gain = _mean(other) - _mean(one)  # (T, draws)
        if np.isfinite(gain[:, 0]).all():
            found[f"AP{size}"] = _interval(gain.mean(0))
        if not size:
            found["AP50"], found["AP75"] = _interval(gain[0]), _interval(gain[5])
            for name, of_class in zip(truth.classes.names, (other - one).mean(1), strict=True):
                if np.isfinite(of_class[0]):
                    found[f"AP of {name}"] = _interval(of_class)
    return found


def _draws(images: int) -> np.ndarray:
    """How often each image is drawn, (draws, images); once each in the first, which is the split itself."""
    rng = np.random.default_rng(0)
    count = max(200, min(DRAWS, WORK // images))
    drawn = rng.multinomial(images, np.full(images, 1 / images), size=count)
    return np.concatenate([np.ones((1, images), dtype=drawn.dtype), drawn])


def _interval(values: np.ndarray) -> Interval:
    """Of the split's own figure and those of the draws, (1 + draws,); a draw without any object says nothing."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(values[1:], [tail, 1 - tail])
    return Interval(float(values[0]), float(low), float(high))


def _mean(by_class: np.ndarray) -> np.ndarray:
    """AP over the classes that have objects, (K, T, draws) to (T, draws); NaN where none has."""
    there = np.isfinite(by_class)
    total = np.where(there, by_class, 0).sum(0)
    return np.divide(total, there.sum(0), out=np.full_like(total, np.nan), where=there.any(0))


def _by_class(truth: Truth, results: Results, draws: np.ndarray, size: str) -> np.ndarray:
    """AP of each class at each IoU in each draw, (K, T, draws); NaN where there is nothing to find."""
    least, most = SIZES[size]
    known = np.isin(results.image_ids, truth.image_ids) & np.isin(results.category_ids, truth.classes.ids)
    results = _best(results.part(known))
    outside = (truth.areas < least) | (truth.areas > most)
    found = paired(truth, results, IOUS.tolist(), outside)  # (T, M)
    area = results.boxes[:, 2:].prod(1)
    counts = (found != IGNORED) & ((found >= 0) | ((area >= least) & (area <= most)))  # (T, M)
    image = np.searchsorted(truth.image_ids, results.image_ids)  # (M,)
    real = ~(truth.crowd | outside)
    values = np.full((len(truth.classes), len(IOUS), len(draws)), np.nan)
    for k, id_ in enumerate(truth.classes.ids.tolist()):
        objects = np.searchsorted(truth.image_ids, truth.of_image[real & (truth.of_category == id_)])
        if not len(objects):
            continue
        there = draws[:, objects].sum(1)  # (draws,), objects to find
        own = np.flatnonzero(results.category_ids == id_)
        own = own[np.argsort(-results.scores[own], kind="stable")]
        for t, ap in _of_class(found[:, own] >= 0, counts[:, own], draws[:, image[own]], there):
            values[k, t] = np.where(there > 0, ap, np.nan)
    return values


def _of_class(
    right: np.ndarray, counts: np.ndarray, weights: np.ndarray, objects: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """AP at each IoU, (draws,): of detections by falling score, (T, M), that each draw has so often, (draws, M)."""
    for t in range(len(right)):
        hits = np.flatnonzero(right[t])  # precision is highest where another one is found
        if not len(hits):
            yield t, np.zeros(len(weights))
            continue
        kept = np.where(counts[t, : hits[-1] + 1], weights[:, : hits[-1] + 1], 0).cumsum(1)[:, hits]
        found = weights[:, hits].cumsum(1)  # (draws, hits)
        precision = np.maximum.accumulate((found / np.maximum(kept, 1))[:, ::-1], axis=1)[:, ::-1]
        recall = found / np.maximum(objects, 1)[:, None]
        # For each recall the place from which on it is reached; behind the last one there is none.
        padded = np.concatenate([precision, np.zeros((len(weights), 1))], 1)
        ap = np.empty(len(weights))
        for draw in range(len(weights)):
            ap[draw] = padded[draw, recall[draw].searchsorted(RECALLS)].mean()
        yield t, ap


def _best(results: Results) -> Results:
    """The 100 surest detections of each image and class, in the order of images."""
    order = np.lexsort((-results.scores, results.category_ids, results.image_ids))
    kept = [places[:MAX_DETECTIONS] for _, places in groups(results.image_ids, results.category_ids, order)]
    chosen = np.concatenate(kept) if kept else np.zeros(0, dtype=int)
    return results.part(chosen)
