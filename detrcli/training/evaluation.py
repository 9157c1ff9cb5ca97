"""The evaluation at the end of an epoch."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.data.annotations import annotate
from detrcli.evaluation.class_mapping import map_classes
from detrcli.evaluation.masks import has_masks
from detrcli.evaluation.metrics import CocoEvaluator, Evaluator
from detrcli.evaluation.run import detect_split, readable
from detrcli.inference.detector import Detector
from detrcli.losses.loss import Loss
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.render.training_figures import beside_truth
from detrcli.reporter import SILENT, Reporter
from detrcli.system import distributed
from detrcli.training import matching_history
from detrcli.training.interrupts import Interrupts
from detrcli.training.run_folder import PREDICTIONS, RunFolder
from detrcli.training.settings import Settings
from detrcli.training.setup import Data
from detrcli.training.validation_loss import validation_loss


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


class EpochEvaluation:
    """Evaluates a model on the validation split, as `detr eval` does."""

    def __init__(
        self,
        data: Data,
        loss: Loss,
        settings: Settings,
        device: torch.device,
        evaluator: Evaluator | None,
        model_has_masks: bool,
    ) -> None:
        self.data, self.loss, self.settings, self.device = data, loss, settings, device
        self._masks = model_has_masks and has_masks(data.truth)
        self.evaluator = evaluator or CocoEvaluator(self._masks)

    def run(
        self,
        checkpoint: Checkpoint,
        model: DetectionTransformer | None,
        epoch: int,
        interrupts: Interrupts,
        *,
        folder: RunFolder | None = None,
        reporter: Reporter = SILENT,
    ) -> tuple[Mapping[str, float], float | None]:
        """Return the metrics and the validation loss, and write the figure and the matching to the folder.

        `model` has the weights of the checkpoint; None if it must be built. Raises Interrupted.
        """
        data = self.data
        # Each process has its own batch norm statistics: all evaluate those of the first, which are saved.
        distributed.broadcast(checkpoint.tensors.values())
        detector = Detector(checkpoint, self.device, self.settings.precision, model)
        try:
            detected = detect_split(
                detector,
                data.val,
                data.truth,
                map_classes(checkpoint.classes, data.truth.classes),
                batch_size=self.settings.batch_size,
                reporter=_InterruptibleReporter(reporter, interrupts),
            )
        except RuntimeError:
            # An interrupted process no longer answers the others, which are interrupted too.
            if distributed.world_size() == 1 or interrupts.requested_exit_code() is None:
                raise
            raise Interrupted from None
        truth = readable(data.truth, detected, skip_bad=False)
        annotations = annotate(data.val, checkpoint.classes)
        if folder:
            folder.write_image(beside_truth(truth, detected.results), PREDICTIONS)
            if self.loss.matcher is not None:
                matching_history.append(folder.path, epoch, detector, annotations, self.loss.matcher)
        if self._masks:
            annotations = annotate(data.val, checkpoint.classes, masks=True)
        return self.evaluator.evaluate(truth, detected.results), validation_loss(detector, annotations, self.loss)
