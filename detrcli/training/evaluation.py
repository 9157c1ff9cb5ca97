"""The evaluation at the end of an epoch: metrics, validation loss, and the files about the validation split."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.data.annotations import Annotations, annotate
from detrcli.data.dataset import DetectionDataset, Example
from detrcli.evaluation.class_mapping import map_classes
from detrcli.evaluation.metrics import Evaluator
from detrcli.evaluation.run import detect_split, readable
from detrcli.inference.detector import Detector
from detrcli.losses.criterion import Loss
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.render.data_figures import predictions_figure
from detrcli.reporter import Reporter
from detrcli.system import distributed
from detrcli.training import matching_history
from detrcli.training.interrupts import Interrupts
from detrcli.training.run_folder import PREDICTIONS, RunFolder
from detrcli.training.settings import Settings
from detrcli.training.setup import Data

MIN_IMAGES, MAX_IMAGES = 8, 32  # of the validation loss, a quarter of the split within these limits


class Interrupted(Exception):  # noqa: N818  # not an error
    """The evaluation was interrupted. The state before it is saved."""


@dataclass(frozen=True)
class _InterruptibleReporter(Reporter):
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


@dataclass(frozen=True)
class EpochEvaluation:
    """Evaluates a model on the validation split, as `detr eval` does."""

    data: Data
    loss: Loss
    evaluator: Evaluator
    masks: bool  # whether the model and all objects have masks
    settings: Settings
    device: torch.device
    reporter: Reporter

    def run(
        self,
        checkpoint: Checkpoint,
        model: DetectionTransformer | None,
        epoch: int,
        interrupts: Interrupts,
        folder: RunFolder | None,
    ) -> tuple[Mapping[str, float], float | None]:
        """Return the metrics and the validation loss, and write the figure and the matching to the folder.

        `model` has the weights of the checkpoint; None if it must be built. Raises Interrupted.
        """
        truth, val = self.data.truth, self.data.val
        # Each process has its own batch norm statistics: all evaluate those of the first, which are saved.
        distributed.broadcast(checkpoint.tensors.values())
        detector = Detector(checkpoint, self.device, self.settings.precision, model)
        mapping = map_classes(checkpoint.classes, truth.classes)
        reporter = _InterruptibleReporter(self.reporter, interrupts)
        try:
            detected = detect_split(detector, truth, mapping, batch_size=self.settings.batch_size, reporter=reporter)
        except RuntimeError:
            # An interrupted process no longer answers the others, which are interrupted too.
            if distributed.world_size() == 1 or interrupts.requested_exit_code() is None:
                raise
            raise Interrupted from None
        truth = readable(truth, detected, skip_bad=False)
        annotations = annotate(val, checkpoint.classes)
        if folder:
            folder.write_image(predictions_figure(truth, detected.results), PREDICTIONS)
            if self.loss.matcher is not None:
                matching_history.append(folder.path, epoch, detector, annotations, self.loss.matcher)
        if self.masks:
            annotations = annotate(val, checkpoint.classes, masks=True)
        return self.evaluator.evaluate(truth, detected.results), validation_loss(detector, annotations, self.loss)


def validation_loss(detector: Detector, truth: Annotations, loss: Loss) -> float | None:
    """Return the loss of some images as a single batch; None if none is readable, or the loss requires training mode.

    Every evaluation uses the same images, evenly spaced in the split, and the same random numbers. All processes must
    call it.
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
