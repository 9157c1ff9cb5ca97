"""Rules about annotations: boxes of another format, classes and splits that do not fit, too little data."""

from collections.abc import Iterator, Mapping

import numpy as np

from detrcli.data.checks import Split
from detrcli.data.examine import DatasetReport
from detrcli.diagnosis.finding import ANNOTATIONS, BROKEN, IMPOSSIBLE, LITTLE, REMARK, Finding
from detrcli.inspection.suspects import DUPLICATE_IOU
from detrcli.messages import argument

MIN_BOXES = 20  # for any conclusion
FEW_IMAGES = 60  # in train
FEW_OBJECTS = 10  # of a class in train
FEW_VAL_OBJECTS = 25


def of_data(examined: DatasetReport) -> Iterator[Finding]:
    """Yield the findings about a dataset."""
    errors = (problem for problem in examined.problems if problem.severity == "error")
    if error := next(errors, None):
        yield Finding(
            f"The data has errors: {error.kind} in {error.split or 'the dataset'}.",
            f"{error.where}: {error.what}.",
            "`detr data check` lists all errors.",
            BROKEN + 10,
        )
    for name, split in examined.splits.items():
        yield from _of_boxes(name, split)
        yield from _of_annotations(name, split)
    yield from _of_classes(examined.splits)
    yield from _of_splits(examined)


