"""The loss that a network of transformers has itself, as training takes it."""

from collections.abc import Sequence
from dataclasses import replace

from detrcli.losses.loss import LossBreakdown, Step
from detrcli.losses.matching import Matcher
from detrcli.losses.scoring import Scoring, Sigmoid, Softmax
from detrcli.losses.terms import class_cost, giou_cost, l1_cost
from detrcli.structures import Output, Target
from detrcli.variants.adapters.config import AdaptedConfig
from detrcli.variants.adapters.network import LOSS


def scoring(config: AdaptedConfig) -> Scoring:
    """What the numbers of its class head mean."""
    if config.family.scoring == "softmax":
        return Softmax()
    return Sigmoid(most=config.family.detections or config.queries)


def matcher(config: AdaptedConfig) -> Matcher:
    """The family's own matching, by our terms."""
    numbers = config.numbers
    by_class, by_l1, by_giou = (float(getattr(numbers, name)) for name in config.family.costs)
    of = scoring(config)
    if isinstance(of, Sigmoid):
        alpha, gamma = (
            getattr(numbers, "matcher_alpha", of.alpha),
            getattr(numbers, "matcher_gamma", of.gamma),
        )
        of = replace(of, alpha=alpha, gamma=gamma)
    kind = "focal" if isinstance(of, Sigmoid) else "probability"
    return Matcher([class_cost(of, kind, by_class), l1_cost(by_l1), giou_cost(by_giou)])


class OwnLoss:
    """What the network computed with its forward pass; the matching beside it is the same, found once more.

    It is divided as the family divides it, which does not count over accumulated batches.
    """

    def __init__(self, config: AdaptedConfig) -> None:
        self.scoring = scoring(config)
        self.matcher = matcher(config)

    def compute_loss(
        self, output: Output, targets: Sequence[Target], step: Step | None = None
    ) -> LossBreakdown:
        """The loss of one forward pass in training."""
        parts = {
            name.removeprefix("loss_"): value
            for name, value in output.named.items()
            if name.startswith("loss_") and not any(letter.isdigit() for letter in name)
        }
        matches = {output.decoder.name: self.matcher(output.decoder, targets)}
        return LossBreakdown(output.named[LOSS], parts, matches)
