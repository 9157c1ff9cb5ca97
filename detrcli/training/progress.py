"""Progress and events of a training, and the sums of an epoch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from detrcli.training.run_folder import Row
from detrcli.training.step import StepResult


@dataclass(frozen=True)
class TrainingProgress:
    """The progress of an epoch, for display."""

    epoch: int
    epochs: int
    done: int  # steps of this epoch
    steps: int
    seconds_left: float  # of the whole training
    row: Row  # of metrics.csv, for the epoch so far and in this process


class TrainingListener:
    """Receives the events of a training. This class ignores them; subclass it to show or record them."""

    def step(self, progress: TrainingProgress) -> None:
        """Called after each step, in each process."""

    def epoch(self, row: Row, *, best: bool) -> None:
        """Called after each epoch with its row of metrics.csv, in each process."""


NO_LISTENER = TrainingListener()


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    epochs: int
    best: Row | None  # the row of the best epoch
    seconds: float
    stopped: int | None  # exit code, if it was interrupted


@dataclass
class EpochMetrics:
    """Sums over the steps of an epoch so far, in one process."""

    steps: int = 0
    images: int = 0
    updates: int = 0  # steps with a finite gradient; fp16 skips the others
    seconds: float = 0.0
    waiting: float = 0.0  # seconds of waiting for data
    numbers: dict[str, float] = field(default_factory=dict)  # of StepResult; `norm` of finite gradients only

    def add(self, result: StepResult, seconds: float, waiting: float) -> None:
        """Add a step."""
        finite = math.isfinite(result.numbers["norm"])
        self.steps += 1
        self.images += result.images
        self.updates += finite
        self.seconds += seconds
        self.waiting += waiting
        for name, value in result.numbers.items():
            self.numbers[name] = self.numbers.get(name, 0.0) + (value if finite or name != "norm" else 0.0)


def redistributed(counted: Sequence[EpochMetrics], processes: int) -> EpochMetrics:
    """Return the share of each of `processes` in the sums that another number of processes has counted."""
    count = len(counted)
    numbers = {name: sum(sums.numbers[name] for sums in counted) / count for name in counted[0].numbers}
    for name in numbers.keys() & {"matched", "wrong"}:  # sums over processes; the others are means
        numbers[name] *= count / processes
    return replace(
        counted[0],
        images=sum(sums.images for sums in counted) // processes,
        seconds=sum(sums.seconds for sums in counted) / count,
        waiting=sum(sums.waiting for sums in counted) / count,
        numbers=numbers,
    )
