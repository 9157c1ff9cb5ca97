"""Networks of other libraries: what they have in common, seen from here."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

from torch import nn

from detrcli.model.backbone import Part
from detrcli.model.detection_transformer import DetectionTransformer

OWN = "network."  # before their names of tensors


class ForeignNetwork(DetectionTransformer):
    """A network that another library builds and computes, with the loss that it has itself."""

    open_batch = False  # their code reads that number, and an export keeps what it has read
    may_leave_out = True  # denoising embeddings in a batch without objects, and more
    casts_itself = False
    network: Any

    def __init__(self) -> None:
        super().__init__()
        self._frozen: Sequence[nn.Module] = ()

    @property
    def backbone(self) -> nn.Module:  # type: ignore[override]  # it lies in the network, and is none of ours
        """What sees the picture first."""
        return self.their_backbone()

    @abstractmethod
    def their_backbone(self) -> nn.Module:
        """Where it lies."""

    @abstractmethod
    def stem(self) -> Sequence[nn.Module]:
        """Its first layers, which learn edges and colours."""

    def _freeze_backbone(self, part: Part) -> None:
        self._frozen = {"none": (), "stem": self.stem(), "all": (self.backbone,)}[part]
        for module in self._frozen:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Frozen parts stay as for inference, or batch norm would go on counting in them."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self
