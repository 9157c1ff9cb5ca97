"""The interface of a loss: our criterion, or the loss that a model of another library computes itself."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from detrcli.losses.matching import HungarianMatcher
from detrcli.losses.scoring import Scoring
from detrcli.structures import Match, Output, Target

# The divisors of a training step: query group -> loss term -> divisor.
StepNormalizers = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class LossBreakdown:
    """The loss of a batch and its parts."""

    total: Tensor  # (), weighted sum over groups, terms and layers
    parts: Mapping[str, Tensor]  # (), the terms of the last layers by name, unweighted
    matches: Mapping[str, Match] = field(default_factory=dict)  # by query group, where known
    layers: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)  # group -> term -> (L,), where known


class Loss(ABC):
    """The loss of a model."""

    scoring: Scoring
    matcher: HungarianMatcher | None  # of the decoder's queries; None where the model does not expose it
    in_training_alone: bool = False  # whether the loss exists only for outputs computed in training mode

    def normalizers(self, output: Output, batches: Sequence[Sequence[Target]]) -> StepNormalizers:
        """Return the divisors of a step, from the targets of all its batches and the output of any of them.

        Every process must call this.
        """
        return {}

    @abstractmethod
    def compute_loss(
        self, output: Output, targets: Sequence[Target], normalizers: StepNormalizers | None = None
    ) -> LossBreakdown:
        """Return the loss of one batch as a part of its step; by default the batch is the whole step."""
