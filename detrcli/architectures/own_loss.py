"""For networks that compute their loss themselves: what their outputs name is what training takes."""

from collections.abc import Sequence
from dataclasses import dataclass

from detrcli.losses.loss import Loss, LossBreakdown, StepNormalizers
from detrcli.losses.matching import HungarianMatcher
from detrcli.losses.scoring import Scoring
from detrcli.structures import Output, Target

TOTAL = "loss"  # the name of the total in an output; the names of its parts begin with it


@dataclass(frozen=True)
class OwnLoss(Loss):
    """What the network computed with its forward pass in training.

    It is divided as the network divides it, which does not count over accumulated batches.
    """

    scoring: Scoring
    matcher: HungarianMatcher | None  # as the network matches, where it does so by a cost
    in_training_alone: bool = True

    def compute_loss(
        self, output: Output, targets: Sequence[Target], normalizers: StepNormalizers | None = None
    ) -> LossBreakdown:
        """The loss of one forward pass in training, and the pairs, found once more."""
        parts = {
            name.removeprefix(f"{TOTAL}_"): value
            for name, value in output.named.items()
            if name.startswith(f"{TOTAL}_") and not any(letter.isdigit() for letter in name)
        }
        found = {} if self.matcher is None else {output.decoder.name: self.matcher(output.decoder, targets)}
        return LossBreakdown(output.named[TOTAL], parts, found)
