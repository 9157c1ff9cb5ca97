"""What a training counts, and whom it tells."""

import math
from dataclasses import dataclass
from typing import Protocol

from detrcli.training.run_folder import Row
from detrcli.training.step import Step


@dataclass(frozen=True)
class Progress:
    """How far an epoch is, for a display."""

    epoch: int
    epochs: int
    done: int  # steps of this epoch
    steps: int
    loss: float  # means over the epoch so far
    parts: dict[str, float]
    class_error: float
    pictures_per_second: float  # of all processes
    waiting: float  # share of the time in which there were no pictures to work on
    memory_mb: float | None
    seconds_left: float  # of the whole training, by the mean so far


class Report(Protocol):
    """Who is told how it goes. Only the first process tells."""

    def step(self, progress: Progress) -> None:
        """After each step."""

    def evaluating(self, done: int, pictures: int) -> None:
        """After each picture of an evaluation."""

    def epoch(self, row: Row, *, best: bool) -> None:
        """After each epoch."""

    def note(self, text: str) -> None:
        """Something that the user should know."""


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    epochs: int
    best: Row | None  # the epoch with the best AP
    seconds: float
    stopped: int | None  # the exit code that it was interrupted with


@dataclass
class EpochMetrics:
    """An epoch so far, on one process."""

    steps: int = 0
    pictures: int = 0
    loss: float = 0.0
    loss_class: float = 0.0
    loss_l1: float = 0.0
    loss_giou: float = 0.0
    matched: int = 0
    wrong: float = 0.0
    norm: float = 0.0
    updates: int = 0  # fp16 passes over steps whose gradient is not finite
    seconds: float = 0.0
    waiting: float = 0.0

    def add(self, step: Step, seconds: float, waiting: float) -> None:
        """Count a step."""
        self.steps += 1
        self.pictures += step.pictures
        self.loss += step.loss
        for name, part in step.parts.items():
            setattr(self, f"loss_{name}", getattr(self, f"loss_{name}") + part)
        self.matched += step.matched
        self.wrong += step.wrong
        if math.isfinite(step.norm):
            self.norm += step.norm
            self.updates += 1
        self.seconds += seconds
        self.waiting += waiting

    @property
    def class_error(self) -> float:
        """Percent of the matched queries with another class on top."""
        return 100 * self.wrong / max(1, self.matched)
