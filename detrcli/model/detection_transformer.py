"""What the networks of all members have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import nn

from detrcli.model.backbone import Backbone, Part
from detrcli.structures import Batch, Output, Target


class DetectionTransformer(nn.Module, ABC):
    """Pictures in, a prediction of every decoder layer out."""

    backbone: Backbone
    open_batch = True  # whether an export of it can leave open how many pictures come together
    may_leave_out = False  # whether a batch can have no use for some parameters, which then get no gradient
    casts_itself = (
        True  # whether it takes layers that compute in bf16 among others; else torch's autocast decides
    )

    @abstractmethod
    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        """What every query says of every picture.

        Targets come with training, for those who make queries of them. What is drawn then comes from torch's
        random state, which training seeds with each step.
        """

    def freeze(self, part: Part) -> None:
        """Keep this part of the backbone as it is, and let all others learn."""
        self.backbone.freeze(part)
