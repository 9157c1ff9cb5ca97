"""The base class of all detectors."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

from torch import nn

from detrcli.errors import UsageError
from detrcli.model.backbone import Backbone, Part
from detrcli.structures import Batch, Output, Target

# What training leaves unchanged: a part of the backbone, or everything but the mask head.
Frozen = Part | Literal["detector"]


class DetectionTransformer(nn.Module, ABC):
    """A detector that predicts classes and boxes in every decoder layer."""

    backbone: Backbone
    open_batch = True  # whether an export can have a variable batch size
    may_leave_out = False  # whether a batch may leave some parameters without gradient
    has_masks = False  # whether queries have masks
    casts_itself = True  # whether single layers can be converted to bf16; otherwise torch's autocast is used

    @abstractmethod
    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        """Return the predictions for every query and image.

        Targets are given in training, for denoising queries. Noise is drawn from torch's global generator, which
        training seeds for each step.
        """

    def without_gradient(self) -> Sequence[nn.Parameter]:
        """Return the parameters that no batch gives a gradient to."""
        return ()

    def freeze(self, part: Frozen) -> None:
        """Freeze this part of the backbone and train everything else."""
        if part == "detector":
            raise UsageError("freeze = detector is for models with a mask head, which is then trained alone.")
        self._freeze_backbone(part)

    def _freeze_backbone(self, part: Part) -> None:
        self.backbone.freeze(part)

    def replace_backbone(self, backbone: nn.Module) -> None:
        """Replace the backbone by a module that returns the same maps."""
        self.backbone = backbone  # type: ignore[assignment]  # a traced module, which is only called
