"""Progress and events of a training, and the sums of an epoch."""

import math
from collections.abc import Mapping, Sequence
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
    loss: float  # this and the other losses are means over the epoch so far
    parts: Mapping[str, float]  # terms of the loss, by name
    class_error: float | None  # percent; None if the loss does not report its matching
    images_per_second: float  # of all processes
    waiting: float  # share of the time spent waiting for data
    memory_mb: float | None
    seconds_left: float  # of the whole training


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
    loss: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)  # terms of the loss, by name
    matched: float = 0.0  # matched queries of the last layer
    wrong: float = 0.0  # matched queries whose most probable class is wrong
    norm: float = 0.0  # of the gradient
    updates: int = 0  # steps with a finite gradient; fp16 skips the others
    seconds: float = 0.0
    waiting: float = 0.0  # seconds of waiting for data

    def add(self, result: StepResult, seconds: float, waiting: float) -> None:
        """Add a step."""
        self.steps += 1
        self.images += result.images
        self.loss += result.loss
        for name, part in result.parts.items():
            self.parts[name] = self.parts.get(name, 0.0) + part
        self.matched += result.matched
        self.wrong += result.wrong
        if math.isfinite(result.norm):
            self.norm += result.norm
            self.updates += 1
        self.seconds += seconds
        self.waiting += waiting

    @property
    def class_error(self) -> float | None:
        """The percentage of matched queries whose most probable class is wrong; None without matched queries."""
        return 100 * self.wrong / self.matched if self.matched else None


def redistributed(counted: Sequence[EpochMetrics], processes: int) -> EpochMetrics:
    """Return the share of each of `processes` in the sums that another number of processes has counted."""
    first, count = counted[0], len(counted)
    return replace(
        first,
        images=sum(sums.images for sums in counted) // processes,
        loss=sum(sums.loss for sums in counted) / count,
        parts={name: sum(sums.parts.get(name, 0.0) for sums in counted) / count for name in first.parts},
        matched=sum(sums.matched for sums in counted) / processes,
        wrong=sum(sums.wrong for sums in counted) / processes,
        seconds=sum(sums.seconds for sums in counted) / count,
        waiting=sum(sums.waiting for sums in counted) / count,
    )
