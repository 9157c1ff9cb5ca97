"""Rules about annotations: boxes of another format, classes and splits that do not fit, too little data."""

from collections.abc import Iterator

import numpy as np

from detrcli.data.checks import Split
from detrcli.data.examine import DatasetReport
from detrcli.diagnosis.finding import ANNOTATIONS, BROKEN, IMPOSSIBLE, REMARK, SCARCE, Finding
from detrcli.inspection.suspects import DUPLICATE_IOU
from detrcli.messages import argument

MIN_BOXES = 20  # for any conclusion
FEW_IMAGES = 60  # in train
FEW_OBJECTS = 10  # of a class in train
FEW_VAL_OBJECTS = 25


def data_findings(examined: DatasetReport) -> Iterator[Finding]:
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
        yield from _box_findings(name, split)
        yield from _annotation_findings(name, split)
    yield from _split_findings(examined)


def _box_findings(name: str, split: Split) -> Iterator[Finding]:
    """Look for another box format or image size, a reading, with which the boxes fit into their images."""
    w = split.written
    chosen = np.isin(w.of_image, w.image_ids[split.usable_images]) & np.isfinite(w.boxes).all(1) & ~w.crowd
    boxes = w.boxes[chosen]  # (N, 4), x, y, width, height in pixels
    if len(boxes) < MIN_BOXES:
        return
    order = np.argsort(w.image_ids, kind="stable")
    sizes = split.sizes[order[np.searchsorted(w.image_ids, w.of_image[chosen], sorter=order)]]
    sizes = sizes[:, ::-1].astype(float)  # (N, 2), width and height of the image

    def outside(boxes: np.ndarray) -> float:
        """Return the share of boxes (N, 4) that extend beyond their image by more than a twentieth of its size."""
        slack = 0.05 * sizes
        beyond = (boxes[:, :2] < -slack) | (boxes[:, :2] + boxes[:, 2:] > sizes + slack)
        return float(beyond.any(1).mean())

    if (relative := (boxes.max(1) <= 1.5).mean()) > 0.9:
        yield Finding(
            f"The boxes of {name} are relative to the image size instead of in pixels.",
            f"{relative:.0%} of {len(boxes):,} boxes have no value above 1.5.",
            "Multiply them by the width and height of their image.",
            BROKEN + 9,
        )
        return
    out = outside(boxes)
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
        for reading, converted in readings.items()
        if out > 0.04 and (converted[:, 2:] > 0).mean() > 0.99 and (share := outside(converted)) < 0.25 * out
    }
    if fits:
        # Centers move boxes by only half their size, so that few extend beyond their image; other readings affect most.
        reading = next(iter(fits)) if out < 0.3 else min(fits, key=lambda key: fits[key])
        evidence = (
            f"{out:.0%} of {len(boxes):,} boxes extend beyond their image, with this reading {fits[reading]:.0%}."
        )
        remedy = "Write them as x, y, width, height in pixels of the stored image."
        yield Finding(f"The boxes of {name} look like {reading}.", evidence, remedy, BROKEN + 8)
        return
    end = np.quantile(((corner + size) / sizes).max(1), 0.995)  # close to 1 if boxes are spread over their images
    if len(boxes) >= 2 * MIN_BOXES and end < 0.62:
        evidence = f"None of {len(boxes):,} boxes extends beyond {end:.0%} of its image."
        remedy = "Scale them with the images, or use the images that were annotated."
        yield Finding(f"The boxes of {name} look like boxes of smaller images.", evidence, remedy, BROKEN + 7)


def _annotation_findings(name: str, split: Split) -> Iterator[Finding]:
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
        evidence = f"{duplicates:.0%} of {total:,} annotations have the class and box of another (IoU {DUPLICATE_IOU})."
        remedy = "`detr report` lists them, and `detr data fix` removes them."
        yield Finding(f"Objects of {name} are annotated twice.", evidence, remedy, ANNOTATIONS + 7)


def _split_findings(examined: DatasetReport) -> Iterator[Finding]:
    same = (problem for problem in examined.problems if problem.kind in ("same-picture", "near-duplicate"))
    if problem := next(same, None):
        evidence = f"{problem.where}: {problem.what}."
        remedy = "Remove them from one of the splits: a model memorizes the images of train."
        yield Finding("Images of train are in another split too.", evidence, remedy, ANNOTATIONS + 9)
    if "train" not in examined.splits:
        return
    summary = examined.summary("train")
    if summary["images"] < FEW_IMAGES:
        evidence = f"train has {summary['images']} images."
        remedy = f"Start from trained weights, use {argument('augmentation', 'strong')}, and annotate more."
        yield Finding("There is little data.", evidence, remedy, SCARCE + 5)
    names = {count["category_id"]: count["label"] for count in summary["classes"]}
    train = {count["category_id"]: count["boxes"] for count in summary["classes"] if count["boxes"]}
    in_val = examined.summary("val")["classes"] if "val" in examined.splits else []
    val = {count["category_id"]: count["boxes"] for count in in_val if count["boxes"]}
    if absent := [id_ for id_ in val if id_ not in train]:
        yield Finding(
            f"A class of val is missing in train: {', '.join(str(names.get(id_, id_)) for id_ in absent[:5])}.",
            f"val has {sum(val[id_] for id_ in absent):,} objects of it, train has none.",
            "Annotate it in train, or check how the data was split and whether ids were renumbered.",
            IMPOSSIBLE + 5,
        )
    if len(train) >= 2:
        rare, common = min(train, key=lambda id_: train[id_]), max(train, key=lambda id_: train[id_])
        if train[rare] <= FEW_OBJECTS and train[common] >= 20 * train[rare]:
            evidence = f"train has {train[rare]:,} objects of it, and {train[common]:,} of {names[common]}."
            remedy = "Add images of it, or repeat the existing images."
            yield Finding(f"The classes are far from balanced: {names[rare]} is rare.", evidence, remedy, SCARCE + 8)
    if val and sum(val.values()) < FEW_VAL_OBJECTS:
        evidence = f"It has {sum(val.values())} objects, so that AP varies by several points between identical runs."
        remedy = "Hold out more images."
        yield Finding("val is too small to judge a model.", evidence, remedy, REMARK)
