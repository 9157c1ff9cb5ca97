"""The set prediction loss: weighted terms, summed over every supervised group of predictions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from detrcli.boxes import corners, generalised_iou
from detrcli.losses.matching import Matcher
from detrcli.structures import Match, Output, Prediction, Target
from detrcli.system import distributed


@dataclass(frozen=True)
class Matched:
    """A group's prediction beside the truth that its queries were given, in float32."""

    logits: Tensor  # (B, Q, K + 1)
    classes: Tensor  # (B, Q), what each query should say; K, "no object", where it was given none
    boxes: Tensor  # (M, 4), predicted by the queries that were given an object
    truth: Tensor  # (M, 4), the boxes of those objects


def pair_up(prediction: Prediction, match: Match, targets: Sequence[Target]) -> Matched:
    """Put what was predicted beside what should have been."""
    labels = torch.cat([target.labels for target in targets])  # (T,)
    boxes = torch.cat([target.boxes for target in targets])  # (T, 4)
    no_object = prediction.logits.shape[-1] - 1
    classes = torch.full(prediction.logits.shape[:2], no_object, device=labels.device)  # (B, Q)
    classes[match.images, match.queries] = labels[match.targets]
    return Matched(
        logits=prediction.logits.float(),
        classes=classes,
        boxes=prediction.boxes[match.images, match.queries].float(),
        truth=boxes[match.targets].float(),
    )


class Term(Protocol):
    """One part of the loss: a sum over a group, and what that sum is divided by."""

    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> float: ...

    @property
    def least(self) -> float:
        """The normaliser is never below this."""

    def total(self, matched: Matched) -> Tensor:
        """The term summed over the group, neither weighted nor normalised."""

    def count(self, targets: Sequence[Target], queries: int) -> float:
        """What these targets add to the normaliser. It follows from the targets alone."""


@dataclass(frozen=True)
class ClassTerm:
    """Cross-entropy over K + 1 classes, in which "no object" weighs less."""

    weight: float
    no_object: float
    name: str = "class"
    least: float = 1e-6  # so that a no-object weight of 0 without objects is 0 and not 0 / 0

    def total(self, matched: Matched) -> Tensor:
        weights = matched.logits.new_ones(matched.logits.shape[-1])
        weights[-1] = self.no_object
        return F.cross_entropy(
            matched.logits.flatten(0, 1), matched.classes.flatten(), weights, reduction="sum"
        )

    def count(self, targets: Sequence[Target], queries: int) -> float:
        """The sum of the class weights of all queries.

        As published, with one process and no accumulation. With several processes the published term is the
        mean of each process' own mean, which weighs an object more where its neighbours are few.
        """
        objects = sum(min(len(target.labels), queries) for target in targets)
        return objects + self.no_object * (len(targets) * queries - objects)


@dataclass(frozen=True)
class BoxTerm:
    """What the box terms share: they are taken per object, and per one where there is none."""

    weight: float
    least: float = 1.0

    def count(self, targets: Sequence[Target], queries: int) -> float:
        """The number of objects, those that no query was left for included."""
        return sum(len(target.labels) for target in targets)


@dataclass(frozen=True)
class L1Term(BoxTerm):
    """L1 distance of cx, cy, w, h."""

    name: str = "l1"

    def total(self, matched: Matched) -> Tensor:
        return F.l1_loss(matched.boxes, matched.truth, reduction="sum")


@dataclass(frozen=True)
class GIoUTerm(BoxTerm):
    """One minus the generalised IoU."""

    name: str = "giou"

    def total(self, matched: Matched) -> Tensor:
        return (1 - generalised_iou(corners(matched.boxes), corners(matched.truth))).sum()


@dataclass(frozen=True)
class Losses:
    """What a batch costs, and how that came about."""

    total: Tensor  # (), the weighted sum of all parts
    parts: Mapping[str, Mapping[str, Tensor]]  # group -> term -> (), normalised, not weighted
    matches: Mapping[str, Match]  # group -> the pairs it was charged for


class Criterion:
    """Matches every group of an output with the targets and sums the terms of the loss."""

    def __init__(self, matcher: Matcher, terms: Sequence[Term]) -> None:
        self.matcher = matcher
        self.terms = tuple(terms)

    def normalisers(self, micro_batches: Iterable[Sequence[Target]], queries: int) -> dict[str, float]:
        """What each term is divided by, for a step that sees these targets on this process.

        Counted over all accumulated micro-batches and all processes, hence the same loss however a batch is
        split. It is the mean over processes, because DistributedDataParallel averages the gradients; so every
        process must call it.
        """
        counts = [0.0] * len(self.terms)
        for targets in micro_batches:
            counts = [
                count + term.count(targets, queries) for count, term in zip(counts, self.terms, strict=True)
            ]
        means = distributed.mean(counts)
        return {term.name: max(mean, term.least) for term, mean in zip(self.terms, means, strict=True)}

    def __call__(
        self, output: Output, targets: Sequence[Target], normalisers: Mapping[str, float] | None = None
    ) -> Losses:
        """The loss of one forward pass; `normalisers` default to those of a step of this batch alone."""
        if normalisers is None:
            normalisers = self.normalisers([targets], output.last.logits.shape[1])
        groups = output.groups
        matches = self.matcher([group.prediction for group in groups], targets)

        parts: dict[str, dict[str, Tensor]] = {}
        for group, match in zip(groups, matches, strict=True):
            matched = pair_up(group.prediction, match, targets)
            parts[group.name] = {
                term.name: term.total(matched) / normalisers[term.name] for term in self.terms
            }
        total = torch.stack(
            [term.weight * part[term.name] for part in parts.values() for term in self.terms]
        ).sum()
        return Losses(total, parts, {group.name: match for group, match in zip(groups, matches, strict=True)})


@torch.no_grad()
def class_error(prediction: Prediction, match: Match, targets: Sequence[Target]) -> Tensor:
    """Percentage of matched queries whose top class, "no object" included, is not their object's. A metric.

    0 where nothing is matched: there is nothing to be wrong about (the published code says 100).
    """
    labels = torch.cat([target.labels for target in targets])[match.targets]  # (M,)
    said = prediction.logits[match.images, match.queries].argmax(-1)  # (M,)
    return 100 * (said != labels).sum() / max(len(labels), 1)


@torch.no_grad()
def cardinality_error(prediction: Prediction, targets: Sequence[Target]) -> Tensor:
    """How far the count of queries that say an object is from the count of objects, on average. A metric."""
    no_object = prediction.logits.shape[-1] - 1
    said = (prediction.logits.argmax(-1) != no_object).sum(1)  # (B,)
    there = torch.tensor([len(target.labels) for target in targets], device=said.device)  # (B,)
    return (said - there).abs().float().mean()
