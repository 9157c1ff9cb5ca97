"""Progress, events and outcome of a training."""

from dataclasses import dataclass

from detrcli.training.run_folder import Row


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
