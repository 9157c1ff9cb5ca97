"""Detections of several models on one split: whether one is better, or was lucky."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detrcli.evaluation.interval import Interval, differences
from detrcli.evaluation.outcomes import Outcomes
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth


@dataclass(frozen=True)
class Difference:
    """How much better one is than the first of all."""

    name: str
    gains: Mapping[str, Interval]  # of AP, AP50, AP75, by size, and `AP of NAME` of each class

    @property
    def verdict(self) -> str:
        """In a sentence."""
        gain = self.gains.get("AP")
        if gain is None:
            return f"{self.name}: there is too little to compare."
        between = f"{gain.value:+.3f} AP, 95 % interval {gain.low:+.3f} to {gain.high:+.3f}"
        if gain.covers_zero:
            return f"{self.name} may be as good: {between}."
        return f"{self.name} is {'better' if gain.value > 0 else 'worse'}: {between}."

    def document(self, first: str) -> dict[str, Any]:
        """In plain values."""
        return {
            "name": self.name,
            "against": first,
            "metrics": {
                metric: {"difference": gain.value, "low": gain.low, "high": gain.high}
                for metric, gain in self.gains.items()
            },
        }


def compared(truth: Truth, named: Sequence[tuple[str, Results]]) -> list[Difference]:
    """Each of them beside the first."""
    (_, first), *others = named
    return [Difference(name, differences(truth, first, results)) for name, results in others]


def image_scores(outcomes: Outcomes) -> np.ndarray:
    """F1 of each image, (I,): 1 where there is nothing to find and nothing is detected."""
    objects, found, alarms = outcomes.per_image
    total = objects + found + alarms
    scores: np.ndarray = np.where(total > 0, 2 * found / np.maximum(total, 1), 1.0)
    return scores
