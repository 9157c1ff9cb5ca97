"""Measure how many corrupted annotations `detr report` finds, with a model trained on the corrupted dataset.

    python examples/planted_labels.py FOLDER [--folds 3]

In the training split of `shapes`, changes the class of 5% of the objects, removes 5%, and moves the boxes of 5% to an
IoU of 0.3 to 0.6 with the original. Trains dino-tiny from scratch with its recipe. Recall is measured in each gallery
of the report among twice as many suspects as there are errors; with --folds also with models not trained on the
labels. Expected: a recall of at least 0.9.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from timing import show

from detrcli.api.reporting import report
from detrcli.api.training import train
from detrcli.data.make import make_shapes
from detrcli.inspection.suspects import Suspect

SHARE, SEED = 0.05, 5


@dataclass
class Planted:
    """The corrupted annotations."""

    wrong: set[int] = field(default_factory=set)  # annotation ids
    loose: set[int] = field(default_factory=set)
    missing: list[tuple[int, list[float]]] = field(default_factory=list)  # image and box

    @property
    def counts(self) -> dict[str, int]:
        """Number of errors for each gallery."""
        return {"wrong_label": len(self.wrong), "loose_box": len(self.loose), "missing_label": len(self.missing)}


def plant(path: Path) -> Planted:
    """Corrupt an annotation file."""
    document = json.loads(path.read_text())
    rng, planted, annotations = np.random.default_rng(SEED), Planted(), document["annotations"]
    count = round(SHARE * len(annotations))
    chosen = rng.permutation(len(annotations))[: 3 * count].tolist()
    ids = [category["id"] for category in document["categories"]]
    for index in chosen[:count]:
        annotation = annotations[index]
        annotation["category_id"] = int(rng.choice([id_ for id_ in ids if id_ != annotation["category_id"]]))
        planted.wrong.add(annotation["id"])
    for index in chosen[count : 2 * count]:
        annotation = annotations[index]
        annotation["bbox"] = loosened(annotation["bbox"], rng)
        planted.loose.add(annotation["id"])
    removed = set(chosen[2 * count :])
    planted.missing = [(annotations[i]["image_id"], annotations[i]["bbox"]) for i in removed]
    document["annotations"] = [annotation for i, annotation in enumerate(annotations) if i not in removed]
    path.write_text(json.dumps(document))
    return planted


def loosened(box: Sequence[float], rng: np.random.Generator) -> list[float]:
    """Return a random box with an IoU of 0.3 to 0.6 with this box, inside an image of 128 pixels."""
    x, y, w, h = box
    while True:
        scale = rng.uniform(0.6, 1.7, 2)
        moved = [x + rng.uniform(-0.4, 0.4) * w, y + rng.uniform(-0.4, 0.4) * h, w * scale[0], h * scale[1]]
        inside = min(moved[0], moved[1]) >= 0 and max(moved[0] + moved[2], moved[1] + moved[3]) <= 128
        if inside and 0.3 <= iou(moved, box) <= 0.6:
            return [float(value) for value in moved]


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the IoU of two boxes x, y, w, h."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    intersection = max(width, 0) * max(height, 0)
    return intersection / (a[2] * a[3] + b[2] * b[3] - intersection)


def recalls(suspects: Mapping[str, Sequence[Suspect]], planted: Planted) -> dict[str, float]:
    """Return the share of the errors among twice as many suspects of each gallery."""
    first = {kind: suspects[kind][: 2 * count] for kind, count in planted.counts.items()}
    missing = sum(
        any(suspect.image_id == image and iou(suspect.box, box) >= 0.5 for suspect in first["missing_label"])
        for image, box in planted.missing
    )
    hits = {
        "wrong_label": len(planted.wrong & {suspect.annotation_id for suspect in first["wrong_label"]}),
        "loose_box": len(planted.loose & {suspect.annotation_id for suspect in first["loose_box"]}),
        "missing_label": missing,
    }
    return {kind: hits[kind] / planted.counts[kind] for kind in hits}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--folds", type=int, default=0)
    args = parser.parse_args()
    data, run, planted_file = args.folder / "data", args.folder / "run", args.folder / "planted.json"
    if not data.exists():
        make_shapes(data, images=args.images)
        planted = plant(data / "annotations" / "instances_train.json")
        planted_file.write_text(json.dumps([sorted(planted.wrong), sorted(planted.loose), planted.missing]))
    wrong, loose, missing = json.loads(planted_file.read_text())
    planted = Planted(set(wrong), set(loose), [(image, box) for image, box in missing])
    if not (run / "best.safetensors").exists():
        settings = {"workers": 0, "size": 128}  # the image size
        train(data, model="dino-tiny", weights="none", out=run, report=False, settings=settings)
    rows = []
    for name, folds in (("seen in training", 0), *([("out of fold", args.folds)] if args.folds else [])):
        failures = report(run, split="train", folds=folds).failures
        rows += [
            {"suspects by": name, "gallery": kind, "planted": planted.counts[kind], "recall": round(value, 3)}
            for kind, value in recalls(failures.suspects, planted).items()
        ]
    show(rows)


if __name__ == "__main__":
    main()
