"""What the networks of all members have in common."""

from abc import ABC, abstractmethod

from torch import nn

from detrcli.model.backbone import Backbone
from detrcli.model.transformer import Decoder, Encoder
from detrcli.structures import Batch, Output


class DetectionTransformer(nn.Module, ABC):
    """Pictures in, a prediction of every decoder layer out."""

    backbone: Backbone
    encoder: Encoder
    decoder: Decoder
    class_head: nn.Linear  # one row per class, the last one is "no object"

    @abstractmethod
    def forward(self, batch: Batch) -> Output:
        """What every query says of every picture."""
