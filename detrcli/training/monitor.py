"""What goes wrong in trainings without a word, noticed and said once, in one sentence with the remedy."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from detrcli.structures import Prediction
from detrcli.training.step import StepResult

FIRST_STEPS = 10  # without a single box in them, something is wrong with the data
COLLAPSED_AFTER = 500  # steps in a row; a young model gives the same boxes because it has learned nothing yet
SAME = 0.01  # of the picture's side: as far as boxes move from image to image in a collapsed model
STUCK_EPOCHS = 5
STUCK_AT = 95.0  # percent


@dataclass
class Monitor:
    """What it has seen so far; it is saved with the state."""

    objects: int = 0
    same_boxes: int = 0  # steps in a row
    errors: list[float] = field(default_factory=list)  # class error of each epoch
    said: list[str] = field(default_factory=list)

    def after_step(self, step: int, done: StepResult) -> list[str]:
        """What a step gives reason to say."""
        self.objects += done.objects
        notes = []
        if step + 1 == FIRST_STEPS and not self.objects:
            notes.append(
                f"no boxes in the first {FIRST_STEPS} batches: there may be nothing to learn from; "
                "`detr data check DATA` counts boxes, `detr data show DATA --augmented` shows them"
            )
        if len(done.last.boxes) > 1:  # a picture alone is equal to itself
            self.same_boxes = self.same_boxes + 1 if same_boxes(done.last) else 0
        if self.same_boxes >= COLLAPSED_AFTER:
            notes.append(
                "the model gives the same boxes for every image: it no longer looks at them; "
                "start again with a lower lr, or with warmup"
            )
        return self._once(notes)

    def after_epoch(self, class_error: float | None) -> list[str]:
        """What an epoch gives reason to say."""
        if class_error is None:
            return []
        self.errors = [*self.errors[-STUCK_EPOCHS + 1 :], class_error]
        notes = []
        if len(self.errors) == STUCK_EPOCHS and min(self.errors) >= STUCK_AT:
            notes.append(
                f"the class error has stood at {class_error:.0f}% for {STUCK_EPOCHS} epochs: no class is learned; "
                "try another lr, trained weights to start from, or look whether labels fit the pictures"
            )
        return self._once(notes)

    def _once(self, notes: Sequence[str]) -> list[str]:
        fresh = [note for note in notes if note.partition(":")[0] not in self.said]
        self.said += [note.partition(":")[0] for note in fresh]
        return fresh


@torch.no_grad()
def same_boxes(prediction: Prediction) -> bool:
    """Whether the images of a batch give the same boxes, query by query."""
    spread = prediction.boxes.amax(0) - prediction.boxes.amin(0)  # (Q, 4)
    return bool(spread.numel()) and bool(spread.max() < SAME)  # in training some answer nothing


def more_objects_than_queries(most: int, pictures: int, queries: int) -> str:
    """What is said before the start where a picture has more objects than there are queries."""
    return (
        f"{pictures:,} pictures have more objects than the model has queries ({most} > {queries}); the rest "
        f"cannot be found: --set queries={most}"
    )
