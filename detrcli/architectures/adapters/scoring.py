"""How a family of transformers scores and matches, by our terms."""

from dataclasses import replace

from torch import Tensor

from detrcli.architectures.adapters.config import AdaptedConfig
from detrcli.losses.matching import HungarianMatcher
from detrcli.losses.scoring import Scoring, Selection, Sigmoid, Softmax, best_of_each, best_pairs
from detrcli.losses.terms import class_cost, giou_cost, l1_cost


class BestPhrase(Sigmoid):
    """Each phrase by itself; a query stands with the best one alone."""

    name = "best phrase"

    def select(self, logits: Tensor) -> Selection:
        return best_of_each(self.probabilities(logits))


class PairsOfSoftmax(Softmax):
    """The best pairs of query and class, as many as there are queries: a query may stand for several classes."""

    name = "pairs of softmax"

    def select(self, logits: Tensor) -> Selection:
        return best_pairs(self.probabilities(logits), logits.shape[1])


def scoring(config: AdaptedConfig) -> Scoring:
    """What the numbers of its class head mean."""
    if config.family.scoring == "softmax":
        return Softmax()
    return Sigmoid(top_k=config.family.detections or config.queries)


def matcher(config: AdaptedConfig) -> HungarianMatcher:
    """The family's own matching, by our terms."""
    numbers = config.numbers
    by_class, by_l1, by_giou = (float(getattr(numbers, name)) for name in config.family.costs)
    of = scoring(config)
    if isinstance(of, Sigmoid):
        alpha, gamma = (getattr(numbers, "matcher_alpha", of.alpha), getattr(numbers, "matcher_gamma", of.gamma))
        of = replace(of, alpha=alpha, gamma=gamma)
    kind = "focal" if isinstance(of, Sigmoid) else "probability"
    return HungarianMatcher([class_cost(of, kind, by_class), l1_cost(by_l1), giou_cost(by_giou)])
