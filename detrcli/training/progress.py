"""What a training counts, and whom it tells."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, Self

from detrcli.training.run_folder import Row
from detrcli.training.step import StepResult


@dataclass(frozen=True)
class TrainingProgress:
    """How far an epoch is, for a display."""

    epoch: int
    epochs: int
    done: int  # steps of this epoch
    steps: int
    loss: float  # means over the epoch so far
    parts: Mapping[str, float]  # of the loss, by name
    class_error: float | None  # None where the loss does not say what it matched
    pictures_per_second: float  # of all processes
    waiting: float  # share of the time in which there were no pictures to work on
    memory_mb: float | None
    seconds_left: float  # of the whole training, by the mean so far


class TrainingListener(Protocol):
    """Who is told how it goes. Only the first process tells."""

    def step(self, progress: TrainingProgress) -> None:
        """After each step."""

    def evaluating(self, done: int, pictures: int) -> None:
        """After each picture of an evaluation."""

    def epoch(self, row: Row, *, best: bool) -> None:
        """After each epoch."""

    def note(self, text: str) -> None:
        """Something that the user should know."""


@dataclass(frozen=True)
class Silent:
    """Tells nobody, but for what the user should know."""

    tell: Callable[[str], None] = lambda text: None

    def step(self, progress: TrainingProgress) -> None:
        pass

    def evaluating(self, done: int, pictures: int) -> None:
        pass

    def epoch(self, row: Row, *, best: bool) -> None:
        pass

    def note(self, text: str) -> None:
        self.tell(text)


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    epochs: int
    best: Row | None  # the best epoch, by what it is judged by
    seconds: float
    stopped: int | None  # the exit code that it was interrupted with


@dataclass
class EpochMetrics:
    """An epoch so far, on one process."""

    steps: int = 0
    pictures: int = 0
    loss: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)  # of the loss, by name
    matched: int = 0
    wrong: float = 0.0
    norm: float = 0.0
    updates: int = 0  # fp16 passes over steps whose gradient is not finite
    seconds: float = 0.0
    waiting: float = 0.0

    def add(self, step: StepResult, seconds: float, waiting: float) -> None:
        """Count a step."""
        self.steps += 1
        self.pictures += step.pictures
        self.loss += step.loss
        for name, part in step.parts.items():
            self.parts[name] = self.parts.get(name, 0.0) + part
        self.matched += step.matched
        self.wrong += step.wrong
        if math.isfinite(step.norm):
            self.norm += step.norm
            self.updates += 1
        self.seconds += seconds
        self.waiting += waiting

    @property
    def class_error(self) -> float | None:
        """Percent of the matched queries with another class on top; None where nothing was matched."""
        return 100 * self.wrong / self.matched if self.matched else None

    def facts(self) -> dict[str, Any]:
        """In plain values, for a state."""
        return asdict(self)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Self:
        """From these."""
        return cls(**facts)


def shared_out(counted: Sequence[EpochMetrics], processes: int) -> EpochMetrics:
    """The share of each of so many processes in what others have counted in the same steps."""

    def mean(values: Iterable[float]) -> float:
        return sum(values) / len(counted)

    return EpochMetrics(
        steps=counted[0].steps,
        pictures=sum(one.pictures for one in counted) // processes,
        loss=mean(one.loss for one in counted),
        parts={name: mean(one.parts.get(name, 0.0) for one in counted) for name in counted[0].parts},
        matched=sum(one.matched for one in counted),
        wrong=sum(one.wrong for one in counted),
        norm=mean(one.norm for one in counted),
        updates=counted[0].updates,
        seconds=mean(one.seconds for one in counted),
        waiting=mean(one.waiting for one in counted),
    )
