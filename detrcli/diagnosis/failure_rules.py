"""Rules about a model's errors: labels and boxes that consistently differ from those it was trained on."""

from collections.abc import Iterator, Mapping

import numpy as np

from detrcli.diagnosis.finding import ANNOTATIONS, BROKEN, LITTLE, SETTINGS, Finding
from detrcli.evaluation.pairing import SAME, by_image, overlaps
from detrcli.inspection.failures import Failures
from detrcli.messages import argument

MIN_OBJECTS = 20  # for any conclusion
MIN_SCORE = 0.2  # of the predictions that count


def of_failures(val: Failures, train: Failures | None) -> Iterator[Finding]:
    """Yield the findings about the predictions on val, and on images that the model was trained on."""
    yield from _of_geometry(val)
    if train is not None:
        yield from _of_labels(val, train)
        yield from _of_annotations(train)
        yield from _of_generalization(val, train)


def _overlapping(failures: Failures, boxes: np.ndarray) -> float:
    """Return the share of objects that, with these boxes (N, 4), overlap a prediction of any class by half."""
    truth, results = failures.truth, failures.results
    predictions = by_image(results.image_ids, results.scores >= MIN_SCORE)
    best = np.zeros(len(boxes))
    for image, objects in by_image(truth.of_image, ~truth.crowd).items():
        if image in predictions:
            best[objects] = overlaps(results.boxes[predictions[image]], boxes[objects]).max(0)
    return float((best[~truth.crowd] >= SAME).mean())


def _of_geometry(failures: Failures) -> Iterator[Finding]:
    """Look for another reading of the boxes that fits the predictions."""
    truth, split = failures.truth, failures.split
    if (~truth.crowd).sum() < MIN_OBJECTS:
        return
    widths = {image.image_id: failures.session.size(image.index)[1] for image in failures.survey.images}
    width = np.array([widths[image] for image in truth.of_image.tolist()], dtype=float)
    boxes = truth.boxes
    x, y, w, h = boxes.T
    readings: Mapping[str, np.ndarray] = {
        "centers (cx, cy, width, height)": np.stack([x - w / 2, y - h / 2, w, h], 1),
        "transposed boxes (y, x, height, width)": boxes[:, [1, 0, 3, 2]],
        "boxes of images twice as large": boxes / 2,
        "boxes of images half as large": boxes * 2,
        "boxes of mirrored images": np.stack([width - x - w, y, w, h], 1),
    }
    fits = {reading: _overlapping(failures, read) for reading, read in readings.items()}
    share, reading = _overlapping(failures, boxes), max(fits, key=lambda key: fits[key])
    if fits[reading] > max(0.35, 1.7 * share):
        evidence = f"Predictions overlap {share:.0%} of the objects by half; with this reading {fits[reading]:.0%}."
        remedy = f"Write the boxes of {split} like those of train."
        yield Finding(f"The boxes of {split} look like {reading}, unlike those of train.", evidence, remedy, BROKEN + 4)


def _of_labels(failures: Failures, train: Failures) -> Iterator[Finding]:
    """Look for classes that consistently differ from those of train."""
    K = len(failures.truth.classes)
    confused, confused_on_train = _confused(failures), _confused(train)  # (K, K)
    total = confused.sum()
    if K < 2 or min(total, confused_on_train.sum()) < MIN_OBJECTS:
        return
    right, right_on_train = (float(np.trace(counts) / counts.sum()) for counts in (confused, confused_on_train))
    if right_on_train < 0.4 or right > 0.5 * right_on_train:
        return
    shares = {shift: float(np.trace(np.roll(confused, -shift, axis=1)) / total) for shift in range(1, K)}
    shift = max(shares, key=lambda key: shares[key])
    off_by_one = shares[shift] > right and shares[shift] > 0.4 and shift in (1, K - 1)
    numbering = "off by one compared with" if off_by_one else "numbered differently than in"
    yield Finding(
        f"The class labels of {failures.split} are {numbering} train.",
        f"Of {int(total):,} objects with a matching box, {right:.0%} have the predicted class; on train "
        f"{right_on_train:.0%}.",
        "Compare the categories of both annotation files, or the names in data.yaml.",
        BROKEN + 3,
    )


def _confused(failures: Failures) -> np.ndarray:
    """Count objects by class and by predicted class, (K, K), of the overlapping prediction with the highest score."""
    truth, results = failures.truth, failures.results
    ids = truth.classes.ids
    confused = np.zeros((len(ids), len(ids)))
    predictions = by_image(results.image_ids, (results.scores >= MIN_SCORE) & np.isin(results.category_ids, ids))
    for n in np.flatnonzero(~truth.crowd).tolist():
        own = predictions.get(int(truth.of_image[n]), np.zeros(0, dtype=int))
        own = own[overlaps(results.boxes[own], truth.boxes[[n]])[:, 0] >= SAME]
        if len(own):
            best = own[results.scores[own].argmax()]
            k, j = np.searchsorted(ids, [truth.of_category[n], results.category_ids[best]])
            confused[k, j] += 1
    return confused


def _of_annotations(train: Failures) -> Iterator[Finding]:
    """Look for annotations that the model disagrees with, though it was trained on them."""
    objects = train.outcomes.objects
    if objects < MIN_OBJECTS:
        return
    sure = {kind: [suspect for suspect in members if suspect.score >= 0.5] for kind, members in train.suspects.items()}
    # A weak model confuses classes without any fault of the labels.
    sure["wrong_label"] = [suspect for suspect in sure["wrong_label"] if suspect.suspicion >= 0.6]
    for kind, limit, finding in (
        ("wrong_label", 0.08, "Many labels of train are wrong."),
        ("missing_label", 0.10, "Many objects of train are not annotated."),
        ("loose_box", 0.14, "Many boxes of train are loose."),
    ):
        share = len(sure[kind]) / objects
        if share > limit:
            yield Finding(
                finding,
                f"The model confidently predicts otherwise in {len(sure[kind]):,} places, for {objects:,} objects.",
                f"`detr report RUN` with {argument('split', 'train')} and {argument('folds', 3)} shows them.",
                ANNOTATIONS + min(6.0, share / limit),
            )


def _of_generalization(val: Failures, train: Failures) -> Iterator[Finding]:
    """Compare AP on val and on train."""
    on_val, on_train = val.scores.metrics["AP"], train.scores.metrics["AP"]
    if on_train <= 0.3 or on_val >= 0.5 * on_train:
        return
    of_val, of_train = _brightness(val), _brightness(train)
    difference = (abs(of_val - of_train) / np.maximum(of_train, 1e-3)).max()
    evidence = f"AP is {on_train:.3f} on train and {on_val:.3f} on val"
    if difference > 0.35:
        finding = "The images of val look different from those of train."
        evidence += f"; mean and contrast differ by {difference:.0%}"
        remedy = "Split the data at random, or train on images like those of val."
        yield Finding(finding, f"{evidence}.", remedy, SETTINGS + 4)
    else:
        finding = "The model overfits: it has memorized its training images."
        remedy = f"Use {argument('augmentation', 'strong')}, start from trained weights, or annotate more."
        yield Finding(finding, f"{evidence}.", remedy, LITTLE + 7)


def _brightness(failures: Failures) -> np.ndarray:
    """Return mean and standard deviation of the pixels of some images, in [0, 1]."""
    images = failures.survey.images[:: max(1, len(failures.survey.images) // 24)]
    pixels = [np.asarray(failures.session.image(image.index), dtype=np.float32) / 255 for image in images]
    return np.mean([[values.mean(), values.std()] for values in pixels], axis=0)
