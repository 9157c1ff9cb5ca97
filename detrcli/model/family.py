"""What the networks of all members have in common."""

from torch import nn

from detrcli.model.backbone import Backbone
from detrcli.structures import Batch, Output


class DetectionTransformer(nn.Module):
    """Pictures in, a prediction of every decoder layer out."""

    backbone: Backbone
    class_head: nn.Linear  # one row per class, the last one is "no object"

    def forward(self, batch: Batch) -> Output:
        raise NotImplementedError
