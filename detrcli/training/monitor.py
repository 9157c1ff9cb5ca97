"""Warnings about trainings that silently go wrong, each given once."""

from dataclasses import dataclass, field

from detrcli.messages import argument
from detrcli.training.step import StepResult

FIRST_STEPS = 10  # without a single box in them, something is wrong with the data
COLLAPSED_AFTER = 500  # consecutive steps; a model gives equal boxes at first because it has learned nothing yet
SAME = 0.01  # maximum difference of boxes between images in a collapsed model, as a share of the image
STUCK_EPOCHS = 5
STUCK_AT = 95.0  # percent


@dataclass
class Monitor:
    """The facts that warnings depend on, saved with the training state. Its methods return new warnings."""

    objects: int = 0
    same_boxes: int = 0  # consecutive steps
    errors: list[float] = field(default_factory=list)  # class error of each epoch
    given: list[str] = field(default_factory=list)  # kinds of warnings

    def after_step(self, step: int, result: StepResult) -> list[str]:
        warnings = []
        self.objects += result.objects
        if step + 1 == FIRST_STEPS and not self.objects:
            warnings += self._once(
                "no boxes",
                f"no boxes in the first {FIRST_STEPS} steps: there may be nothing to learn. "
                "`detr data check DATA` counts boxes, `detr data show DATA` shows them",
            )
        boxes = result.last.boxes  # (B, Q, 4)
        if len(boxes) > 1:  # a single image always equals itself
            same = boxes.numel() > 0 and bool((boxes.amax(0) - boxes.amin(0)).max() < SAME)  # Q can be 0 in training
            self.same_boxes = self.same_boxes + 1 if same else 0
        if self.same_boxes >= COLLAPSED_AFTER:
            warnings += self._once(
                "same boxes",
                "the model predicts the same boxes for every image: it ignores the image. Start again with a lower "
                f"{argument('lr')}, or with {argument('warmup')}",
            )
        return warnings

    def after_epoch(self, class_error: float | None) -> list[str]:
        if class_error is None:
            return []
        self.errors = [*self.errors[-STUCK_EPOCHS + 1 :], class_error]
        if len(self.errors) < STUCK_EPOCHS or min(self.errors) < STUCK_AT:
            return []
        return self._once(
            "stuck",
            f"the class error has been at {class_error:.0f}% for {STUCK_EPOCHS} epochs: no class is learned. Try "
            f"another {argument('lr')}, start from trained weights, or check whether the labels fit the images",
        )

    def _once(self, kind: str, warning: str) -> list[str]:
        if kind in self.given:
            return []
        self.given.append(kind)
        return [warning]
