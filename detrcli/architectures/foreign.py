"""Common parts of the architectures whose networks and losses are another library's."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import nn

from detrcli.losses.criterion import Loss, LossBreakdown, StepNormalizers
from detrcli.losses.matching import HungarianMatcher
from detrcli.losses.scoring import Scoring
from detrcli.model.backbone import Part
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.structures import Output, Target

PREFIX = "network."  # of their tensor names
TOTAL = "loss"  # name of the total loss in an output; the names of its parts start with it


class ForeignNetwork(DetectionTransformer):
    """A network that another library builds and computes, together with its loss."""

    find_unused_parameters = True  # denoising embeddings in a batch without objects, and others
    casts_by_layer = False
    network: Any
    _frozen: Sequence[nn.Module] = ()

    @property
    @abstractmethod
    def backbone(self) -> nn.Module:  # type: ignore[override]  # a module of theirs instead of a Backbone
        """The backbone in their network."""

    @abstractmethod
    def stem(self) -> Sequence[nn.Module]:
        """Return the first layers of the backbone, which detect edges and colors."""

    def _freeze_backbone(self, part: Part) -> None:
        self._frozen = {"none": (), "stem": self.stem(), "all": (self.backbone,)}[part]
        for module in self._frozen:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode, but leave frozen parts in eval mode, or their batch norm would update its statistics."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self


@dataclass(frozen=True)
class OwnLoss(Loss):
    """The loss that a network computes in its forward pass in training.

    It is normalized as the network does, which is not over accumulated batches.
    """

    scoring: Scoring
    matcher: HungarianMatcher | None  # equal to the network's, where it matches by a cost
    only_in_training: bool = True

    def compute_loss(
        self, output: Output, targets: Sequence[Target], normalizers: StepNormalizers | None = None
    ) -> LossBreakdown:
        """Return the loss in the output of a forward pass in training. The matching is computed again."""
        parts = {
            name.removeprefix(f"{TOTAL}_"): value
            for name, value in output.named.items()
            if name.startswith(f"{TOTAL}_") and not any(letter.isdigit() for letter in name)
        }
        matches = {} if self.matcher is None else {output.decoder.name: self.matcher(output.decoder, targets)}
        return LossBreakdown(output.named[TOTAL], parts, matches)
