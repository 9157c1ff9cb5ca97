"""What the annotations alone say: boxes of another format, classes and splits that do not fit, too little data."""

from collections.abc import Iterator, Mapping

import numpy as np

from detrcli.data.checks import Split
from detrcli.data.examine import DatasetReport
from detrcli.doctor.finding import ANNOTATIONS, BROKEN, IMPOSSIBLE, LITTLE, REMARK, Finding
from detrcli.inspection.suspects import DUPLICATE_IOU

ENOUGH = 20  # boxes, below which nothing is said of them
FEW_PICTURES = 60  # of train
FEW_OBJECTS = 10  # of a class in train
FEW_TO_JUDGE = 25  # objects of val


def of_data(found: DatasetReport) -> Iterator[Finding]:
    """All findings about a data set."""
    for problem in found.problems:
        if problem.severity == "error":
            yield Finding(
                f"The data has errors: {problem.kind} in {problem.split or 'it'}.",
                f"{problem.where}: {problem.what}.",
                "`detr data check` lists all of them.",
                BROKEN + 10,
            )
            break
    for name, split in found.splits.items():
        yield from _of_boxes(name, split)
        yield from _of_annotations(name, split)
    yield from _of_classes(found.splits)
    yield from _of_splits(found)


def _boxes(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Boxes x, y, w, h of objects, (N, 4), and width and height of their pictures, (N, 2)."""
    w = split.written
    order = np.argsort(w.image_ids, kind="stable")
    known = np.isin(w.of_image, w.image_ids[split.usable_images]) & np.isfinite(w.boxes).all(1) & ~w.crowd
    place = order[np.searchsorted(w.image_ids, w.of_image[known], sorter=order)]
    return w.boxes[known], split.sizes[place][:, ::-1].astype(float)


def _outside(boxes: np.ndarray, sizes: np.ndarray) -> float:
    """The share of boxes that reach out of their picture by more than a twentieth of it."""
    slack = 0.05 * sizes
    out = (boxes[:, :2] < -slack) | (boxes[:, :2] + boxes[:, 2:] > sizes + slack)
    return float(out.any(1).mean())


def _of_boxes(name: str, split: Split) -> Iterator[Finding]:
    boxes, sizes = _boxes(split)
    if len(boxes) < ENOUGH:
        return
    if (boxes.max(1) <= 1.5).mean() > 0.9:
        yield Finding(
            f"The boxes of {name} are shares of the picture, where pixels belong.",
            f"{(boxes.max(1) <= 1.5).mean():.0%} of {len(boxes):,} boxes have no number above 1.5.",
            "Multiply them by the width and height of their picture.",
            BROKEN + 9,
        )
        return
    out = _outside(boxes, sizes)
    others = {
        "centres (cx, cy, width, height), where the corner x, y belongs": np.concatenate(
            [boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], 1
        ),
        "corners (x0, y0, x1, y1), where x, y, width, height belong": np.concatenate(
            [boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1
        ),
        "turned (y, x, height, width), where x, y, width, height belong": boxes[:, [1, 0, 3, 2]],
        "those of pictures twice as large": boxes / 2,
        "those of pictures four times as large": boxes / 4,
    }
    if out > 0.04:
        fits = {
            what: share for what, other in others.items()
            if (other[:, 2:] > 0).mean() > 0.99 and (share := _outside(other, sizes)) < 0.25 * out
        }  # fmt: skip
        if fits:
            what = next(iter(fits)) if out < 0.3 else min(fits, key=lambda key: fits[key])
            yield Finding(
                f"The boxes of {name} look like {what}.",
                f"{out:.0%} of {len(boxes):,} boxes reach out of their picture; read so, {fits[what]:.0%} do.",
                "Write them as x, y, width, height in pixels of the picture as it is stored.",
                BROKEN + 8,
            )
            return
    ends = ((boxes[:, :2] + boxes[:, 2:]) / sizes).max(1)
    if len(boxes) >= 2 * ENOUGH and np.quantile(ends, 0.995) < 0.62:
        yield Finding(
            f"The boxes of {name} look like those of smaller pictures.",
            f"None of {len(boxes):,} boxes reaches beyond {np.quantile(ends, 0.995):.0%} of its picture.",
            "Scale them with the pictures, or take the pictures that were annotated.",
            BROKEN + 7,
        )


def _of_annotations(name: str, split: Split) -> Iterator[Finding]:
    w = split.written
    total = len(w.boxes)
    if total >= ENOUGH and w.crowd.mean() > 0.3:
        yield Finding(
            f"Many objects of {name} are marked as crowds.",
            f"iscrowd is set in {w.crowd.mean():.0%} of {total:,} annotations: they are neither trained on nor "
            "counted.",
            "Set iscrowd to 0 where a box holds one object.",
            IMPOSSIBLE,
        )
    objects = np.isin(w.image_ids, w.of_image)
    if len(w.image_ids) >= ENOUGH and objects.mean() < 0.4 and name == "train":
        yield Finding(
            f"Most pictures of {name} have no annotation.",
            f"{1 - objects.mean():.0%} of {len(w.image_ids):,} pictures are without objects, which teaches to find "
            "none.",
            "Leave pictures out that nobody has annotated.",
            ANNOTATIONS + 8,
        )
    keys = np.column_stack([w.of_image, w.of_category, np.round(np.nan_to_num(w.boxes))])
    twice = 1 - len(np.unique(keys, axis=0)) / max(1, len(keys))
    if total >= ENOUGH and twice > 0.02:
        yield Finding(
            f"Objects of {name} are annotated twice.",
            f"{twice:.0%} of {total:,} annotations have the class and box of another one (IoU >= {DUPLICATE_IOU}).",
            "`detr report` lists them, and `detr data fix` takes them out.",
            ANNOTATIONS + 7,
        )


def _counts(split: Split) -> Mapping[int, int]:
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
    absent = [id_ for id_ in val if id_ not in train]
    if absent:
        some = ", ".join(str(names.get(id_, id_)) for id_ in absent[:5])
        yield Finding(
            f"A class of val is missing in train: {some}.",
            f"val has {sum(val[id_] for id_ in absent):,} objects of it, train none.",
            "Annotate it in train, or check how the split was made and whether ids were renumbered.",
            IMPOSSIBLE + 5,
        )
    if len(train) >= 2:
        most, least = max(train.values()), min(train.values())
        rare, common = (names[pick(train, key=lambda id_: train[id_])] for pick in (min, max))
        if least <= FEW_OBJECTS and most >= 20 * least:
            yield Finding(
                f"The classes are far from balanced: {rare} is rare.",
                f"train has {least:,} objects of it, and {most:,} of {common}.",
                "Add pictures with it, or repeat those that there are.",
                LITTLE + 8,
            )
    if val and sum(val.values()) < FEW_TO_JUDGE:
        yield Finding(
            "val is too small to judge a model by.",
            f"It has {sum(val.values())} objects: AP moves by whole points from one training to the next.",
            "Hold out more pictures.",
            REMARK,
        )


def _of_splits(found: DatasetReport) -> Iterator[Finding]:
    same = [one for one in found.problems if one.kind in ("same-picture", "near-duplicate")]
    if same:
        yield Finding(
            "Pictures of train are in another split too.",
            f"{same[0].where}: {same[0].what}.",
            "Take them out of one: what was learned by heart is no proof.",
            ANNOTATIONS + 9,
        )
    if "train" in found.splits and (pictures := found.summary("train").images) < FEW_PICTURES:
        yield Finding(
            "There is little data.",
            f"train has {pictures} pictures.",
            "Start from trained weights, use --set augmentation=strong, and annotate more.",
            LITTLE + 5,
        )
