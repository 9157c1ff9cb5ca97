"""What a training would take, from one measured step."""

import time
from dataclasses import dataclass

from detrcli.training.loop import Training
from detrcli.training.machine import memory_mb


@dataclass(frozen=True)
class Measured:
    """A step, and all of them."""

    seconds: float
    total_seconds: float
    memory_mb: float | None


def measure(training: Training) -> Measured:
    """Take two steps and time the second: the first also sets things up. The model is not to be used after."""
    batches = training.load()
    seen = [next(batches) for _ in range(training.settings.accumulate)]
    for step in range(2):  # on the same pictures: a whole training may have no second step
        began = time.perf_counter()
        training.trainer.step(seen, step)
        seconds = time.perf_counter() - began
    steps = training.order.steps * training.settings.epochs
    return Measured(seconds, seconds * steps, memory_mb(training.device))
