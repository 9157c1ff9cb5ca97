"""The matching of one image as tables, JSON and arrays."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from detrcli.boxes import to_pixels
from detrcli.inspection import matching
from detrcli.inspection.matching import FalsePositive, GroupMatching, LayerMatching, MatchedPrediction, Pair
from detrcli.inspection.record import select_layers
from detrcli.inspection.session import InspectionSession
from detrcli.inspection.tables import Cell, Table, class_entry, left_out, number, rounded, rounded_fields
from detrcli.resize import Placement
from detrcli.structures import Classes, Target


@dataclass(frozen=True)
class MatchReport:
    """The matching of one image: N objects and Q queries in L layers."""

    image_id: int
    file: str
    height: int
    width: int
    placement: Placement  # of the image in the network's input
    classes: Classes
    annotation_ids: Sequence[int]
    threshold: float  # the minimum score of a detection
    cost_weights: Mapping[str, float]
    other_weights: Mapping[str, float]  # alternative weights of the costs
    decoder: GroupMatching
    groups: Sequence[GroupMatching]  # further supervised groups
    shown: Sequence[int]  # the selected layers
    other_queries: np.ndarray  # (L, N), the matched queries with the alternative weights
    missed: Mapping[int, Sequence[MatchedPrediction]]  # missed objects, with their prediction in every layer
    false_positives: Sequence[FalsePositive]
    unknown: Sequence[str] = ()  # the classes of the objects that were left out: the weights do not have them

    @property
    def target(self) -> Target:
        return self.decoder.target

    @property
    def layers(self) -> Sequence[LayerMatching]:
        return self.decoder.layers

    @property
    def layers_shown(self) -> list[LayerMatching]:
        return [self.layers[i] for i in self.shown]

    @property
    def flips(self) -> list[tuple[int, int, int | None, int | None]]:
        """Layer, object, its query and its query with the alternative weights, where these differ."""
        queries, others = self.decoder.queries, self.other_queries  # (L, N)
        return [(i, n, _query(queries[i, n]), _query(others[i, n])) for i, n in np.argwhere(queries != others).tolist()]

    def class_name(self, label: int | None) -> str:
        return "" if label is None else str(self.classes.names[label])

    def target_name(self, n: int) -> str:
        return self.class_name(int(self.target.labels[n]))

    def miss_reason(self, prediction: MatchedPrediction) -> str:
        return {
            None: "detected",
            "no-query": "unmatched: more objects than queries",
            "no-object": "no-object predicted",
            "class": "classification error",
            "score": f"low score ({number(prediction.score)} < {self.threshold:g})",
            "box": f"localization error (IoU {prediction.iou or 0:.2f} < {matching.SAME_PLACE:g})",
        }[prediction.why]

    def describe(self, false_positive: FalsePositive) -> str:
        n, partner = false_positive.target, false_positive.partner
        if n is None:
            return "background"
        kind = "duplicate" if false_positive.kind == "duplicate" else "classification error"
        matched = "" if partner is None else f", which is matched to query {partner}"
        return f"{kind} on object {n} ({self.target_name(n)}){matched}"

    @property
    def summary(self) -> list[str]:
        objects = len(self.target)
        return [
            f"{self.file} (image {self.image_id}): {self.width} x {self.height} pixels, "
            f"{objects} object{'s' if objects != 1 else ''}, {len(self.layers[-1].boxes)} queries",
            *left_out(self.unknown),
            f"cost = {_formula(self.cost_weights)}; the tables show weighted terms",
        ]

    def tables(self) -> Iterator[Table]:
        for layer in self.layers_shown:
            yield from self._tables_of(layer)
        rows: list[Sequence[Cell]]
        if len(self.shown) > 1:
            columns = ("object", "class", *(f"layer {layer.layer}" for layer in self.layers))
            queries = self.decoder.queries  # (L, N)
            rows = [(str(n), self.target_name(n), *map(_query, queries[:, n])) for n in range(len(self.target))]
            yield Table("the query of each object, layer by layer", columns, rows)
        if self.groups:
            rows = []
            for group in self.groups:
                last, loss = group.layers[-1], group.losses[-1].total if group.losses else None
                rows.append((group.name, len(group.layers), len(last.boxes), len(last.pairs), number(loss)))
            columns = ("group", "layers", "queries", "matched", "loss")
            yield Table("further query groups of training, by their last layer", columns, rows)
        if self.missed:
            rows = []
            for n, predictions in self.missed.items():
                name = f"{n} {self.target_name(n)}"
                for p in predictions:
                    scores = (f"{self.class_name(p.label)} {number(p.score)}".strip(), number(p.own_score))
                    rows.append((name, p.layer, p.query, *scores, number(p.iou, 2), self.miss_reason(p)))
                    name = ""
            title = f"missed objects: no detection with a score of {self.threshold:g} or more"
            yield Table(title, ("object", "layer", "query", "predicts", "its class", "IoU", "reason"), rows)
        if self.false_positives:
            rows = [
                (fp.query, self.class_name(fp.label), number(fp.score), number(fp.iou), self.describe(fp))
                for fp in self.false_positives
            ]
            title = "false positives: detections that are matched to no object"
            yield Table(title, ("query", "predicts", "score", "IoU", "kind"), rows)
        if self.other_weights != self.cost_weights:
            rows = [(layer, str(n), self.target_name(n), *queries) for layer, n, *queries in self.flips]
            title = f"with cost = {_formula(self.other_weights)}: {len(rows) or 'no'} pairs would change"
            yield Table(title, ("layer", "object", "class", "query", "would be"), rows)

    def document(self) -> dict[str, Any]:
        queries = self.decoder.queries
        return {
            "schema": "detr.match-debug/1",
            "image": {"id": self.image_id, "file": self.file, "width": self.width, "height": self.height},
            "threshold": self.threshold,
            "cost_weights": dict(self.cost_weights),
            "targets": [
                {"annotation_id": annotation, **target}
                for annotation, target in zip(self.annotation_ids, self._targets(self.target), strict=True)
            ],
            "left_out": dict(Counter(self.unknown)),
            "layers": [self._layer(self.decoder, i) for i in self.shown],
            "groups": [
                {
                    "name": group.name,
                    "targets": self._targets(group.target),
                    "layers": [self._layer(group, i) for i in range(len(group.layers))],
                }
                for group in self.groups
            ],
            "queries": [[*map(_query, row)] for row in queries],
            "changed": [
                {"layer": i, "targets": np.flatnonzero(queries[i - 1] != queries[i]).tolist()}
                for i in range(1, len(queries))
            ],
            "missed": [
                {"target": n, "layers": [self._labeled(prediction) for prediction in predictions]}
                for n, predictions in self.missed.items()
            ],
            "extra": [self._labeled(false_positive) for false_positive in self.false_positives],
            "other_weights": {
                "cost_weights": dict(self.other_weights),
                "flips": [
                    dict(zip(("layer", "target", "query", "other_query"), flip, strict=True)) for flip in self.flips
                ],
            },
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of the selected layers by name. The query of an unmatched object is -1."""
        layers = self.layers_shown
        return {
            "layers": np.array(self.shown),
            **{f"cost_{name}": np.stack([layer.terms[name] for layer in layers]) for name in self.cost_weights},
            "cost_total": np.stack([layer.total for layer in layers]),  # (L, Q, N), as its terms
            "cost_weights": np.array(list(self.cost_weights.values())),
            "queries": np.stack([layer.queries for layer in layers]),  # (L, N)
            "boxes": np.stack([layer.boxes for layer in layers]),  # (L, Q, 4)
            "probabilities": np.stack([layer.probabilities for layer in layers]),  # (L, Q, K)
            "target_boxes": self.target.boxes.numpy(),  # (N, 4)
            "target_category_ids": self.classes.ids[self.target.labels.numpy()],  # (N,)
            "category_ids": self.classes.ids,  # (K,)
            "names": self.classes.names,  # (K,)
        }

    def pixels(self, boxes: np.ndarray) -> np.ndarray:
        """Convert boxes (..., 4), cxcywh in [0, 1] of the network's input, to xyxy in pixels of the image."""
        pixels: np.ndarray = to_pixels(torch.from_numpy(boxes).float(), self.height, self.width, self.placement).numpy()
        return pixels

    def _labeled(self, item: MatchedPrediction | FalsePositive) -> dict[str, Any]:
        return {**rounded_fields(item), **class_entry(self.classes, item.label)}

    def _targets(self, target: Target) -> list[dict[str, Any]]:
        boxes = target.boxes.numpy()
        return [
            {**class_entry(self.classes, label), "box": rounded(box), "pixels": np.round(corners, 3).tolist()}
            for label, box, corners in zip(target.labels.tolist(), boxes, self.pixels(boxes).astype(float), strict=True)
        ]

    def _layer(self, group: GroupMatching, i: int) -> dict[str, Any]:
        layer = group.layers[i]
        predictions = zip(layer.labels.tolist(), layer.scores, layer.boxes, strict=True)
        entry = {
            "layer": layer.layer,
            "cost": {name: rounded(values) for name, values in {**layer.terms, "total": layer.total}.items()},
            "pairs": [rounded_fields(pair) for pair in layer.pairs],
            "predictions": [
                {"query": query, **class_entry(self.classes, label), "score": rounded(score), "box": rounded(box)}
                for query, (label, score, box) in enumerate(predictions)
            ],
        }
        if group.losses is not None:
            losses = group.losses[i]
            targets = [dict(zip(losses.terms, rounded(row), strict=True)) for row in losses.targets]
            entry["loss"] = {
                "targets": [{"target": n, **terms} for n, terms in enumerate(targets)],
                "no_object": rounded(losses.unmatched.sum()),
            }
        return entry

    def _tables_of(self, layer: LayerMatching) -> Iterator[Table]:
        if layer.pairs:
            last = len(self.layers) - 1
            title = "the query that each object is matched to, the runner-up, and the deciding term"
            columns = ("object", "query", "predicts", *layer.terms, "total", "margin", "by")
            pairs = [row for pair in layer.pairs for row in self._pair_rows(layer, pair)]
            yield Table(f"layer {layer.layer} of 0 to {last}: {title}", columns, pairs)
        if self.decoder.losses is not None:
            losses = self.decoder.losses[layer.layer]
            objects = [(str(n), self.target_name(n), row) for n, row in enumerate(losses.targets)]
            rows = [
                (name, label, *map(number, terms), number(terms.sum()), f"{terms.sum() / (losses.total or 1):.0%}")
                for name, label, terms in [*objects, ("unmatched", "no object", losses.unmatched)]
            ]
            columns = ("object", "class", *losses.terms, "sum", "share")
            yield Table(f"layer {layer.layer}: the loss of each object and of the unmatched queries", columns, rows)

    def _pair_rows(self, layer: LayerMatching, pair: Pair) -> Iterator[Sequence[Cell]]:
        name, n = f"{pair.target} {self.target_name(pair.target)}", pair.target
        for first, query, reason in (
            (name, pair.query, (number(pair.margin), pair.decided or "")),
            ("runner-up", pair.runner_up, ("", "")),
        ):
            if query is not None:
                costs = (number(self.cost_weights[term] * values[query, n], 2) for term, values in layer.terms.items())
                prediction = f"{self.class_name(int(layer.labels[query]))} {layer.scores[query]:.3f}"
                yield first, query, prediction, *costs, number(layer.total[query, n]), *reason


