"""The use of a model's queries over a split, and the objects that are hardest to match."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import nlargest, nsmallest
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detrcli.errors import DataError
from detrcli.inspection.maps import boxes_to_image
from detrcli.inspection.matching import GroupMatching, explain_group, matcher_of
from detrcli.inspection.session import InspectionSession
from detrcli.inspection.tables import Cell, Table, class_entry, left_out, number, rounded
from detrcli.losses.criterion import Criterion
from detrcli.structures import Classes
from detrcli.system.text import preview

SIZES = ("small", "medium", "large")
SMALL, MEDIUM = 32**2, 96**2  # largest areas of small and medium objects in pixels, as in COCO
EXAMPLES = 16  # how many objects with the smallest margins and the largest losses are kept
QUERIES_SHOWN = 10  # in the table


class HardExample(NamedTuple):
    """An object and its matched query in the last layer."""

    image_index: int  # in the split
    margin: float  # the increase of the minimum cost without the pair; infinite if no other pair is possible
    loss: float  # weighted and not normalized; 0 if the loss has no known terms
    document: Mapping[str, Any]  # the object, the prediction and the numbers above for JSON


@dataclass(frozen=True)
class Usage:
    """The use of Q queries in I images with T objects, in the last of L layers, except `moved`."""

    classes: Classes
    threshold: float  # the minimum score of a detection
    cost_weights: Mapping[str, float]
    loss_terms: Sequence[str]  # the names of the M terms of the loss; empty if the loss has no known terms
    images: int
    targets: int
    used: np.ndarray  # (Q, K), the number of objects of each class that a query was matched to
    sizes: np.ndarray  # (Q, 3), the number of objects of each of SIZES
    centers: np.ndarray  # (Q, 2), the mean cx, cy of the objects of a query; NaN without objects
    detected: np.ndarray  # (Q,), the number of images in which the query is a detection
    boxes: np.ndarray  # (Q, I, 4), all predicted boxes, cxcywh in [0, 1] relative to the image
    image_sizes: np.ndarray  # (I, 2), height and width
    moved: np.ndarray  # (L - 1,), the number of objects matched to another query than in the previous layer
    closest: Sequence[HardExample]  # by ascending margin
    worst: Sequence[HardExample]  # by descending loss
    unknown: Sequence[str] = ()  # classes of objects that were left out because the weights do not have them

    @property
    def dead(self) -> list[int]:
        """The queries that were matched to no object."""
        return np.flatnonzero(self.used.sum(1) == 0).tolist()

    @property
    def summary(self) -> list[str]:
        dead = f" ({preview([str(query) for query in self.dead], 20)})" if self.dead else ""
        return [
            f"{self.images:,} images, {self.targets:,} objects: {len(self.dead)} of {len(self.used)} queries "
            f"were matched to none{dead}",
            *left_out(self.unknown),
        ]

    def tables(self) -> Iterator[Table]:
        if not self.targets:
            return
        counts, names = self.used.sum(1), self.classes.names
        order = np.argsort(-counts, kind="stable")[:QUERIES_SHOWN].tolist()
        rows: list[Sequence[Cell]] = []
        for query in order:
            if counts[query]:
                used = self.used[query]
                labels = [label for label in np.argsort(-used, kind="stable").tolist() if used[label]]
                classes = preview([f"{names[label]} {used[label]:,}" for label in labels], 5)
                center = (f"{value:.2f}" for value in self.centers[query])
                numbers = (int(counts[query]), int(self.detected[query]), *self.sizes[query].tolist())
                rows.append((query, *numbers, *center, classes))
        columns = ("query", "objects", "detections", *SIZES, "cx", "cy", "classes")
        yield Table(f"the {len(order)} queries that were matched most often", columns, rows)
        if len(self.moved):
            rows = [(i, moved, f"{moved / self.targets:.1%}") for i, moved in enumerate(self.moved.tolist(), 1)]
            title = "objects with another query than in the previous layer"
            yield Table(title, ("layer", "objects", "share"), rows)
        columns = ("image", "file", "object", "class", "query", "predicts", "score", "runner-up", "margin")
        losses = (*self.loss_terms, "total") if self.loss_terms else ()
        for title, examples in (
            ("the smallest margins: a small change would match another query", self.closest),
            ("the largest losses: labels that may be wrong", self.worst),
        ):
            rows = []
            for entry in (example.document for example in examples):
                image = (str(entry["image"]["id"]), Path(entry["image"]["file"]).name)
                query = (entry["query"], entry["says"]["label"], number(entry["score"]), entry["runner_up"])
                numbers = (number(entry["margin"]), *(number(entry["loss"][name]) for name in losses))
                rows.append((*image, entry["target"], entry["label"], *query, *numbers))
            if rows:
                yield Table(title, (*columns, *(name.replace("total", "loss") for name in losses)), rows)

    def document(self) -> dict[str, Any]:
        return {
            "schema": "detr.match-debug-all/1",
            "images": self.images,
            "targets": self.targets,
            "left_out": dict(Counter(self.unknown)),
            "threshold": self.threshold,
            "cost_weights": dict(self.cost_weights),
            "queries": [
                {
                    "query": query,
                    "used": int(self.used[query].sum()),
                    "sure": int(self.detected[query]),
                    "classes": [
                        {**class_entry(self.classes, label), "targets": int(self.used[query, label])}
                        for label in np.flatnonzero(self.used[query]).tolist()
                    ],
                    "sizes": dict(zip(SIZES, self.sizes[query].tolist(), strict=True)),
                    "centre": rounded(self.centers[query]) if self.used[query].any() else None,
                }
                for query in range(len(self.used))
            ],
            "dead": self.dead,
            "instability": [
                {"layer": i, "changed": moved, "share": rounded(moved / max(1, self.targets))}
                for i, moved in enumerate(self.moved.tolist(), 1)
            ],
            "smallest_margins": [dict(example.document) for example in self.closest],
            "largest_losses": [dict(example.document) for example in self.worst],
        }


class UsageCounter:
    """Adds up the use of queries, image by image."""

    def __init__(self, session: InspectionSession, threshold: float, examples: int = EXAMPLES) -> None:
        self._session, self._threshold, self._examples = session, threshold, examples
        loss = session.loss
        self._loss_terms = tuple(term.name for term in loss.terms) if isinstance(loss, Criterion) else ()
        self._matched: list[tuple[int, int, int, float, float]] = []  # query, label, index in SIZES, cx, cy
        self._targets = 0
        # For each image: its size, boxes (Q, 4), which queries are detections (Q,), how many objects moved (L - 1,).
        self._images: list[tuple[tuple[int, int], np.ndarray, np.ndarray, np.ndarray]] = []
        self._closest: list[HardExample] = []
        self._worst: list[HardExample] = []

    def add(self, index: int, image_id: int, matching: GroupMatching) -> None:
        """Add an image of the session. Its losses must not be normalized, so that images can be compared."""
        session, last, queries = self._session, matching.layers[-1], matching.queries  # queries: (L, N)
        (height, width), placement = session.size(index), session.placement(index)
        moved, detected = (queries[1:] != queries[:-1]).sum(1), last.scores >= self._threshold
        self._targets += len(matching.target)
        self._images.append(((height, width), boxes_to_image(last.boxes, placement), detected, moved))
        boxes = boxes_to_image(matching.target.boxes.numpy(), placement)  # (N, 4)
        examples = []
        for pair in last.pairs:
            label, box = int(matching.target.labels[pair.target]), boxes[pair.target]
            cx, cy, w, h = box.tolist()
            size = int(np.searchsorted((SMALL, MEDIUM), w * h * width * height))
            self._matched.append((pair.query, label, size, cx, cy))
            document = {
                "image": {"id": image_id, "file": str(session.path(index))},
                "target": pair.target,
                **class_entry(session.classes, label),
                "box": rounded(box),
                "query": pair.query,
                "says": class_entry(session.classes, int(last.labels[pair.query])),
                "score": rounded(last.scores[pair.query]),
                "runner_up": pair.runner_up,
                "margin": None if pair.margin is None else rounded(pair.margin),
            }
            loss = 0.0
            if matching.losses is not None:
                terms = matching.losses[-1].targets[pair.target]  # (M,)
                loss = float(terms.sum())
                parts = zip(self._loss_terms, rounded(terms), strict=True)
                document["loss"] = {"total": rounded(loss), **dict(parts)}
            examples.append(HardExample(index, inf if pair.margin is None else pair.margin, loss, document))
        closest = [*self._closest, *(example for example in examples if example.margin < inf)]
        self._closest = nsmallest(self._examples, closest, key=lambda example: example.margin)
        self._worst = nlargest(self._examples, [*self._worst, *examples], key=lambda example: example.loss)

    def usage(self) -> Usage:
        """Return the use of queries over all images. Raises DataError if there are none."""
        if not self._images:
            raise DataError("No image of the split could be read.")
        image_sizes, boxes, detected, moved = zip(*self._images, strict=True)
        Q = len(boxes[0])
        used, sizes = np.zeros((Q, len(self._session.classes)), dtype=int), np.zeros((Q, len(SIZES)), dtype=int)
        centers = np.full((Q, 2), np.nan)
        objects = np.array(self._matched).reshape(-1, 5)
        queries, labels, size_indices = objects[:, :3].astype(int).T
        np.add.at(used, (queries, labels), 1)
        np.add.at(sizes, (queries, size_indices), 1)
        for query in np.unique(queries):
            centers[query] = objects[queries == query, 3:].mean(0)
        return Usage(
            classes=self._session.classes,
            threshold=self._threshold,
            cost_weights=matcher_of(self._session.loss).weights,
            loss_terms=self._loss_terms,
            images=len(boxes),
            targets=self._targets,
            used=used,
            sizes=sizes,
            centers=centers,
            detected=np.sum(detected, axis=0),
            boxes=np.stack(boxes, axis=1),
            image_sizes=np.array(image_sizes),
            moved=np.sum(moved, axis=0),
            closest=self._closest,
            worst=self._worst if self._loss_terms else [],
        )


def query_usage(session: InspectionSession, *, threshold: float = 0.7, examples: int = EXAMPLES) -> Usage:
    """Match all images of a split, and keep the `examples` objects with the smallest margins and largest losses."""
    counter = UsageCounter(session, threshold, examples)
    with session.reporter.progress("matching images", len(session)) as advance:
        for index, example, output in session:
            matching = explain_group(output.decoder, example.target, session.loss, normalized=False)
            counter.add(index, example.image_id, matching)
            advance(1)
    return replace(counter.usage(), unknown=[name for names in session.unknown.values() for name in names])
