"""What a training is judged by: named values of detections, of which one says which epoch is the best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from detrcli.evaluation.masks import truth_masks
from detrcli.evaluation.metrics import METRICS, score
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth

BEST = "AP"


class Evaluator(Protocol):
    """Turns the detections of a split into named values."""

    @property
    def names(self) -> Sequence[str]:
        """What it measures, in the order in which it is shown."""

    @property
    def best(self) -> str:
        """Which of them says what is better: the higher the better, below 0 where there was nothing to measure."""

    def evaluate(self, truth: Truth, results: Results) -> Mapping[str, float]:
        """The values."""


@dataclass(frozen=True)
class CocoEvaluator:
    """The twelve COCO numbers for boxes."""

    names: Sequence[str] = METRICS
    best: str = BEST

    def evaluate(self, truth: Truth, results: Results) -> Mapping[str, float]:
        """The values, -1 where there is nothing to find."""
        return score(truth, results).metrics


@dataclass(frozen=True)
class CocoMaskEvaluator:
    """The same for masks, which are named mask_AP and so on, and for boxes. Masks say which is the best."""

    names: Sequence[str] = (f"mask_{BEST}", *METRICS, *(f"mask_{name}" for name in METRICS if name != BEST))
    best: str = f"mask_{BEST}"

    def evaluate(self, truth: Truth, results: Results) -> Mapping[str, float]:
        """The values; none of masks where an object or a detection has none."""
        boxes = score(truth, results).metrics
        masks = None if results.masks is None else truth_masks(truth)
        if masks is None:
            return boxes
        return {
            **boxes,
            **{f"mask_{name}": value for name, value in score(truth, results, masks=masks).metrics.items()},
        }