def _boxes(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes x, y, w, h (N, 4), and width and height of their images (N, 2)."""
    w = split.written
    order = np.argsort(w.image_ids, kind="stable")
    known = np.isin(w.of_image, w.image_ids[split.usable_images]) & np.isfinite(w.boxes).all(1) & ~w.crowd
    image = order[np.searchsorted(w.image_ids, w.of_image[known], sorter=order)]
    return w.boxes[known], split.sizes[image][:, ::-1].astype(float)


def _outside(boxes: np.ndarray, sizes: np.ndarray) -> float:
    """Return the share of boxes that extend beyond their image by more than a twentieth of its size."""
    slack = 0.05 * sizes
    out = (boxes[:, :2] < -slack) | (boxes[:, :2] + boxes[:, 2:] > sizes + slack)
    return float(out.any(1).mean())


def _of_boxes(name: str, split: Split) -> Iterator[Finding]:
    boxes, sizes = _boxes(split)
    if len(boxes) < MIN_BOXES:
        return
    if (relative := (boxes.max(1) <= 1.5).mean()) > 0.9:
        yield Finding(
            f"The boxes of {name} are relative to the image size instead of in pixels.",
            f"{relative:.0%} of {len(boxes):,} boxes have no value above 1.5.",
            "Multiply them by the width and height of their image.",
            BROKEN + 9,
        )
        return
    out = _outside(boxes, sizes)
    corner, size = boxes[:, :2], boxes[:, 2:]
    readings = {
        "centers (cx, cy, width, height)": np.concatenate([corner - size / 2, size], 1),
        "corners (x0, y0, x1, y1)": np.concatenate([corner, size - corner], 1),
        "transposed boxes (y, x, height, width)": boxes[:, [1, 0, 3, 2]],
        "boxes of images twice as large": boxes / 2,
        "boxes of images four times as large": boxes / 4,
    }
    fits = {
        reading: share
        for reading, read in readings.items()
        if out > 0.04 and (read[:, 2:] > 0).mean() > 0.99 and (share := _outside(read, sizes)) < 0.25 * out
    }
    if fits:
        reading = next(iter(fits)) if out < 0.3 else min(fits, key=lambda key: fits[key])
        yield Finding(
            f"The boxes of {name} look like {reading}.",
            f"{out:.0%} of {len(boxes):,} boxes extend beyond their image; with this reading {fits[reading]:.0%} do.",
            "Write them as x, y, width, height in pixels of the stored image.",
            BROKEN + 8,
        )
        return
    ends = ((boxes[:, :2] + boxes[:, 2:]) / sizes).max(1)
    if len(boxes) >= 2 * MIN_BOXES and (end := np.quantile(ends, 0.995)) < 0.62:
        yield Finding(
            f"The boxes of {name} look like boxes of smaller images.",
            f"None of {len(boxes):,} boxes extends beyond {end:.0%} of its image.",
            "Scale them with the images, or use the images that were annotated.",
            BROKEN + 7,
        )


def _of_annotations(name: str, split: Split) -> Iterator[Finding]:
    w = split.written
    total = len(w.boxes)
    if total >= MIN_BOXES and w.crowd.mean() > 0.3:
        yield Finding(
            f"Many objects of {name} are marked as crowds.",
            f"iscrowd is set in {w.crowd.mean():.0%} of {total:,} annotations, which are ignored in training and in "
            "evaluation.",
            "Set iscrowd to 0 for boxes of a single object.",
            IMPOSSIBLE,
        )
    annotated = np.isin(w.image_ids, w.of_image)
    if name == "train" and len(w.image_ids) >= MIN_BOXES and annotated.mean() < 0.4:
        yield Finding(
            "Most images of train have no annotation.",
            f"{1 - annotated.mean():.0%} of {len(w.image_ids):,} images have no objects, which teaches the model to "
            "detect nothing.",
            "Leave out images that were not annotated.",
            ANNOTATIONS + 8,
        )
    keys = np.column_stack([w.of_image, w.of_category, np.round(np.nan_to_num(w.boxes))])
    duplicates = 1 - len(np.unique(keys, axis=0)) / max(1, len(keys))
    if total >= MIN_BOXES and duplicates > 0.02:
        yield Finding(
            f"Objects of {name} are annotated twice.",
            f"{duplicates:.0%} of {total:,} annotations have the class and box of another (IoU >= {DUPLICATE_IOU}).",
            "`detr report` lists them, and `detr data fix` removes them.",
            ANNOTATIONS + 7,
        )


def _counts(split: Split) -> Mapping[int, int]:
    """Return the number of objects of each category id."""
    w = split.written
    ids, counts = np.unique(w.of_category[split.usable & ~w.crowd], return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


def _of_classes(splits: Mapping[str, Split]) -> Iterator[Finding]:
    if "train" not in splits:
        return
    w = splits["train"].written
    names = dict(zip(w.category_ids.tolist(), w.names, strict=True))
    train = _counts(splits["train"])
    val = _counts(splits["val"]) if "val" in splits else {}
    if absent := [id_ for id_ in val if id_ not in train]:
        yield Finding(
            f"A class of val is missing in train: {', '.join(str(names.get(id_, id_)) for id_ in absent[:5])}.",
            f"val has {sum(val[id_] for id_ in absent):,} objects of it, train has none.",
            "Annotate it in train, or check how the data was split and whether ids were renumbered.",
            IMPOSSIBLE + 5,
        )
    if len(train) >= 2:
        rare, common = (pick(train, key=lambda id_: train[id_]) for pick in (min, max))
        if train[rare] <= FEW_OBJECTS and train[common] >= 20 * train[rare]:
            yield Finding(
                f"The classes are far from balanced: {names[rare]} is rare.",
                f"train has {train[rare]:,} objects of it, and {train[common]:,} of {names[common]}.",
                "Add images of it, or repeat the existing images.",
                LITTLE + 8,
            )
    if val and sum(val.values()) < FEW_VAL_OBJECTS:
        yield Finding(
            "val is too small to judge a model.",
            f"It has {sum(val.values())} objects, so that AP varies by several points between equal trainings.",
            "Hold out more images.",
            REMARK,
        )


def _of_splits(examined: DatasetReport) -> Iterator[Finding]:
    same = (problem for problem in examined.problems if problem.kind in ("same-picture", "near-duplicate"))
    if problem := next(same, None):
        yield Finding(
            "Images of train are in another split too.",
            f"{problem.where}: {problem.what}.",
            "Remove them from one of the splits: a model memorizes the images of train.",
            ANNOTATIONS + 9,
        )
    if "train" in examined.splits and (images := examined.summary("train")["images"]) < FEW_IMAGES:
        yield Finding(
            "There is little data.",
            f"train has {images} images.",
            f"Start from trained weights, use {argument('augmentation', 'strong')}, and annotate more.",
            LITTLE + 5,
        )
