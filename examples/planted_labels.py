"""How many planted faults of annotations `detr report` finds, by a model trained on the very same faulty data.

    python examples/planted_labels.py FOLDER [--folds 3]

Makes `shapes`, gives 5% of the training objects another class, takes 5% away, and moves the boxes of 5% to an IoU of
0.3 to 0.6 with what they were. Trains dino-tiny on that from scratch, by its own recipe, and looks in each gallery of
its report among twice as many suspects as faults were planted; with --folds also by models that have not seen the
labels they judge. Expected: a recall of 0.9 or more.
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
    """What is wrong in the data."""

    wrong: set[int] = field(default_factory=set)  # annotation ids
    loose: set[int] = field(default_factory=set)
    missing: list[tuple[int, list[float]]] = field(default_factory=list)  # image and box

    @property
    def counts(self) -> dict[str, int]:
        """By the gallery that should have them."""
        return {"wrong_label": len(self.wrong), "loose_box": len(self.loose), "missing_label": len(self.missing)}


def plant(path: Path) -> Planted:
    """Spoil an annotation file."""
    document = json.loads(path.read_text())
    rng, planted, annotations = np.random.default_rng(SEED), Planted(), document["annotations"]
    count = round(SHARE * len(annotations))
    chosen = rng.permutation(len(annotations))[: 3 * count].tolist()
    ids = [one["id"] for one in document["categories"]]
    for place in chosen[:count]:
        one = annotations[place]
        one["category_id"] = int(rng.choice([id_ for id_ in ids if id_ != one["category_id"]]))
        planted.wrong.add(one["id"])
    for place in chosen[count : 2 * count]:
        one = annotations[place]
        one["bbox"] = loosened(one["bbox"], rng)
        planted.loose.add(one["id"])
    gone = set(chosen[2 * count :])
    planted.missing = [(annotations[i]["image_id"], annotations[i]["bbox"]) for i in gone]
    document["annotations"] = [one for i, one in enumerate(annotations) if i not in gone]
    path.write_text(json.dumps(document))
    return planted


def loosened(box: Sequence[float], rng: np.random.Generator) -> list[float]:
    """Another box with an IoU of 0.3 to 0.6 with this one, inside of a picture of 128 pixels."""
    x, y, w, h = box
    while True:
        scale = rng.uniform(0.6, 1.7, 2)
        moved = [x + rng.uniform(-0.4, 0.4) * w, y + rng.uniform(-0.4, 0.4) * h, w * scale[0], h * scale[1]]
        inside = min(moved[0], moved[1]) >= 0 and max(moved[0] + moved[2], moved[1] + moved[3]) <= 128
        if inside and 0.3 <= iou(moved, box) <= 0.6:
            return [float(value) for value in moved]


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Of two boxes x, y, w, h."""
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(across, 0) * max(down, 0)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def recalls(suspects: Mapping[str, Sequence[Suspect]], planted: Planted) -> dict[str, float]:
    """The share of the planted faults among twice as many suspects of each gallery."""
    first = {kind: suspects[kind][: 2 * count] for kind, count in planted.counts.items()}
    missing = sum(
        any(one.image_id == image and iou(one.box, box) >= 0.5 for one in first["missing_label"])
        for image, box in planted.missing
    )
    hits = {
        "wrong_label": len(planted.wrong & {one.annotation_id for one in first["wrong_label"]}),
        "loose_box": len(planted.loose & {one.annotation_id for one in first["loose_box"]}),
        "missing_label": missing,
    }
    return {kind: hits[kind] / planted.counts[kind] for kind in hits}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--folds", type=int, default=0)
    asked = parser.parse_args()
    data, run, planted_file = asked.folder / "data", asked.folder / "run", asked.folder / "planted.json"
    if not data.exists():
        make_shapes(data, images=asked.images)
        planted = plant(data / "annotations" / "instances_train.json")
        planted_file.write_text(json.dumps([sorted(planted.wrong), sorted(planted.loose), planted.missing]))
    wrong, loose, missing = json.loads(planted_file.read_text())
    planted = Planted(set(wrong), set(loose), [(image, box) for image, box in missing])
    if not (run / "best.safetensors").exists():
        settings = {"workers": 0, "size": 128}  # that of the pictures
        train(data, model="dino-tiny", weights="none", out=run, report=False, settings=settings)
    rows = []
    for name, folds in (("seen in training", 0), *([("out of fold", asked.folds)] if asked.folds else [])):
        found = report(run, split="train", folds=folds).failures
        rows += [
            {"suspects by": name, "gallery": kind, "planted": planted.counts[kind], "recall": round(value, 3)}
            for kind, value in recalls(found.suspects, planted).items()
        ]
    show(rows)


if __name__ == "__main__":
    main()
