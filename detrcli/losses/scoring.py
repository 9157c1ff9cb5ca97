"""What the numbers of the class head mean. Nothing else turns them into probabilities, or knows of "no object".

Of a head's R rows, K belong to classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from detrcli.errors import UsageError

NO_OBJECT = -1  # in place of a class: "no object"


@dataclass(frozen=True)
class Selection:
    """Which queries become detections, of which class: D of each image, the family's own choice and order."""

    queries: Tensor  # (B, D)
    labels: Tensor  # (B, D)
    scores: Tensor  # (B, D)


class Scoring(ABC):
    """One way to read class logits."""

    name: ClassVar[str]
    class_costs: ClassVar[Sequence[str]]  # the class costs of the matching that it has
    min_class_normaliser: ClassVar[float] = 1.0  # what the class loss is at least divided by
    panoptic_threshold: ClassVar[float]  # the score above which a query takes part in a panoptic map

    @abstractmethod
    def num_logits(self, classes: int) -> int:
        """How many rows a head for so many classes has; those of the classes come first."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (..., R) to the probability of each class, (..., K)."""

    @abstractmethod
    def top_class(self, logits: Tensor) -> Tensor:
        """The class that logits (..., R) speak for most, (...); NOTHING where that is "no object"."""

    @abstractmethod
    def class_cost(self, logits: Tensor, kind: str) -> Tensor:
        """What the matching pays for each class, (..., K): small where logits (..., R) speak for it."""

    @abstractmethod
    def class_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each query, (...), that should say its label (...), or NOTHING."""

    @abstractmethod
    def class_normaliser(self, objects: int, queries: int) -> float:
        """What the loss of so many queries, of which `objects` are matched, is divided by."""

    @abstractmethod
    def select(self, logits: Tensor) -> Selection:
        """Which of the queries of logits (B, Q, R) become detections."""

    def _refuse(self, kind: str) -> UsageError:
        return UsageError(
            f"class_cost = {kind!r} does not go with {self.name} scoring; there is {', '.join(self.class_costs)}."
        )


def best_of_each(probabilities: Tensor) -> Selection:
    """Every query of (B, Q, K) with its best class, in their order."""
    scores, labels = probabilities.max(-1)  # (B, Q)
    queries = torch.arange(labels.shape[1], device=labels.device).expand_as(labels)
    return Selection(queries, labels, scores)


def best_pairs(probabilities: Tensor, most: int) -> Selection:
    """The best pairs of query and class among (B, Q, K), so many at most, by falling score."""
    K = probabilities.shape[-1]
    best, places = probabilities.flatten(1).topk(min(most, probabilities[0].numel()))  # (B, D)
    return Selection(places // K, places % K, best)


@dataclass(frozen=True)
class Softmax(Scoring):
    """K + 1 rows, the last one is "no object" (section 3.1 of the paper). A query has one class."""

    no_object: float = 0.1  # its weight in the cross-entropy

    name = "softmax"
    panoptic_threshold = 0.85  # as published
    class_costs = ("probability", "log")
    min_class_normaliser = 1e-6  # so that a no-object weight of 0 without objects is 0 and not 0 / 0

    def num_logits(self, classes: int) -> int:
        return classes + 1

    def probabilities(self, logits: Tensor) -> Tensor:
        # "No object" takes part in the softmax and not in the choice.
        return logits.float().softmax(-1)[..., :-1]

    def top_class(self, logits: Tensor) -> Tensor:
        top = logits.argmax(-1)
        return torch.where(top == logits.shape[-1] - 1, NO_OBJECT, top)

    def class_cost(self, logits: Tensor, kind: str) -> Tensor:
        if kind == "probability":
            return -self.probabilities(logits)
        if kind == "log":
            return -logits.float().log_softmax(-1)[..., :-1]
        raise self._refuse(kind)

    def class_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, in which "no object" weighs less."""
        no_object = logits.shape[-1] - 1
        labels = torch.where(labels == NO_OBJECT, no_object, labels)
        weights = logits.new_ones(logits.shape[-1])
        weights[-1:].fill_(self.no_object)  # an assignment would wait for a GPU
        losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), weights.to(logits.dtype), reduction="none")
        return losses.view(labels.shape)

    def class_normaliser(self, objects: int, queries: int) -> float:
        """The sum of the weights of all queries.

        As published, with one process and no accumulation. With several processes the published term is the
        mean of each process' own mean, which weighs an object more where its neighbours are few.
        """
        return objects + self.no_object * (queries - objects)

    def select(self, logits: Tensor) -> Selection:
        return best_of_each(self.probabilities(logits))


@dataclass(frozen=True)
class Sigmoid(Scoring):
    """K rows, each by itself (arXiv 2010.04159): a query may stand for several classes.

    None of them is "no object".
    """

    top_k: int = 100  # pairs of query and class that are selected in a picture
    alpha: float = 0.25  # of the focal loss: the weight of what is there, against what is not
    gamma: float = 2.0  # and how much less the easy ones count

    name = "sigmoid"
    panoptic_threshold = 0.3  # scores are lower; from 0.2 to 0.4 little depends on it
    class_costs = ("focal", "probability", "log")

    def num_logits(self, classes: int) -> int:
        return classes

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid()

    def top_class(self, logits: Tensor) -> Tensor:
        return logits.argmax(-1)

    def class_cost(self, logits: Tensor, kind: str) -> Tensor:
        p = self.probabilities(logits)
        if kind == "focal":
            there = -self.alpha * (1 - p) ** self.gamma * (p + 1e-8).log()
            not_there = -(1 - self.alpha) * p**self.gamma * (1 - p + 1e-8).log()
            return there - not_there
        if kind == "probability":
            return -p
        if kind == "log":
            return -F.logsigmoid(logits.float())
        raise self._refuse(kind)

    def class_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Focal loss, summed over the classes."""
        rows = torch.arange(logits.shape[-1], device=logits.device)
        wanted = (labels[..., None] == rows).to(logits.dtype)  # (..., K)
        p = logits.sigmoid()
        entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        right = p * wanted + (1 - p) * (1 - wanted)
        weight = self.alpha * wanted + (1 - self.alpha) * (1 - wanted)
        return (weight * entropy * (1 - right) ** self.gamma).sum(-1)

    def quality_loss(self, logits: Tensor, labels: Tensor, quality: Tensor) -> Tensor:
        """Labels (...) are to be said with the probability `quality` (...), all others with 0; over all classes.

        What is there weighs as much as its quality, the rest as in the focal loss (varifocal, arXiv 2008.13367).
        """
        rows = torch.arange(logits.shape[-1], device=logits.device)
        wanted = (labels[..., None] == rows) * quality[..., None]  # (..., K)
        entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        absent = (1 - self.alpha) * logits.detach().sigmoid() ** self.gamma
        return (entropy * torch.where(wanted > 0, wanted, absent)).sum(-1)

    def class_normaliser(self, objects: int, queries: int) -> float:
        """The number of objects."""
        return objects

    def select(self, logits: Tensor) -> Selection:
        return best_pairs(self.probabilities(logits), self.top_k)
