"""The meaning of class logits: softmax with a no-object class, or a sigmoid per class.

No other code turns logits into probabilities or handles "no object". The first K of a query's R logits are classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

NO_OBJECT = -1  # the class index of "no object"


@dataclass(frozen=True)
class Selection:
    """The D queries of each image that become detections, with their classes, in the order of the published code."""

    queries: Tensor  # (B, D)
    labels: Tensor  # (B, D)
    scores: Tensor  # (B, D)


class Scoring(ABC):
    """The meaning of class logits: probabilities, matching cost, loss, and the selection of detections."""

    name: ClassVar[str]
    function: ClassVar[Literal["softmax", "sigmoid"]]  # from logits to probabilities
    class_costs: ClassVar[Sequence[str]]  # the available kinds of class cost
    min_class_normalizer: ClassVar[float] = 1.0  # lower bound of the class loss's divisor
    panoptic_threshold: ClassVar[float]  # queries of panoptic maps score higher than this

    @abstractmethod
    def num_logits(self, classes: int) -> int:
        """Return the number of logits per query; those of the classes come first."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the class probabilities (..., K) of logits (..., R)."""

    @abstractmethod
    def top_class(self, logits: Tensor) -> Tensor:
        """Return the most probable class (...) of logits (..., R), which may be NO_OBJECT."""

    @abstractmethod
    def class_cost(self, logits: Tensor, kind: str) -> Tensor:
        """Return the matching cost of each class, (..., K), for logits (..., R); `kind` is one of `class_costs`."""

    @abstractmethod
    def class_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss (...) of logits (..., R) for labels (...), which may be NO_OBJECT."""

    @abstractmethod
    def class_normalizer(self, objects: int, queries: int) -> float:
        """Return the divisor of the class loss for an image with this many queries, `objects` of them matched."""

    @abstractmethod
    def num_pairs(self, queries: int) -> int | None:
        """Return how many pairs of query and class become detections; None: each query, with its best class."""

    def select(self, logits: Tensor) -> Selection:
        """Select the queries of logits (B, Q, R) that become detections."""
        probabilities = self.probabilities(logits)
        count = self.num_pairs(logits.shape[1])
        return best_of_each(probabilities) if count is None else best_pairs(probabilities, count)


def best_of_each(probabilities: Tensor) -> Selection:
    """Select every query of (B, Q, K) with its most probable class, in the order of the queries."""
    scores, labels = probabilities.max(-1)  # (B, Q)
    queries = torch.arange(labels.shape[1], device=labels.device).expand_as(labels)
    return Selection(queries, labels, scores)


def best_pairs(probabilities: Tensor, top_k: int) -> Selection:
    """Select the top-k pairs of query and class of (B, Q, K), by descending score."""
    K = probabilities.shape[-1]
    scores, indices = probabilities.flatten(1).topk(min(top_k, probabilities[0].numel()))  # (B, D)
    return Selection(indices // K, indices % K, scores)


def focal_loss(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """Return the focal loss (arXiv 1708.02002) of each logit, for targets of 0 or 1."""
    p = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_of_target = p * targets + (1 - p) * (1 - targets)
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return weight * cross_entropy * (1 - p_of_target) ** gamma


@dataclass(frozen=True)
class Softmax(Scoring):
    """K + 1 logits, the last of them "no object" (section 3.1 of arXiv 2005.12872). A query has one class."""

    no_object: float = 0.1  # weight of "no object" in the cross-entropy

    name = "softmax"
    function = "softmax"
    panoptic_threshold = 0.85  # as published
    class_costs = ("probability", "log")
    min_class_normalizer = 1e-6  # so that a no-object weight of 0 gives a loss of 0, not 0 / 0, without objects

    def num_logits(self, classes: int) -> int:
        return classes + 1

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(-1)[..., :-1]

    def top_class(self, logits: Tensor) -> Tensor:
        top = logits.argmax(-1)
        return torch.where(top == logits.shape[-1] - 1, NO_OBJECT, top)

    def class_cost(self, logits: Tensor, kind: str) -> Tensor:
        if kind == "log":
            return -logits.float().log_softmax(-1)[..., :-1]
        return -self.probabilities(logits)

    def class_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy with a lower weight for "no object"."""
        no_object = logits.shape[-1] - 1
        labels = torch.where(labels == NO_OBJECT, no_object, labels)
        weights = logits.new_ones(logits.shape[-1])
        weights[-1:].fill_(self.no_object)  # assigning a number would synchronize with a GPU
        losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), weights, reduction="none")
        return losses.view(labels.shape)

    def class_normalizer(self, objects: int, queries: int) -> float:
        """Return the sum of the weights of all queries, as published for a single process without accumulation.

        With several processes the published loss is the mean of each process's own weighted mean, in which an object
        weighs more if its batch has few objects.
        """
        return objects + self.no_object * (queries - objects)

    def num_pairs(self, queries: int) -> int | None:
        return None


@dataclass(frozen=True)
class Sigmoid(Scoring):
    """K independent logits, without "no object" (arXiv 2010.04159). A query may have several classes."""

    top_k: int = 100  # pairs of query and class selected per image
    alpha: float = 0.25  # focal loss: weight of the positive class; 1 - alpha that of the others
    gamma: float = 2.0  # focal loss: exponent, which reduces the weight of easy examples

    name = "sigmoid"
    function = "sigmoid"
    panoptic_threshold = 0.3  # sigmoid scores are lower; results are nearly the same from 0.2 to 0.4
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
            positive = -self.alpha * (1 - p) ** self.gamma * (p + 1e-8).log()
            negative = -(1 - self.alpha) * p**self.gamma * (1 - p + 1e-8).log()
            return positive - negative
        return -F.logsigmoid(logits.float()) if kind == "log" else -p

    def class_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the focal loss, summed over the classes."""
        return focal_loss(logits, _one_hot(logits, labels).to(logits.dtype), self.alpha, self.gamma).sum(-1)

    def quality_loss(self, logits: Tensor, labels: Tensor, quality: Tensor) -> Tensor:
        """Return the varifocal loss (arXiv 2008.13367), summed over the classes.

        The target of the labeled class is its quality (...), as the IoU, which is also its weight; other targets are 0.
        """
        targets = _one_hot(logits, labels) * quality[..., None]  # (..., K)
        cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        negative = (1 - self.alpha) * logits.detach().sigmoid() ** self.gamma
        return (cross_entropy * torch.where(targets > 0, targets, negative)).sum(-1)

    def class_normalizer(self, objects: int, queries: int) -> float:
        return objects

    def num_pairs(self, queries: int) -> int | None:
        return self.top_k


def _one_hot(logits: Tensor, labels: Tensor) -> Tensor:
    """Return labels (...) as (..., K) bool, all False for NO_OBJECT."""
    return labels[..., None] == torch.arange(logits.shape[-1], device=logits.device)
