"""All that is known of the matching of one image: as tables, as JSON, as arrays."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from detrcli.boxes import to_pixels
from detrcli.inspection.choices import chosen_layers
from detrcli.inspection.explained import GroupMatching, explain_group, matcher_of
from detrcli.inspection.matching import UNMATCHED, LayerMatching, changed, queries_of, reweighted
from detrcli.inspection.mistakes import BACKGROUND, DUPLICATE, SAME_PLACE, Answer, Extra, Missed, extra, missed
from detrcli.inspection.session import InspectionSession
from detrcli.inspection.tables import Cell, Table, class_of, left_out, number, plain, rounded
from detrcli.resize import Placement
from detrcli.structures import Classes, Target


@dataclass(frozen=True)
class MatchReport:
    """All that is known of the matching of one image, whose N objects Q queries are matched with."""

    image_id: int
    file: str
    height: int
    width: int
    placement: Placement  # of the picture in the network's input
    classes: Classes
    annotation_ids: Sequence[int]
    threshold: float  # the score from which a query is a detection
    cost_weights: Mapping[str, float]
    other_weights: Mapping[str, float]  # other weights of the costs
    decoder: GroupMatching
    groups: Sequence[GroupMatching]  # the other ones that are supervised
    shown: Sequence[int]  # the layers that were asked for
    other_queries: np.ndarray  # (L, N), with the other weights
    missed: Sequence[Missed]
    extra: Sequence[Extra]
    unknown: Sequence[str] = ()  # the classes of its objects that the weights do not know: those were left out

    @property
    def target(self) -> Target:
        """The objects of the image."""
        return self.decoder.target

    @property
    def layers(self) -> Sequence[LayerMatching]:
        """All decoder layers."""
        return self.decoder.layers

    @property
    def layers_shown(self) -> list[LayerMatching]:
        """Those that were asked for."""
        return [self.layers[i] for i in self.shown]

    @property
    def flips(self) -> list[tuple[int, int, int | None, int | None]]:
        """Layer, object, its query, and the one that it would have with the other weights."""
        queries = self.decoder.queries
        return [
            (layer, n, or_none(queries[layer])[n], or_none(self.other_queries[layer])[n])
            for layer, n in np.argwhere(changed(queries, self.other_queries)).tolist()
        ]

    def class_name(self, label: int | None) -> str:
        """A class by its index."""
        return "" if label is None else str(self.classes.names[label])

    def target_name(self, n: int) -> str:
        """The class of an object."""
        return self.class_name(int(self.target.labels[n]))

    def why(self, answer: Answer) -> str:
        """Why a query does not find its object, in words."""
        reasons = {
            "no-query": "unmatched: more objects than queries",
            "no-object": "predicts no object",
            "class": "predicts another class",
            "score": f"score too low ({number(answer.score)} < {self.threshold:g})",
            "box": f"overlaps too little (IoU {answer.iou or 0:.2f} < {SAME_PLACE:g})",
        }
        return "finds it" if answer.why is None else reasons[answer.why]

    def what(self, one: Extra) -> str:
        """What a false positive is, in words."""
        if one.target is None:
            return BACKGROUND
        kind = "a duplicate" if one.kind == DUPLICATE else "another class"
        whose = "" if one.partner is None else f", which is matched to query {one.partner}"
        return f"{kind} on object {one.target} ({self.target_name(one.target)}){whose}"

    @property
    def summary(self) -> list[str]:
        """What the tables are about."""
        objects = len(self.target)
        return [
            f"{self.file} (image {self.image_id}): {self.width} x {self.height} pixels, "
            f"{objects} object{'s' if objects != 1 else ''}, {len(self.layers[-1].boxes)} queries",
            *filter(None, [left_out(self.unknown)]),
            f"cost = {formula(self.cost_weights)}; below, all terms are weighted",
        ]

    def tables(self) -> list[Table]:
        """All of it for people."""
        tables = []
        for layer in self.layers_shown:
            if layer.pairs:
                tables.append(
                    Table(
                        f"layer {layer.layer} of 0 to {len(self.layers) - 1}: which query each object is matched to, "
                        "the runner-up, and what decided",
                        ("object", "query", "predicts", *layer.terms, "total", "margin", "by"),
                        list(self._pairs(layer)),
                    )
                )  # fmt: skip
            if self.decoder.losses is not None:
                tables.append(
                    Table(
                        f"layer {layer.layer}: the loss, by what it is charged for",
                        ("object", "class", *self.decoder.losses[layer.layer].terms, "sum", "share"),
                        list(self._losses(layer)),
                    )
                )
        if len(self.shown) > 1:
            queries = self.decoder.queries
            tables.append(
                Table(
                    "the query of each object, layer by layer",
                    ("object", "class", *(f"layer {one.layer}" for one in self.layers)),
                    [(str(n), self.target_name(n), *or_none(queries[:, n])) for n in range(len(self.target))],
                )
            )
        if self.groups:
            tables.append(
                Table(
                    "further queries of training, each group by its last layer",
                    ("group", "layers", "queries", "matched", "loss"),
                    list(self._groups()),
                )
            )
        if self.missed:
            tables.append(
                Table(
                    f"missed: no detection with a score of {self.threshold:g} or more stands for these objects",
                    ("object", "layer", "query", "predicts", "its class", "IoU", "why"),
                    list(self._missed()),
                )
            )
        if self.extra:
            tables.append(
                Table(
                    "false positives: detections that are matched to no object",
                    ("query", "predicts", "score", "IoU", "what it is"),
                    [
                        (one.query, self.class_name(one.label), number(one.score), number(one.iou), self.what(one))
                        for one in self.extra
                    ],
                )
            )
        if self.other_weights != self.cost_weights:
            flips = self.flips
            tables.append(
                Table(
                    f"with cost = {formula(self.other_weights)}: {len(flips) or 'no'} pairs would be others",
                    ("layer", "object", "class", "query", "would be"),
                    [(layer, str(n), self.target_name(n), a, b) for layer, n, a, b in flips],
                )
            )
        return tables

    def document(self) -> dict[str, Any]:
        """All of it for programs. Cost matrices are [queries][targets]."""
        queries = self.decoder.queries
        return {
            "schema": "detr.match-debug/1",
            "image": {"id": self.image_id, "file": self.file, "width": self.width, "height": self.height},
            "threshold": self.threshold,
            "cost_weights": dict(self.cost_weights),
            "targets": [
                {"annotation_id": annotation, **one}
                for annotation, one in zip(self.annotation_ids, self._targets(self.target), strict=True)
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
            "queries": [or_none(row) for row in queries],
            "changed": [
                {"layer": i, "targets": np.flatnonzero(changed(queries[i - 1], queries[i])).tolist()}
                for i in range(1, len(queries))
            ],
            "missed": [
                {
                    "target": one.target,
                    "layers": [{**plain(answer), **class_of(self.classes, answer.label)} for answer in one.answers],
                }
                for one in self.missed
            ],
            "extra": [{**plain(one), **class_of(self.classes, one.label)} for one in self.extra],
            "other_weights": {
                "cost_weights": dict(self.other_weights),
                "flips": [
                    {"layer": layer, "target": n, "query": query, "other_query": other}
                    for layer, n, query, other in self.flips
                ],
            },
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """The numbers of the layers that are shown, by name; -1 for the query of an object without one."""
        shown = self.layers_shown
        return {
            "layers": np.array(self.shown),
            **{f"cost_{name}": np.stack([one.terms[name] for one in shown]) for name in self.cost_weights},
            "cost_total": np.stack([one.total for one in shown]),  # (L, Q, N), as its terms
            "cost_weights": np.array(list(self.cost_weights.values())),
            "queries": np.stack([one.queries for one in shown]),  # (L, N)
            "boxes": np.stack([one.boxes for one in shown]),  # (L, Q, 4)
            "probabilities": np.stack([one.probabilities for one in shown]),  # (L, Q, K)
            "target_boxes": self.target.boxes.numpy(),  # (N, 4)
            "target_category_ids": self.classes.ids[self.target.labels.numpy()],  # (N,)
            "category_ids": self.classes.ids,  # (K,)
            "names": self.classes.names,  # (K,)
        }

    def pixels(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (..., 4), cx, cy, w, h in [0, 1] of the network's input, to corners in pixels of the picture."""
        moved: np.ndarray = to_pixels(torch.from_numpy(boxes).float(), self.height, self.width, self.placement).numpy()
        return moved

    def _targets(self, target: Target) -> list[dict[str, Any]]:
        boxes = target.boxes.numpy()
        return [
            {**class_of(self.classes, label), "box": rounded(box), "pixels": np.round(corners, 3).tolist()}
            for label, box, corners in zip(target.labels.tolist(), boxes, self.pixels(boxes).astype(float), strict=True)
        ]

    def _layer(self, group: GroupMatching, i: int) -> dict[str, Any]:
        layer = group.layers[i]
        entry = {
            "layer": layer.layer,
            "cost": {name: rounded(values) for name, values in {**layer.terms, "total": layer.total}.items()},
            "pairs": [plain(pair) for pair in layer.pairs],
            "predictions": [
                {
                    "query": query,
                    **class_of(self.classes, int(layer.labels[query])),
                    "score": rounded(layer.scores[query]),
                    "box": rounded(layer.boxes[query]),
                }
                for query in range(len(layer.boxes))
            ],
        }
        if group.losses is not None:
            losses = group.losses[i]
            entry["loss"] = {
                "targets": [
                    {"target": n, **dict(zip(losses.terms, rounded(row), strict=True))}
                    for n, row in enumerate(losses.targets)
                ],
                "no_object": rounded(losses.unmatched.sum()),
            }
        return entry

    def _pairs(self, layer: LayerMatching) -> Iterator[tuple[Cell, ...]]:
        """Two rows an object: its query, and the runner-up."""
        for pair in layer.pairs:
            rows = [("matched to", pair.query)]
            rows += [] if pair.runner_up is None else [("runner-up", pair.runner_up)]
            for role, query in rows:
                first = query == pair.query
                yield (
                    f"{pair.target} {self.target_name(pair.target)}" if first else role,
                    query,
                    f"{self.class_name(int(layer.labels[query]))} {layer.scores[query]:.3f}",
                    *(
                        f"{self.cost_weights[name] * values[query, pair.target]:z.2f}"
                        for name, values in layer.terms.items()
                    ),
                    number(layer.total[query, pair.target]),
                    number(pair.margin) if first else "",
                    (pair.decided or "") if first else "",
                )

    def _losses(self, layer: LayerMatching) -> Iterator[tuple[Cell, ...]]:
        """A row for each object, and one for the unmatched queries."""
        assert self.decoder.losses is not None
        losses = self.decoder.losses[layer.layer]
        rows = [(str(n), self.target_name(n), row) for n, row in enumerate(losses.targets)]
        for name, label, terms in [*rows, ("none", "no object", losses.unmatched)]:
            share = terms.sum() / losses.total if losses.total else 0.0
            yield name, label, *map(number, terms), number(terms.sum()), f"{share:.0%}"

    def _groups(self) -> Iterator[tuple[Cell, ...]]:
        for group in self.groups:
            last = group.layers[-1]
            loss = None if group.losses is None else group.losses[-1].total
            yield group.name, len(group.layers), len(last.boxes), len(last.pairs), number(loss)

    def _missed(self) -> Iterator[tuple[Cell, ...]]:
        for one in self.missed:
            for i, answer in enumerate(one.answers):
                yield (
                    f"{one.target} {self.target_name(one.target)}" if i == 0 else "",
                    answer.layer,
                    answer.query,
                    f"{self.class_name(answer.label)} {number(answer.score)}".strip(),
                    number(answer.own_score),
                    "" if answer.iou is None else f"{answer.iou:.2f}",
                    self.why(answer),
                )


