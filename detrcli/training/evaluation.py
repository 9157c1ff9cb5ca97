"""The validation loss, and the interruption of an evaluation."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from detrcli.data.annotations import Annotations
from detrcli.data.dataset import DetectionDataset, Example
from detrcli.inference.detector import Detector
from detrcli.losses.criterion import Loss
from detrcli.reporter import Reporter
from detrcli.training.interrupts import Interrupts

MIN_IMAGES, MAX_IMAGES = 8, 32  # of the validation loss, a quarter of the split within these limits


class Interrupted(Exception):  # noqa: N818  # not an error
    """The evaluation was interrupted. The state before it is saved."""


@dataclass(frozen=True)
class InterruptibleReporter(Reporter):
    """Forwards progress, and raises Interrupted when an exit is requested."""

    reporter: Reporter
    interrupts: Interrupts

    @contextmanager
    def progress(
        self, what: str, total: int | None = None, unit: Literal["items", "bytes"] = "items"
    ) -> Iterator[Callable[[int], None]]:
        with self.reporter.progress(what, total, unit) as advance:

            def advance_or_stop(steps: int) -> None:
                advance(steps)
                if self.interrupts.requested_exit_code():
                    raise Interrupted

            yield advance_or_stop


def validation_loss(detector: Detector, truth: Annotations, loss: Loss) -> float | None:
    """Return the loss of some images as a single batch; None if none is readable, or the loss requires training mode.

    Every evaluation uses the same images and random numbers. All processes must call it.
    """
    if loss.only_in_training:
        return None
    dataset = DetectionDataset(truth, detector.preprocessing, augmentation="none")
    count = min(len(dataset), max(MIN_IMAGES, min(MAX_IMAGES, len(dataset) // 4)))
    indices = np.linspace(0, len(dataset) - 1, count).astype(int).tolist()
    examples = [example for i in indices if isinstance(example := dataset[0, i], Example)]
    if not examples:
        return None
    batches = [[example.target] for example in examples]
    normalizers, total = None, 0.0
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        for example in examples:
            target = example.target.to(detector.device)
            output = detector.output([example.pixels], [target])
            if normalizers is None:
                normalizers = loss.normalizers(output, batches)
            total += float(loss.compute_loss(output, [target], normalizers).total)
    return total
