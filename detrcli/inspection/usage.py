"""What the queries of a model are used for over a whole data set, and which objects it finds hardest to match."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import nlargest, nsmallest
from math import inf
from typing import Any

import numpy as np

from detrcli.errors import DataError
from detrcli.inspection.explained import GroupMatching, explain_group, matcher_of, of_picture
from detrcli.inspection.matching import Pair, changed
from detrcli.inspection.session import InspectionSession
from detrcli.inspection.tables import Cell, Table, class_of, left_out, number, rounded
from detrcli.losses.criterion import Criterion
from detrcli.resize import Placement
from detrcli.structures import Classes
from detrcli.system.text import preview

SIZES = ("small", "medium", "large")
SMALL, MEDIUM = 32**2, 96**2  # pixels of a box' area up to which an object is called so, as COCO does
MOST = 16  # of the closest and the worst objects, unless told otherwise
SHOWN = 10  # queries in the table; the document has all


@dataclass(frozen=True)
class ExplainedImage:
    """An image with the matching of every decoder layer, and its losses, not normalised: so images compare."""

    place: int  # in the split
    image_id: int
    file: str
    height: int
    width: int
    placement: Placement  # of the picture in the network's input
    matching: GroupMatching


@dataclass(frozen=True)
class HardExample:
    """An object of the data set, and how the last layer was matched with it. Boxes are in [0, 1] of the picture."""

    place: int
    image_id: int
    file: str
    target: int
    label: int
    box: np.ndarray  # (4,), cx, cy, w, h
    pair: Pair
    predicted: int  # the likeliest class of its query
    score: float
    loss: np.ndarray | None  # (M,), of each term, weighted; None where the loss cannot be taken apart

    @property
    def total_loss(self) -> float:
        """All terms together."""
        return 0.0 if self.loss is None else float(self.loss.sum())

    @property
    def margin(self) -> float:
        """By how much the least cost rises without the pair; without bound where nothing else can be paired."""
        return inf if self.pair.margin is None else self.pair.margin


@dataclass(frozen=True)
class Usage:
    """I images with T objects, seen by Q queries in L layers; but for `moved` all is of the last layer."""

    classes: Classes
    threshold: float  # the score from which a query is a detection
    cost_weights: Mapping[str, float]
    loss_terms: Sequence[str]  # the names of the M terms of the loss; none where it cannot be taken apart
    images: int
    targets: int
    used: np.ndarray  # (Q, K), how many objects of each class a query was matched to
    sizes: np.ndarray  # (Q, 3), of SIZES
    centres: np.ndarray  # (Q, 2), cx, cy of its objects on average; NaN where it has none
    sure: np.ndarray  # (Q,), how often it was a detection
    boxes: np.ndarray  # (Q, I, 4), all that it predicted, in [0, 1] of the pictures
    image_sizes: np.ndarray  # (I, 2), height and width
    moved: np.ndarray  # (L - 1,), objects with another query than in the layer before
    closest: Sequence[HardExample]  # of the smallest margins, the smallest first
    worst: Sequence[HardExample]  # of the largest losses, the largest first
    unknown: Sequence[str] = ()  # the classes of objects that the weights do not know: those were left out

    @property
    def dead(self) -> list[int]:
        """The queries that were matched to no object at all."""
        return np.flatnonzero(self.used.sum(1) == 0).tolist()

    @property
    def summary(self) -> list[str]:
        """What the tables are about."""
        dead = f" ({preview([str(query) for query in self.dead], 20)})" if self.dead else ""
        return [
            f"{self.images:,} pictures, {self.targets:,} objects: {len(self.dead)} of {len(self.used)} queries "
            f"were matched to none{dead}",
            *filter(None, [left_out(self.unknown)]),
        ]

    def tables(self) -> list[Table]:
        """All of it for people."""
        if not self.targets:
            return []
        counts = self.used.sum(1)
        order = np.argsort(-counts, kind="stable")[:SHOWN].tolist()
        tables = [
            Table(
                f"the {len(order)} queries that were matched most",
                ("query", "objects", "sure", *SIZES, "cx", "cy", "classes"),
                [
                    (
                        query,
                        int(counts[query]),
                        int(self.sure[query]),
                        *self.sizes[query].tolist(),
                        *(f"{value:.2f}" for value in self.centres[query]),
                        self._classes(query),
                    )
                    for query in order
                    if counts[query]
                ],
            )
        ]
        if len(self.moved):
            tables.append(
                Table(
                    "objects whose query is another than in the layer before",
                    ("layer", "objects", "share"),
                    [(i, moved, f"{moved / self.targets:.1%}") for i, moved in enumerate(self.moved.tolist(), 1)],
                )
            )
        for title, examples in (
            ("the smallest margins: a little less and they would have another query", self.closest),
            ("the largest losses: look here for wrong labels", self.worst),
        ):
            if examples:
                loss = (*self.loss_terms, "loss") if self.loss_terms else ()
                columns = ("image", "file", "object", "class", "query", "predicts", "score", "runner-up", "margin")
                tables.append(Table(title, (*columns, *loss), [self._row(one) for one in examples]))
        return tables

    def document(self) -> dict[str, Any]:
        """All of it for programs."""
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
                    "sure": int(self.sure[query]),
                    "classes": [
                        {**class_of(self.classes, label), "targets": int(self.used[query, label])}
                        for label in np.flatnonzero(self.used[query]).tolist()
                    ],
                    "sizes": dict(zip(SIZES, self.sizes[query].tolist(), strict=True)),
                    "centre": rounded(self.centres[query]) if self.used[query].any() else None,
                }
                for query in range(len(self.used))
            ],
            "dead": self.dead,
            "instability": [
                {"layer": i, "changed": moved, "share": rounded(moved / max(1, self.targets))}
                for i, moved in enumerate(self.moved.tolist(), 1)
            ],
            "smallest_margins": [self._example(one) for one in self.closest],
            "largest_losses": [self._example(one) for one in self.worst],
        }

    def _example(self, one: HardExample) -> dict[str, Any]:
        pair = one.pair
        entry = {
            "image": {"id": one.image_id, "file": one.file},
            "target": one.target,
            **class_of(self.classes, one.label),
            "box": rounded(one.box),
            "query": pair.query,
            "says": class_of(self.classes, one.predicted),
            "score": rounded(one.score),
            "runner_up": pair.runner_up,
            "margin": None if pair.margin is None else rounded(pair.margin),
        }
        if one.loss is not None:
            terms = dict(zip(self.loss_terms, rounded(one.loss), strict=True))
            entry["loss"] = {"total": rounded(one.total_loss), **terms}
        return entry

    def _row(self, one: HardExample) -> tuple[Cell, ...]:
        loss = () if one.loss is None else (*map(number, one.loss), number(one.total_loss))
        return (
            str(one.image_id),
            one.file.replace("\\", "/").rpartition("/")[2],
            one.target,
            str(self.classes.names[one.label]),
            one.pair.query,
            str(self.classes.names[one.predicted]),
            number(one.score),
            one.pair.runner_up,
            number(one.pair.margin),
            *loss,
        )

    def _classes(self, query: int) -> str:
        """The classes of its objects, the commonest first."""
        used = self.used[query]
        order = [label for label in np.argsort(-used, kind="stable").tolist() if used[label]]
        return preview([f"{self.classes.names[label]} {used[label]:,}" for label in order], 5)


def usage(
    session: InspectionSession, *, threshold: float = 0.7, most: int = MOST, advance: Callable[[], None] = lambda: None
) -> Usage:
    """Match all images of a split; the `most` closest and worst objects are kept. `advance` is called after each."""

    def counted() -> Iterator[ExplainedImage]:
        for image in explained_images(session):
            yield image
            advance()

    loss = session.loss
    terms = tuple(term.name for term in loss.terms) if isinstance(loss, Criterion) else ()
    found = summed(counted(), session.classes, matcher_of(loss).weights, terms, threshold, most)
    return replace(found, unknown=[name for names in session.unknown.values() for name in names])


def explained_images(session: InspectionSession) -> Iterator[ExplainedImage]:
    """All images of a split, each with its matching."""
    loss = session.loss
    ones = {term.name: 1.0 for term in loss.terms} if isinstance(loss, Criterion) else None
    for i, example, output in session:
        matching = explain_group(output.decoder, example.target, loss, ones)
        yield explained(session, i, example.image_id, matching)


def explained(session: InspectionSession, place: int, image_id: int, matching: GroupMatching) -> ExplainedImage:
    """An image of a split with its matching."""
    height, width = session.size(place)
    return ExplainedImage(
        place=place,
        image_id=image_id,
        file=str(session.path(place)),
        height=height,
        width=width,
        placement=session.placement(place),
        matching=matching,
    )


def summed(
    images: Iterable[ExplainedImage],
    classes: Classes,
    cost_weights: Mapping[str, float],
    loss_terms: Sequence[str],
    threshold: float,
    most: int,
) -> Usage:
    """Go through the images once."""
    count = targets = 0
    used: dict[int, list[tuple[int, int, float, float]]] = {}  # query -> label, size, cx, cy of its objects
    boxes, image_sizes, sure, moved = [], [], [], []
    closest: list[HardExample] = []
    worst: list[HardExample] = []
    for image in images:
        last, queries = image.matching.layers[-1], image.matching.queries  # (L, N)
        count += 1
        targets += queries.shape[1]
        boxes.append(of_picture(last.boxes, image.placement))
        image_sizes.append((image.height, image.width))
        sure.append(last.scores >= threshold)
        moved.append(changed(queries[:-1], queries[1:]).sum(1))
        examples = list(_examples(image))
        for one in examples:
            cx, cy, w, h = one.box.tolist()
            size = int(np.searchsorted((SMALL, MEDIUM), w * h * image.width * image.height))
            used.setdefault(one.pair.query, []).append((one.label, size, cx, cy))
        closest = nsmallest(most, [*closest, *examples], key=lambda one: one.margin)
        worst = nlargest(most, [*worst, *examples], key=lambda one: one.total_loss)
    if not boxes:
        raise DataError("No picture of this split could be read.")
    number_of_queries = len(boxes[0])
    by_class = np.zeros((number_of_queries, len(classes)), dtype=int)
    by_size = np.zeros((number_of_queries, len(SIZES)), dtype=int)
    centres = np.full((number_of_queries, 2), np.nan)
    for query, objects in used.items():
        for label, size, *_ in objects:
            by_class[query, label] += 1
            by_size[query, size] += 1
        centres[query] = np.mean([one[2:] for one in objects], axis=0)
    return Usage(
        classes=classes,
        threshold=threshold,
        cost_weights=cost_weights,
        loss_terms=loss_terms,
        images=count,
        targets=targets,
        used=by_class,
        sizes=by_size,
        centres=centres,
        sure=np.sum(sure, axis=0),
        boxes=np.stack(boxes, axis=1),
        image_sizes=np.array(image_sizes),
        moved=np.sum(moved, axis=0),
        closest=[one for one in closest if one.pair.margin is not None],
        worst=worst if loss_terms else [],
    )


def _examples(image: ExplainedImage) -> Iterator[HardExample]:
    matching = image.matching
    last, target = matching.layers[-1], matching.target
    objects = of_picture(target.boxes.numpy(), image.placement)
    for pair in last.pairs:
        yield HardExample(
            place=image.place,
            image_id=image.image_id,
            file=image.file,
            target=pair.target,
            label=int(target.labels[pair.target]),
            box=objects[pair.target],
            pair=pair,
            predicted=int(last.labels[pair.query]),
            score=float(last.scores[pair.query]),
            loss=None if matching.losses is None else matching.losses[-1].targets[pair.target],
        )