def match_report(
    session: InspectionSession,
    place: int = 0,
    *,
    layers: str | int = "last",
    threshold: float = 0.7,
    other_weights: Mapping[str, float] | None = None,
) -> MatchReport:
    """Explain the matching of an image of a split, by its place.

    `layers` are the decoder layers that are shown: last, all, or one from 0. `other_weights` of the costs, by the
    names of their terms, tell which pairs they would change.
    """
    loss, matcher = session.loss, matcher_of(session.loss)
    other = reweighted(matcher, other_weights or {})
    example = session.example(place)
    output = session.output(example)
    shown = chosen_layers(layers, len(output.decoder))
    decoder, *groups = (explain_group(group, example.target, loss) for group in output.groups)
    height, width = session.size(place)
    return MatchReport(
        image_id=example.image_id,
        file=str(session.path(place)),
        height=height,
        width=width,
        placement=session.placement(place),
        classes=session.classes,
        annotation_ids=session.annotation_ids(place),
        threshold=threshold,
        cost_weights=matcher.weights,
        other_weights=other.weights,
        decoder=decoder,
        groups=groups,
        shown=shown,
        other_queries=(
            decoder.queries if other.weights == matcher.weights else queries_of(output.decoder, example.target, other)
        ),
        missed=missed(decoder.layers, example.target, threshold),
        extra=extra(decoder.layers[-1], example.target, threshold),
        unknown=session.unknown.get(example.image_id, ()),
    )


def formula(weights: Mapping[str, float]) -> str:
    """The matching cost as a sum."""
    return " + ".join(f"{weight:g} {name}" for name, weight in weights.items())


def or_none(queries: np.ndarray) -> list[int | None]:
    """Queries of objects, with None for those that none was left for."""
    return [None if query == UNMATCHED else query for query in queries.tolist()]
