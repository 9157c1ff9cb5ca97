"""Rules about a model's errors: labels and boxes that consistently differ from those it was trained on."""

from collections.abc import Iterator, Mapping

import numpy as np

from detrcli.diagnosis.finding import ANNOTATIONS, BROKEN, SCARCE, SETTINGS, Finding
from detrcli.evaluation.pairing import FOUND_IOU, by_image, overlaps
from detrcli.inspection.failures import Failures
from detrcli.messages import argument

MIN_OBJECTS = 20  # for any conclusion
MIN_SCORE = 0.2  # of the predictions considered


def failure_findings(val: Failures, train: Failures | None) -> Iterator[Finding]:
    """Yield the findings about the predictions on val, and on images that the model was trained on."""
    yield from _box_findings(val)
    if train is not None:
        yield from _label_findings(val, train)
        yield from _annotation_findings(train)
        yield from _generalization_findings(val, train)


def _detected_share(failures: Failures, boxes: np.ndarray) -> float:
    """Return the share of objects that, with these boxes (N, 4), have an IoU of at least 0.5 with any prediction."""
    truth, results = failures.truth, failures.results
    predictions = by_image(results.image_ids, results.scores >= MIN_SCORE)
    best = np.zeros(len(boxes))
    for image, objects in by_image(truth.of_image, ~truth.crowd).items():
        if image in predictions:
            best[objects] = overlaps(results.boxes[predictions[image]], boxes[objects]).max(0)
    return float((best[~truth.crowd] >= FOUND_IOU).mean())


def _box_findings(failures: Failures) -> Iterator[Finding]:
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
    fits = {reading: _detected_share(failures, converted) for reading, converted in readings.items()}
    share, reading = _detected_share(failures, boxes), max(fits, key=lambda key: fits[key])
    if fits[reading] > max(0.35, 1.7 * share):
        evidence = f"Predictions overlap {share:.0%} of the objects by half; with this reading {fits[reading]:.0%}."
        remedy = f"Write the boxes of {split} like those of train."
        yield Finding(f"The boxes of {split} look like {reading}, unlike those of train.", evidence, remedy, BROKEN + 4)


def _label_findings(val: Failures, train: Failures) -> Iterator[Finding]:
    """Look for classes that consistently differ from those of train."""
    K = len(val.truth.classes)
    confusion, confusion_on_train = _confusion_matrix(val), _confusion_matrix(train)  # (K, K)
    total = confusion.sum()
    if K < 2 or min(total, confusion_on_train.sum()) < MIN_OBJECTS:
        return
    accuracy, on_train = (float(np.trace(counts) / counts.sum()) for counts in (confusion, confusion_on_train))
    if on_train < 0.4 or accuracy > 0.5 * on_train:
        return
    # The share of objects for which the index of the predicted class is that of their own class plus `shift`.
    shares = {shift: float(np.trace(np.roll(confusion, -shift, axis=1)) / total) for shift in range(1, K)}
    shift = max(shares, key=lambda key: shares[key])
    off_by_one = shares[shift] > accuracy and shares[shift] > 0.4 and shift in (1, K - 1)
    numbering = "off by one compared with" if off_by_one else "numbered differently than in"
    yield Finding(
        f"The class labels of {val.split} are {numbering} train.",
        f"Of {int(total):,} objects with a matching box, {accuracy:.0%} have the predicted class; on train "
        f"{on_train:.0%}.",
        "Compare the categories of both annotation files, or the names in data.yaml.",
        BROKEN + 3,
    )


def _confusion_matrix(failures: Failures) -> np.ndarray:
    """Count objects by class and by predicted class, (K, K), of the overlapping prediction with the highest score."""
    truth, results = failures.truth, failures.results
    ids = truth.classes.ids
    confusion = np.zeros((len(ids), len(ids)))
    predictions = by_image(results.image_ids, (results.scores >= MIN_SCORE) & np.isin(results.category_ids, ids))
    for n in np.flatnonzero(~truth.crowd).tolist():
        near = predictions.get(int(truth.of_image[n]), np.zeros(0, dtype=int))
        near = near[overlaps(results.boxes[near], truth.boxes[[n]])[:, 0] >= FOUND_IOU]
        if len(near):
            best = near[results.scores[near].argmax()]
            k, j = np.searchsorted(ids, [truth.of_category[n], results.category_ids[best]])
            confusion[k, j] += 1
    return confusion


def _annotation_findings(train: Failures) -> Iterator[Finding]:
    """Look for annotations that the model disagrees with, though it was trained on them."""
    objects = train.outcomes.objects
    if objects < MIN_OBJECTS:
        return
    sure = {kind: [suspect for suspect in members if suspect.score >= 0.5] for kind, members in train.suspects.items()}
    # A weak model confuses classes even where the labels are correct.
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
                f"The model confidently disagrees in {len(sure[kind]):,} places, for {objects:,} objects.",
                f"`detr report RUN` with {argument('split', 'train')} and {argument('folds', 3)} shows them.",
                ANNOTATIONS + min(6.0, share / limit),
            )


def _generalization_findings(val: Failures, train: Failures) -> Iterator[Finding]:
    """Compare AP on val and on train."""
    on_val, on_train = val.scores.metrics["AP"], train.scores.metrics["AP"]
    if on_train <= 0.3 or on_val >= 0.5 * on_train:
        return
    val_pixels, train_pixels = _pixel_statistics(val), _pixel_statistics(train)
    difference = (abs(val_pixels - train_pixels) / np.maximum(train_pixels, 1e-3)).max()
    evidence = f"AP is {on_train:.3f} on train and {on_val:.3f} on val"
    if difference > 0.35:
        finding = "The images of val look different from those of train."
        evidence += f"; mean and contrast differ by {difference:.0%}"
        remedy = "Split the data at random, or train on images like those of val."
        yield Finding(finding, f"{evidence}.", remedy, SETTINGS + 4)
    else:
        finding = "The model overfits: it has memorized its training images."
        remedy = f"Use {argument('augmentation', 'strong')}, start from trained weights, or annotate more."
        yield Finding(finding, f"{evidence}.", remedy, SCARCE + 7)


def _pixel_statistics(failures: Failures) -> np.ndarray:
    """Return mean and standard deviation, (2,), of the pixels of some images, in [0, 1]."""
    images = failures.survey.images[:: max(1, len(failures.survey.images) // 24)]
    pixels = [np.asarray(failures.session.image(image.index), dtype=np.float32) / 255 for image in images]
    return np.mean([[values.mean(), values.std()] for values in pixels], axis=0)
