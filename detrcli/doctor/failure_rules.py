"""What a model's own mistakes say of the data: labels and boxes that are consistently other than what it learned."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from detrcli.doctor.finding import ANNOTATIONS, BROKEN, LITTLE, SETTINGS, Finding
from detrcli.evaluation.pairing import SAME, by_image, overlaps
from detrcli.inspection.failures import Failures

ENOUGH = 20  # objects, below which nothing is concluded
HEARD = 0.2  # score of predictions that say something


def of_failures(val: Failures, train: Failures | None) -> Iterator[Finding]:
    """From what a model predicts on val and on pictures that it was trained on."""
    yield from _of_geometry(val)
    if train is not None:
        yield from _of_labels(val, train)
        yield from _of_annotations(train)
        yield from _beside(val, train)


def _best_overlap(failures: Failures, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The best IoU of each object, its box changed, with a prediction of any class, (N,)."""
    truth, results = failures.truth, failures.results
    of_image = by_image(results.image_ids, results.scores >= HEARD)
    best, boxes = np.zeros(len(truth.boxes)), change(truth.boxes)
    for image, own in by_image(truth.of_image, ~truth.crowd).items():
        if image in of_image:
            best[own] = overlaps(results.boxes[of_image[image]], boxes[own]).max(0)
    return best[~truth.crowd]


def _of_geometry(failures: Failures) -> Iterator[Finding]:
    """Whether the boxes would fit, if they were meant in another way."""
    truth = failures.truth
    if (~truth.crowd).sum() < ENOUGH:
        return
    widths = {one.image_id: failures.session.size(one.place)[1] for one in failures.survey.images}
    across = np.array([widths[image] for image in truth.of_image.tolist()], dtype=float)

    def joined(x: np.ndarray, y: np.ndarray, w: np.ndarray, h: np.ndarray) -> np.ndarray:
        return np.stack([x, y, w, h], 1)

    changes: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
        "centres (cx, cy, width, height), where the corner x, y belongs": lambda b: joined(
            b[:, 0] - b[:, 2] / 2, b[:, 1] - b[:, 3] / 2, b[:, 2], b[:, 3]
        ),
        "turned (y, x, height, width), where x, y, width, height belong": lambda b: b[:, [1, 0, 3, 2]],
        "those of pictures twice as large": lambda b: b / 2,
        "those of pictures half as large": lambda b: b * 2,
        "those of mirrored pictures": lambda b: joined(across - b[:, 0] - b[:, 2], b[:, 1], b[:, 2], b[:, 3]),
    }
    plain = _best_overlap(failures, lambda boxes: boxes)
    fits = {what: float((_best_overlap(failures, change) >= SAME).mean()) for what, change in changes.items()}
    share, what = float((plain >= SAME).mean()), max(fits, key=lambda key: fits[key])
    if fits[what] > max(0.35, 1.7 * share):
        yield Finding(
            f"The boxes of {failures.split} look like {what}: those of train are others.",
            f"Predictions overlap {share:.0%} of the objects by half; with their boxes read so, {fits[what]:.0%}.",
            f"Write the boxes of {failures.split} as those of train.",
            BROKEN + 4,
        )


def _of_labels(failures: Failures, train: Failures) -> Iterator[Finding]:
    """Whether the classes of objects are others than on train, in the same way everywhere."""
    ids = failures.truth.classes.ids.tolist()
    said, beside = _said(failures), _said(train)  # (K, K)
    total = said.sum()
    if len(ids) < 2 or total < ENOUGH or beside.sum() < ENOUGH:
        return
    right, right_on_train = float(np.trace(said) / total), float(np.trace(beside) / beside.sum())
    if right_on_train < 0.4 or right > 0.5 * right_on_train:
        return
    shares = {
        shift: float(sum(said[k, (k + shift) % len(ids)] for k in range(len(ids))) / total)
        for shift in range(1, len(ids))
    }
    shift = max(shares, key=lambda key: shares[key])
    by_one = shares[shift] > right and shares[shift] > 0.4 and shift in (1, len(ids) - 1)
    yield Finding(
        f"The labels of {failures.split} are off by one against those of train."
        if by_one
        else f"The classes of {failures.split} are numbered in another way than those of train.",
        f"Of {int(total):,} objects that are boxed right, {right:.0%} have the class that is predicted; on train "
        f"{right_on_train:.0%}.",
        "Compare the categories of both annotation files, or names and numbers of data.yaml.",
        BROKEN + 3,
    )


