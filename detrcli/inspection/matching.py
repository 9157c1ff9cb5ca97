"""Matching of queries and objects in one image: costs, pairs and their reasons, losses, and the model's errors."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_iou

from detrcli.boxes import cxcywh_to_xyxy
from detrcli.errors import UsageError
from detrcli.losses.criterion import Criterion, Loss
from detrcli.losses.matching import HungarianMatcher
from detrcli.losses.scoring import NO_OBJECT
from detrcli.losses.terms import pair_up
from detrcli.messages import argument
from detrcli.structures import Match, Output, QueryGroup, Target

OTHERS = "others"  # as the deciding term: no term favors the query, but another object needs the runner-up more
UNMATCHED = -1  # in place of a query: the object is matched to none
SAME_PLACE = 0.5  # minimum IoU of two boxes of the same object

MissReason = Literal["no-query", "no-object", "class", "score", "box"]
FalsePositiveKind = Literal["duplicate", "other-class", "background"]


@dataclass(frozen=True)
class Pair:
    """An object with its matched query, compared with the matching in which this pair is forbidden."""

    query: int
    target: int
    total: float  # weighted cost
    runner_up: int | None  # the query that the object is matched to instead
    margin: float | None  # the increase of the minimum total cost of the image
    decided: str | None  # the weighted term in which the query beats the runner-up most, or OTHERS


@dataclass(frozen=True)
class LayerMatching:
    """The matching of a layer: Q queries, N objects, K classes."""

    layer: int
    probabilities: np.ndarray  # (Q, K)
    scores: np.ndarray  # (Q,), the highest of them
    labels: np.ndarray  # (Q,), its class
    top: np.ndarray  # (Q,), the same class, or NO_OBJECT where that is more probable
    selected: np.ndarray  # (D, 2), query and class of the detections before a threshold
    boxes: np.ndarray  # (Q, 4), cxcywh in [0, 1] of the network's input
    terms: Mapping[str, np.ndarray]  # the terms of the matching cost by name, each (Q, N), unweighted
    total: np.ndarray  # (Q, N), weighted
    pairs: Sequence[Pair]  # by target

    @property
    def queries(self) -> np.ndarray:
        """The query of each object, (N,): the first if it has several, UNMATCHED if it has none."""
        matched = np.full(self.total.shape[1], UNMATCHED)
        for pair in reversed(self.pairs):
            matched[pair.target] = pair.query
        return matched

    def detections(self, threshold: float) -> np.ndarray:
        """Return query and class of each detection, (D, 2), by descending score."""
        scores = self.probabilities[tuple(self.selected.T)]  # (D,)
        kept = np.flatnonzero(scores >= threshold)
        detections: np.ndarray = self.selected[kept[np.argsort(-scores[kept], kind="stable")]]
        return detections

    def relevant_queries(self, threshold: float) -> list[int]:
        """Return the matched queries, the runners-up and the queries with a detection."""
        runners_up = [pair.runner_up for pair in self.pairs if pair.runner_up is not None]
        detecting = np.flatnonzero(self.scores >= threshold).tolist()
        return sorted({*(pair.query for pair in self.pairs), *runners_up, *detecting})


@dataclass(frozen=True)
class ObjectLosses:
    """The weighted loss of a layer in M terms, by object."""

    terms: Sequence[str]  # the names of the M terms
    targets: np.ndarray  # (N, M), of each object; 0 if it is matched to no query
    unmatched: np.ndarray  # (M,), of the unmatched queries

    @property
    def total(self) -> float:
        return float(self.targets.sum() + self.unmatched.sum())


@dataclass(frozen=True)
class GroupMatching:
    """The matching of a group of queries in all its layers."""

    name: str
    target: Target  # on the CPU
    layers: Sequence[LayerMatching]
    losses: Sequence[ObjectLosses] | None  # of each layer; None if the loss is not a sum of known terms

    @property
    def queries(self) -> np.ndarray:
        """The query of each object in every layer, (L, N)."""
        return np.stack([layer.queries for layer in self.layers])


@dataclass(frozen=True)
class MatchedPrediction:
    """The prediction of the query that a layer matches to an object."""

    layer: int
    query: int | None  # None if there are more objects than queries
    label: int | None  # the most probable class
    score: float | None
    own_score: float | None  # the probability of the object's class
    iou: float | None
    why: MissReason | None  # the reason that the query does not detect the object; None if it does


@dataclass(frozen=True)
class FalsePositive:
    """A detection that is matched to no object."""

    query: int
    label: int
    score: float
    kind: FalsePositiveKind
    target: int | None  # the object that it overlaps
    partner: int | None  # the query that this object is matched to
    iou: float | None


@torch.no_grad()
def explain_group(group: QueryGroup, target: Target, loss: Loss, *, normalized: bool = True) -> GroupMatching:
    """Match a group of a single image as training does, and explain the pairs and their losses.

    Groups with pairs of their own (denoising) have no runners-up: these pairs were not decided by cost. Losses are
    normalized as in a training step with this image alone. Without that, images can be compared.
    """
    matcher = matcher_of(loss)
    objects, match = _match(group, target, matcher)
    costs = matcher.costs(group.logits, group.boxes, [objects], group.mask_logits)
    values = {name: cost.mT.cpu().numpy() for name, cost in (costs | {"total": matcher.total(costs)}).items()}
    logits = group.logits[:, 0]  # (L, Q, R): the layers take the place of images
    selection = loss.scoring.select(logits)
    selected = torch.stack([selection.queries, selection.labels], -1).cpu().numpy()  # (L, D, 2)
    probabilities = loss.scoring.probabilities(logits).cpu().numpy()  # (L, Q, K)
    top = loss.scoring.top_class(logits).cpu().numpy()  # (L, Q)
    boxes = group.boxes[:, 0].float().cpu().numpy()  # (L, Q, 4)

    layers = []
    for i in range(len(group)):
        of_layer = match.layer(i)
        pairs = sorted(zip(of_layer.queries.tolist(), of_layer.targets.tolist(), strict=True), key=lambda pair: pair[1])
        # A matcher of the last layer alone decides on the pairs of all layers.
        deciding = {name: value[i if matcher.layers == "each" else -1] for name, value in values.items()}
        reasons = [(None, None, None)] * len(pairs) if group.match else _reasons(pairs, deciding, matcher.weights)
        total = values["total"][i]
        layers.append(
            LayerMatching(
                layer=i,
                probabilities=probabilities[i],
                scores=probabilities[i].max(1),
                labels=probabilities[i].argmax(1),
                top=top[i],
                selected=selected[i],
                boxes=boxes[i],
                terms={name: values[name][i] for name in costs},
                total=total,
                pairs=[
                    Pair(query, n, float(total[query, n]), *reason)
                    for (query, n), reason in zip(pairs, reasons, strict=True)
                ],
            )
        )
    losses = None
    if isinstance(loss, Criterion):
        normalizers: Mapping[str, float] = dict.fromkeys((term.name for term in loss.terms), 1.0)
        if normalized:
            normalizers = loss.normalizers(Output(group), [[target]])[group.name]
        losses = object_losses(group, objects, match, loss, normalizers)
    return GroupMatching(group.name, objects.to(torch.device("cpu")), layers, losses)


def matcher_of(loss: Loss) -> HungarianMatcher:
    """Return the matcher of a loss. Raises UsageError for models that do not expose theirs."""
    if loss.matcher is None:
        raise UsageError("This model does not expose how its queries are matched, so the matching cannot be explained.")
    return loss.matcher


def _reasons(
    pairs: Sequence[tuple[int, int]], costs: Mapping[str, np.ndarray], weights: Mapping[str, float]
) -> Iterator[tuple[int | None, float | None, str | None]]:
    """Yield runner-up, margin and deciding term of each pair, by the costs (Q, N) that decided on the pairs."""
    total = costs["total"].astype(np.float64)  # sums of float32 would lose small margins
    minimum = sum(total[query, n] for query, n in pairs)
    for query, n in pairs:
        if total.shape == (1, 1):  # there is no other pair
            yield None, None, None
            continue
        forbidden = total.copy()
        forbidden[query, n] = np.inf
        queries, targets = linear_sum_assignment(forbidden)
        margin = max(0.0, float(forbidden[queries, targets].sum() - minimum))  # negative by rounding alone
        runners_up = queries[targets == n].tolist()  # none if the object loses its query to another object
        if not runners_up:
            yield None, margin, None
            continue
        gains = {
            name: weight * float(costs[name][runners_up[0], n] - costs[name][query, n])
            for name, weight in weights.items()
        }
        best = max(gains, key=gains.__getitem__)
        yield runners_up[0], margin, best if gains[best] > 0 else OTHERS


def object_losses(
    group: QueryGroup, target: Target, match: Match, criterion: Criterion, normalizers: Mapping[str, float]
) -> list[ObjectLosses]:
    """Split the loss of every layer of a group of a single image by object."""
    L, _, Q, _ = group.logits.shape
    layers, queries, objects = (indices.cpu().numpy() for indices in (match.layers, match.queries, match.targets))
    free = np.ones((L, Q), dtype=bool)
    free[layers, queries] = False
    matched = pair_up(group, match, [target], criterion.terms)
    targets = np.zeros((L, len(target), len(criterion.terms)))
    unmatched = np.zeros((L, len(criterion.terms)))
    for m, term in enumerate(criterion.terms):
        if not term.applies_to(matched):
            continue
        values = term.weight / normalizers[term.name] * term.values(matched).double().cpu().numpy()
        if values.ndim == 3:  # (L, 1, Q): a value of each query, not (P,) of each pair
            unmatched[:, m] = (values[:, 0] * free).sum(1)
            values = values[layers, 0, queries]  # (P,)
        np.add.at(targets[:, :, m], (layers, objects), values)
    names = tuple(term.name for term in criterion.terms)
    return [ObjectLosses(names, *parts) for parts in zip(targets, unmatched, strict=True)]


def _match(group: QueryGroup, target: Target, matcher: HungarianMatcher) -> tuple[Target, Match]:
    """Return the objects and pairs that supervise a group of a single image: its own where it has them."""
    target = (target if group.targets is None else group.targets[0]).to(group.logits.device)
    return target, group.match or matcher(group, [target])


def queries_of(group: QueryGroup, target: Target, matcher: HungarianMatcher) -> np.ndarray:
    """Return the query of each object of a single image in every layer, (L, N), UNMATCHED for objects without one."""
    target, match = _match(group, target, matcher)
    matched = np.full((len(group), len(target)), UNMATCHED)
    matched[match.layers.cpu(), match.targets.cpu()] = match.queries.cpu()
    return matched


def reweighted(matcher: HungarianMatcher, weights: Mapping[str, float]) -> HungarianMatcher:
    """Return the matcher with other weights of some of its terms."""
    if unknown := [name for name in weights if name not in matcher.weights]:
        terms = ", ".join(matcher.weights)
        raise UsageError(f"{argument(f'cost_{unknown[0]}')}: the matching cost of this model has the terms {terms}.")
    changed = [replace(term, weight=weights.get(term.name, term.weight)) for term in matcher.terms]
    return HungarianMatcher(changed, matcher.layers)


def missed_objects(
    layers: Sequence[LayerMatching], target: Target, threshold: float
) -> dict[int, list[MatchedPrediction]]:
    """Return the objects without a detection in the last layer, with their predictions in every layer.

    A detection of an object has its class and an IoU of at least SAME_PLACE. Its query may not be matched to another.
    """
    last, ious = layers[-1], [_ious(layer, target) for layer in layers]
    queries, classes = last.detections(threshold).T  # (D,)
    missed = {}
    for n, label in enumerate(target.labels.tolist()):
        matched_to_others = np.isin(queries, np.delete(last.queries, n))
        detects = (classes == label) & (ious[-1][queries, n] >= SAME_PLACE) & ~matched_to_others
        if not detects.any():
            missed[n] = [_matched_prediction(*pair, n, label, threshold) for pair in zip(layers, ious, strict=True)]
    return missed


def false_positives(layer: LayerMatching, target: Target, threshold: float) -> list[FalsePositive]:
    """Return the detections of a layer that are matched to no object, by descending score.

    A matched query may have detections of several classes. The detection of its object's class is a true positive; if
    there is none, its most probable detection is not counted either: its object counts as missed.
    """
    labels, ious, matched = target.labels.cpu().numpy(), _ious(layer, target), layer.queries
    label_of = {pair.query: int(labels[pair.target]) for pair in layer.pairs}  # of matched queries
    detections = [(query, label) for query, label in layer.detections(threshold).tolist()]
    positives = []
    for query, label in detections:
        expected = label_of.get(query)
        if expected is not None and (
            label == expected or (label == layer.labels[query] and (query, expected) not in detections)
        ):
            continue
        score = float(layer.probabilities[query, label])
        kind: FalsePositiveKind = "duplicate"
        overlaps = np.where(labels == label, ious[query], 0)  # (N,)
        if overlaps.max(initial=0) < SAME_PLACE:
            kind, overlaps = "other-class", ious[query]
        if overlaps.max(initial=0) < SAME_PLACE:
            positives.append(FalsePositive(query, label, score, "background", None, None, None))
            continue
        n = int(overlaps.argmax())
        partner = None if matched[n] == UNMATCHED else int(matched[n])
        positives.append(FalsePositive(query, label, score, kind, n, partner, float(overlaps[n])))
    return positives


def _matched_prediction(
    layer: LayerMatching, ious: np.ndarray, n: int, expected: int, threshold: float
) -> MatchedPrediction:
    query = int(layer.queries[n])
    if query == UNMATCHED:
        return MatchedPrediction(layer.layer, None, None, None, None, None, "no-query")
    label, iou = int(layer.labels[query]), float(ious[query, n])
    why: MissReason | None
    if (layer.detections(threshold) == (query, expected)).all(1).any():
        why = "box" if iou < SAME_PLACE else None
    elif layer.top[query] == NO_OBJECT:
        why = "no-object"
    else:
        why = "class" if label != expected else "score"
    score, own_score = float(layer.scores[query]), float(layer.probabilities[query, expected])
    return MatchedPrediction(layer.layer, query, label, score, own_score, iou, why)


def _ious(layer: LayerMatching, target: Target) -> np.ndarray:
    predicted, annotated = torch.from_numpy(layer.boxes), target.boxes.cpu().float()
    ious: np.ndarray = box_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(annotated)).numpy()  # (Q, N)
    return ious
