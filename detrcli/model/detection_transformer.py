"""What the networks of all members have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

from torch import nn

from detrcli.errors import UsageError
from detrcli.model.backbone import Backbone, Part
from detrcli.structures import Batch, Output, Target

# What stays as it is in training: of the backbone, or all but a mask head.
Frozen = Part | Literal["detector"]


class DetectionTransformer(nn.Module, ABC):
    """Pictures in, a prediction of every decoder layer out."""

    backbone: Backbone
    open_batch = True  # whether an export of it can leave open how many pictures come together
    may_leave_out = False  # whether a batch can have no use for some parameters, which then get no gradient
    has_masks = False  # whether its queries have masks
    casts_itself = True  # whether it takes layers that compute in bf16 among others; else torch's autocast decides

    @abstractmethod
    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        """What every query says of every picture.

        Targets come with training, for those who make queries of them. What is drawn then comes from torch's
        random state, which training seeds with each step.
        """

    def without_gradient(self) -> Sequence[nn.Parameter]:
        """The parameters that no batch has a use for."""
        return ()

    def freeze(self, part: Frozen) -> None:
        """Keep this part of the backbone as it is, and let all others learn."""
        if part == "detector":
            raise UsageError("freeze = detector is for models with a mask head, which then learns alone.")
        self._freeze_backbone(part)

    def _freeze_backbone(self, part: Part) -> None:
        self.backbone.freeze(part)

    def replace_backbone(self, backbone: nn.Module) -> None:
        """Put another in its place that gives the same maps."""
        self.backbone = backbone  # type: ignore[assignment]  # a traced one, which is called and no more
