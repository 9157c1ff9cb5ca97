"""What the queries of a model are used for over a whole data set, and which objects it finds hardest to match."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import nlargest, nsmallest
from math import inf

import numpy as np

from detrcli.errors import DataError
from detrcli.inspection.losses import ObjectLosses
from detrcli.inspection.matching import Layer, Pair, changed
from detrcli.structures import Target

SIZES = ("small", "medium", "large")
SMALL, MEDIUM = 32**2, 96**2  # pixels of a box' area up to which an object is called so, as COCO does


@dataclass(frozen=True)
class Explained:
    """An image with the matching of every layer, and what its objects cost the last one."""

    place: int  # in the split
    image_id: int
    width: int
    height: int
    target: Target
    layers: Sequence[Layer]
    charges: ObjectLosses  # not normalised, so that objects of different images can be compared


@dataclass(frozen=True)
class HardExample:
    """An object of the data set, and how the last layer was matched with it."""

    place: int
    image_id: int
    target: int
    label: int
    box: np.ndarray  # (4,), cx, cy, w, h in [0, 1]
    pair: Pair
    said: int  # the surest class of its query
    score: float
    found: np.ndarray  # (4,), the box of its query
    loss: np.ndarray  # (3,): class, l1, giou, weighted

    @property
    def whole_loss(self) -> float:
        """All terms together."""
        return float(self.loss.sum())


@dataclass(frozen=True)
class Usage:
    """I images with T objects, seen by Q queries in L layers; but for `moved` all is of the last layer."""

    images: int
    targets: int
    used: np.ndarray  # (Q, K), to how many objects of each class a query was given
    sizes: np.ndarray  # (Q, 3), of SIZES
    centres: np.ndarray  # (Q, 2), cx, cy of its objects on average; NaN where it has none
    sure: np.ndarray  # (Q,), how often it was a detection
    boxes: np.ndarray  # (Q, I, 4), all that it predicted
    image_sizes: np.ndarray  # (I, 2), height and width
    moved: np.ndarray  # (L - 1,), objects with another query than in the layer before
    closest: Sequence[HardExample]  # of the smallest margins, the smallest first
    worst: Sequence[HardExample]  # of the largest losses, the largest first

    @property
    def dead(self) -> list[int]:
        """The queries that were given no object at all."""
        return np.flatnonzero(self.used.sum(1) == 0).tolist()


def usage(images: Iterable[Explained], classes: int, threshold: float, most: int) -> Usage:
    """Go through the images once; `most` closest and worst objects are kept."""
    count = targets = 0
    used: dict[int, list[tuple[int, int, float, float]]] = {}  # query -> label, size, cx, cy of its objects
    boxes, image_sizes, sure, moved = [], [], [], []
    closest: list[HardExample] = []
    worst: list[HardExample] = []
    for image in images:
        last, target = image.layers[-1], image.target
        count += 1
        targets += len(target.labels)
        boxes.append(last.boxes)
        image_sizes.append((image.height, image.width))
        sure.append(last.scores >= threshold)
        queries = np.stack([layer.queries for layer in image.layers])  # (L, N)
        moved.append(changed(queries[:-1], queries[1:]).sum(1))
        cases = list(_cases(image))
        for case in cases:
            cx, cy, w, h = case.box.tolist()
            size = int(np.searchsorted((SMALL, MEDIUM), w * h * image.width * image.height))
            used.setdefault(case.pair.query, []).append((case.label, size, cx, cy))
        closest = nsmallest(most, [*closest, *cases], key=_margin)
        worst = nlargest(most, [*worst, *cases], key=lambda case: case.whole_loss)
    if not boxes:
        raise DataError("No picture of this split could be read.")
    number = len(boxes[0])
    by_class, by_size = np.zeros((number, classes), dtype=int), np.zeros((number, len(SIZES)), dtype=int)
    centres = np.full((number, 2), np.nan)
    for query, objects in used.items():
        for label, size, *_ in objects:
            by_class[query, label] += 1
            by_size[query, size] += 1
        centres[query] = np.mean([one[2:] for one in objects], axis=0)
    return Usage(
        images=count,
        targets=targets,
        used=by_class,
        sizes=by_size,
        centres=centres,
        sure=np.sum(sure, axis=0),
        boxes=np.stack(boxes, axis=1),
        image_sizes=np.array(image_sizes),
        moved=np.sum(moved, axis=0),
        closest=[case for case in closest if case.pair.margin is not None],
        worst=worst,
    )


def _cases(image: Explained) -> Iterable[HardExample]:
    last = image.layers[-1]
    for pair in last.pairs:
        yield HardExample(
            place=image.place,
            image_id=image.image_id,
            target=pair.target,
            label=int(image.target.labels[pair.target]),
            box=image.target.boxes[pair.target].numpy(),
            pair=pair,
            said=int(last.labels[pair.query]),
            score=float(last.scores[pair.query]),
            found=last.boxes[pair.query],
            loss=image.charges.targets[pair.target],
        )


def _margin(case: HardExample) -> float:
    return inf if case.pair.margin is None else case.pair.margin