def _said(failures: Failures) -> np.ndarray:
    """How often an object of a class, down, is predicted as each, across: by the surest prediction in its place."""
    truth, results = failures.truth, failures.results
    ids = truth.classes.ids
    said = np.zeros((len(ids), len(ids)))
    of_image = by_image(results.image_ids, (results.scores >= HEARD) & np.isin(results.category_ids, ids))
    for n in np.flatnonzero(~truth.crowd).tolist():
        found = of_image.get(int(truth.of_image[n]))
        if found is None:
            continue
        ious = overlaps(results.boxes[found], truth.boxes[[n]])[:, 0]
        there = found[ious >= SAME]
        if len(there):
            surest = there[results.scores[there].argmax()]
            k, j = np.searchsorted(ids, [truth.of_category[n], results.category_ids[surest]])
            said[k, j] += 1
    return said


def _of_annotations(train: Failures) -> Iterator[Finding]:
    """How many annotations of train the model disagrees with, though it was trained on them."""
    objects = train.outcomes.objects
    if objects < ENOUGH:
        return
    sure = {kind: [one for one in members if one.score >= 0.5] for kind, members in train.suspects.items()}
    # Classes that a weak model takes for each other are no fault of the labels.
    sure["wrong_label"] = [one for one in sure["wrong_label"] if one.suspicion >= 0.6]
    for kind, limit, finding, remedy in (
        ("wrong_label", 0.08, "Many labels of train are wrong.", "the gallery of wrong labels"),
        ("missing_label", 0.10, "Many objects of train are not annotated.", "the gallery of missing labels"),
        ("loose_box", 0.14, "Many boxes of train are loose.", "the gallery of loose boxes"),
    ):
        share = len(sure[kind]) / objects
        if share > limit:
            yield Finding(
                finding,
                f"At {len(sure[kind]):,} places, for {objects:,} objects, the model is sure of something else.",
                f"Look at {remedy}: detr report RUN --split train --folds 3.",
                ANNOTATIONS + min(6.0, share / limit),
            )


def _beside(val: Failures, train: Failures) -> Iterator[Finding]:
    """What it makes of val, beside what it makes of train."""
    ours, theirs = val.scores.metrics["AP"], train.scores.metrics["AP"]
    if theirs > 0.3 and ours < 0.5 * theirs:
        looks = _looks(val), _looks(train)
        apart = abs(looks[0] - looks[1]) / np.maximum(looks[1], 1e-3)
        if apart.max() > 0.35:
            yield Finding(
                "The pictures of val look other than those of train.",
                f"AP {theirs:.3f} on train and {ours:.3f} on val; mean and contrast differ by {apart.max():.0%}.",
                "Split at random, or train on pictures like those that count.",
                SETTINGS + 4,
            )
        else:
            yield Finding(
                "The model has learned its pictures by heart.",
                f"AP {theirs:.3f} on train and {ours:.3f} on val.",
                "Use --set augmentation=strong, start from trained weights, or annotate more.",
                LITTLE + 7,
            )


def _looks(failures: Failures) -> np.ndarray:
    """Mean and deviation of some pictures, in [0, 1]."""
    images = failures.survey.images[:: max(1, len(failures.survey.images) // 24)]
    values = []
    for one in images:
        pixels = np.asarray(failures.session.picture(one.place), dtype=np.float32) / 255
        values.append([pixels.mean(), pixels.std()])
    looks: np.ndarray = np.mean(values, axis=0)
    return looks
