"""Warnings about trainings that silently go wrong, each given once."""

from dataclasses import dataclass, field

import torch

from detrcli.messages import argument
from detrcli.structures import Prediction
from detrcli.training.step import StepResult

FIRST_STEPS = 10  # without a single box in them, something is wrong with the data
COLLAPSED_AFTER = 500  # consecutive steps; a model gives equal boxes at first because it has learned nothing yet
SAME = 0.01  # maximum difference of boxes between images in a collapsed model, as a share of the image
STUCK_EPOCHS = 5
STUCK_AT = 95.0  # percent


@dataclass
class Monitor:
    """The facts that warnings depend on, saved with the training state."""

    objects: int = 0
    same_boxes: int = 0  # consecutive steps
    errors: list[float] = field(default_factory=list)  # class error of each epoch
    given: list[str] = field(default_factory=list)  # kinds of warnings

    def after_step(self, step: int, result: StepResult) -> list[str]:
        """Return new warnings."""
        self.objects += result.objects
        warnings = {}
        if step + 1 == FIRST_STEPS and not self.objects:
            warnings["no boxes"] = (
                f"no boxes in the first {FIRST_STEPS} steps: there may be nothing to learn. "
                "`detr data check DATA` counts boxes, `detr data show DATA` shows them"
            )
        if len(result.last.boxes) > 1:  # a single image always equals itself
            self.same_boxes = self.same_boxes + 1 if same_boxes(result.last) else 0
        if self.same_boxes >= COLLAPSED_AFTER:
            warnings["same boxes"] = (
                "the model predicts the same boxes for every image: it ignores the image. Start again with a lower "
                f"{argument('lr')}, or with {argument('warmup')}"
            )
        return self._new(warnings)

    def after_epoch(self, class_error: float | None) -> list[str]:
        """Return new warnings."""
        if class_error is None:
            return []
        self.errors = [*self.errors[-STUCK_EPOCHS + 1 :], class_error]
        warnings = {}
        if len(self.errors) == STUCK_EPOCHS and min(self.errors) >= STUCK_AT:
            warnings["stuck"] = (
                f"the class error has been at {class_error:.0f}% for {STUCK_EPOCHS} epochs: no class is learned. Try "
                f"another {argument('lr')}, start from trained weights, or check whether the labels fit the images"
            )
        return self._new(warnings)

    def _new(self, warnings: dict[str, str]) -> list[str]:
        new = [kind for kind in warnings if kind not in self.given]
        self.given += new
        return [warnings[kind] for kind in new]


@torch.no_grad()
def same_boxes(prediction: Prediction) -> bool:
    """Return whether all images of a batch have the same boxes, query by query."""
    spread = prediction.boxes.amax(0) - prediction.boxes.amin(0)  # (Q, 4)
    return bool(spread.numel()) and bool(spread.max() < SAME)  # some models predict nothing in training