def match_report(
    session: InspectionSession,
    index: int = 0,
    *,
    layers: str | int = "last",
    threshold: float = 0.7,
    other_weights: Mapping[str, float] | None = None,
) -> MatchReport:
    """Explain the matching of an image of a split, by its index.

    `layers` selects the decoder layers to show: last, all or a number from 0. `other_weights` are alternative weights
    of cost terms by name; the report lists the pairs that they would change.
    """
    loss, matcher = session.loss, matching.matcher_of(session.loss)
    other = matching.reweighted(matcher, other_weights or {})
    example = session.example(index)
    output = session.output(example)
    shown = select_layers(layers, len(output.decoder))
    decoder, *groups = (matching.explain_group(group, example.target, loss) for group in output.groups)
    other_queries = decoder.queries
    if other.weights != matcher.weights:
        other_queries = matching.queries_of(output.decoder, example.target, other)
    height, width = session.size(index)
    return MatchReport(
        image_id=example.image_id,
        file=str(session.path(index)),
        height=height,
        width=width,
        placement=session.placement(index),
        classes=session.classes,
        annotation_ids=session.annotation_ids(index),
        threshold=threshold,
        cost_weights=matcher.weights,
        other_weights=other.weights,
        decoder=decoder,
        groups=groups,
        shown=shown,
        other_queries=other_queries,
        missed=matching.missed_objects(decoder.layers, example.target, threshold),
        false_positives=matching.false_positives(decoder.layers[-1], example.target, threshold),
        unknown=session.unknown.get(example.image_id, ()),
    )


def _formula(weights: Mapping[str, float]) -> str:
    return " + ".join(f"{weight:g} {name}" for name, weight in weights.items())


def _query(query: int) -> int | None:
    return None if query == matching.UNMATCHED else int(query)
