"""What training asks of a loss, whoever computes it: our criterion, or a foreign model itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from detrcli.losses.matching import HungarianMatcher
from detrcli.losses.scoring import Scoring
from detrcli.structures import Match, Output, Target


@dataclass(frozen=True)
class LossBreakdown:
    """What a batch costs, and how that came about."""

    total: Tensor  # (), what is minimised
    parts: Mapping[str, Tensor]  # what is reported, by name: (), not weighted
    matches: Mapping[str, Match] = field(default_factory=dict)  # by group, where they are known
    layers: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)  # group -> term -> (L,), likewise


@dataclass
class StepNormalizers:
    """What the batches of one training step share."""

    objects: Sequence[Sequence[int]]  # of each image, of every accumulated batch of this process
    # Group -> term -> what it is divided by; filled with the first batch.
    normalisers: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, batches: Sequence[Sequence[Target]]) -> "StepNormalizers":
        """The step that sees these targets."""
        return cls([[len(target) for target in targets] for targets in batches])


class Loss(Protocol):
    """The loss of a model."""

    @property
    def scoring(self) -> Scoring: ...

    @property
    def in_training_alone(self) -> bool:
        """Whether it is known only for what a network in training mode computed."""

    @property
    def matcher(self) -> HungarianMatcher | None:
        """How the decoder's queries are matched; None where the model does not say."""

    def compute_loss(
        self, output: Output, targets: Sequence[Target], step: StepNormalizers | None = None
    ) -> LossBreakdown:
        """The loss of one forward pass, as a part of a step; of one that sees this batch alone by default."""
