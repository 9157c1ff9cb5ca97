"""Measure how many of 30 planted faults the first finding of `detr doctor` names, and its false findings.

    python examples/planted_faults.py FOLDER [--part A|B] [--only NAME...]

Each fault is planted in a small dataset of shapes or in the settings of a small training, by default from the `shapes`
weights. Half of the faults and of the 20 healthy cases (part B) were written after the rules of `doctor` were frozen.
Finished cases are not repeated, so the script can be interrupted. Expected: at least 26 of 30 faults named, and no
healthy case with a finding.
"""

import argparse
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from timing import show

from detrcli.api.reporting import doctor
from detrcli.api.training import train
from detrcli.data.make import make_shapes
from detrcli.errors import DetrError

IMAGES, SIZE, EPOCHS = 240, 96, 10
SCRATCH: Mapping[str, Any] = {"model": "dino-tiny", "weights": "none", "epochs": 30}
Document = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A dataset or training with a fault, and the pattern of the finding; empty for a healthy case."""

    pattern: str  # regular expression for the first finding
    part: str
    data: Callable[[Path], None] = lambda folder: None  # modifies the dataset folder
    settings: Mapping[str, Any] = field(default_factory=dict)
    make: Mapping[str, Any] = field(default_factory=dict)  # arguments of make_shapes
    trained: bool = True  # whether to train, or to check the dataset only


def annotations(splits: Sequence[str], change: Callable[[Document], None]) -> Callable[[Path], None]:
    """Change the annotation files of the splits."""

    def apply(folder: Path) -> None:
        for split in splits:
            path = folder / "annotations" / f"instances_{split}.json"
            document = json.loads(path.read_text())
            change(document)
            path.write_text(json.dumps(document))

    return apply


def boxes(change: Callable[[list[float]], list[float]]) -> Callable[[Document], None]:
    """Change each box."""

    def apply(document: Document) -> None:
        for annotation in document["annotations"]:
            annotation["bbox"] = change(annotation["bbox"])

    return apply


def some(share: float, change: Callable[[Document, Any, np.random.Generator], None]) -> Callable[[Document], None]:
    """Change a random share of the annotations."""

    def apply(document: Document) -> None:
        rng = np.random.default_rng(0)
        for annotation in list(document["annotations"]):
            if rng.random() < share:
                change(document, annotation, rng)

    return apply


def other_class(document: Document, annotation: Any, rng: np.random.Generator) -> None:
    ids = [category["id"] for category in document["categories"] if category["id"] != annotation["category_id"]]
    annotation["category_id"] = int(rng.choice(ids))


def removed(document: Document, annotation: Any, rng: np.random.Generator) -> None:
    document["annotations"].remove(annotation)


def doubled(document: Document, annotation: Any, rng: np.random.Generator) -> None:
    document["annotations"].append({**annotation, "id": max(a["id"] for a in document["annotations"]) + 1})


def crowded(document: Document, annotation: Any, rng: np.random.Generator) -> None:
    annotation["iscrowd"] = 1


def loose(document: Document, annotation: Any, rng: np.random.Generator) -> None:
    x, y, w, h = annotation["bbox"]
    annotation["bbox"] = [
        max(0.0, x - 0.3 * w * rng.random()), max(0.0, y - 0.3 * h * rng.random()),
        w * rng.uniform(1.1, 1.5), h * rng.uniform(1.1, 1.5),
    ]  # fmt: skip
    annotation["bbox"][2] = min(annotation["bbox"][2], SIZE - annotation["bbox"][0])
    annotation["bbox"][3] = min(annotation["bbox"][3], SIZE - annotation["bbox"][1])


def renumbered(*order: int) -> Callable[[Document], None]:
    """Replace the id of class i by that of class order[i]."""

    def apply(document: Document) -> None:
        ids = [category["id"] for category in document["categories"]]
        for annotation in document["annotations"]:
            annotation["category_id"] = ids[order[ids.index(annotation["category_id"])]]

    return apply


def without_class(document: Document) -> None:
    document["annotations"] = [a for a in document["annotations"] if a["category_id"] != 2]


def rare_class(document: Document) -> None:
    kept = [a for a in document["annotations"] if a["category_id"] == 3][:4]
    document["annotations"] = [a for a in document["annotations"] if a["category_id"] != 3] + kept


def without_objects(document: Document) -> None:
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] % 4 == 0]


def few_images(count: int) -> Callable[[Document], None]:
    def apply(document: Document) -> None:
        document["images"] = document["images"][:count]
        kept = {image["id"] for image in document["images"]}
        document["annotations"] = [a for a in document["annotations"] if a["image_id"] in kept]

    return apply


def images(split: str, change: Callable[[Image.Image], Image.Image]) -> Callable[[Path], None]:
    """Change each image of a split."""

    def apply(folder: Path) -> None:
        for path in (folder / split).iterdir():
            change(Image.open(path).convert("RGB")).save(path)

    return apply


def leak(folder: Path) -> None:
    """Copy images of val with their annotations to train."""
    train_file, val_file = (folder / "annotations" / f"instances_{split}.json" for split in ("train", "val"))
    train_, val = json.loads(train_file.read_text()), json.loads(val_file.read_text())
    for image in val["images"][:20]:
        id_, name = 10_000 + image["id"], f"leak-{image['file_name']}"
        shutil.copy(folder / "val" / image["file_name"], folder / "train" / name)
        train_["images"].append({**image, "id": id_, "file_name": name})
        train_["annotations"] += [
            {**a, "id": 100_000 + a["id"], "image_id": id_} for a in val["annotations"] if a["image_id"] == image["id"]
        ]
    train_file.write_text(json.dumps(train_))


def night(image: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(image) * 0.15).astype(np.uint8))


def mirrored(box: list[float]) -> list[float]:
    x, y, w, h = box
    return [SIZE - x - w, y, w, h]


BOTH, TRAIN, VAL = (partial(annotations, splits) for splits in (["train", "val"], ["train"], ["val"]))
FAULTS: Mapping[str, Case] = {
    # Part A: the rules were developed with these cases.
    "normalized boxes": Case(
        "relative to the image size", "A", BOTH(boxes(lambda b: [v / SIZE for v in b])), trained=False
    ),
    "center-based boxes": Case(
        "centers", "A", BOTH(boxes(lambda b: [b[0] + b[2] / 2, b[1] + b[3] / 2, b[2], b[3]])), trained=False
    ),
    "corner boxes": Case("corners", "A", BOTH(boxes(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])), trained=False),
    "boxes of larger images": Case(
        "twice as large|size-mismatch", "A", BOTH(boxes(lambda b: [2 * v for v in b])), trained=False
    ),
    "labels of val off by one": Case("off by one", "A", VAL(renumbered(1, 2, 3, 4, 0))),
    "class missing in train": Case("missing in train", "A", TRAIN(without_class), trained=False),
    "images in both splits": Case("in another split|same-picture", "A", leak, trained=False),
    "duplicate annotations": Case("twice", "A", TRAIN(some(0.3, doubled)), trained=False),
    "crowds": Case("crowds", "A", TRAIN(some(0.6, crowded)), trained=False),
    "learning rate too high": Case("learning rate is too high|diverged", "A", settings={"lr": 0.2}),
    "learning rate too low": Case("learning rate is too low", "A", settings={"lr": 1e-6}),
    "too few queries": Case("too few queries", "A", settings={"queries": 2}),
    "frozen backbone": Case("frozen backbone", "A", settings={**SCRATCH, "freeze": "all", "epochs": 10}),
    "tiny input": Case("too small in the network", "A", settings={"size": 32}),
    "wrong labels": Case("labels of train are wrong", "A", TRAIN(some(0.3, other_class))),
    # Part B: written after the rules were frozen.
    "boxes of smaller images": Case("smaller images", "B", BOTH(boxes(lambda b: [v / 2 for v in b])), trained=False),
    "boxes of val mirrored": Case("mirrored", "B", VAL(boxes(mirrored))),
    "boxes of val turned": Case("transposed", "B", VAL(boxes(lambda b: [b[1], b[0], b[3], b[2]]))),
    "classes of val renumbered": Case("numbered differently|off by one", "B", VAL(renumbered(2, 3, 4, 1, 0))),
    "rare class": Case("balanced", "B", TRAIN(rare_class), trained=False),
    "images without annotations": Case("no annotation", "B", TRAIN(without_objects), trained=False),
    "little data": Case("little data|overfits", "B", TRAIN(few_images(24)), trained=False),
    "missing labels": Case("not annotated", "B", TRAIN(some(0.4, removed))),
    "val at night": Case("look different", "B", images("val", night)),
    "no box loss": Case("l1 term|giou term", "B", settings={"loss": {"l1": 0.01, "giou": 0.01}}),
    "endless warmup": Case("still rising", "B", settings={"warmup": 100_000}),
    "batches too large": Case("too few steps", "B", settings={"batch_size": 120}),
    "too short": Case("too short", "B", settings={**SCRATCH, "epochs": 2}),
    "weight decay too high": Case("[Ww]eight decay", "B", settings={"weight_decay": 30.0}),
    "no class loss": Case("class term", "B", settings={"loss": {"class": 0.001}}),
}
HEALTHY: Mapping[str, Case] = {
    **{f"seed {seed}": Case("", "A", settings={"seed": seed}) for seed in range(4)},
    "double learning rate": Case("", "A", settings={"lr": 6e-3}),
    "half learning rate": Case("", "A", settings={"lr": 1.5e-3}),
    "deformable": Case("", "A", settings={**SCRATCH, "model": "deformable-tiny"}),
    "flips only": Case("", "A", settings={"augmentation": "flip"}),
    "dataset only": Case("", "A", trained=False),
    "one object per image": Case("", "A", make={"objects": 1}),
    "no EMA": Case("", "B", settings={"ema": 0.0}),
    "larger input": Case("", "B", settings={"size": 128}),
    "smaller batches": Case("", "B", settings={"batch_size": 8}),
    "many objects": Case("", "B", make={"objects": 8}),
    "other shapes": Case("", "B", make={"classes": ["ring", "hexagon", "arrow"]}),
    "two classes": Case("", "B", make={"classes": ["circle", "star"]}),
    "other images": Case("", "B", make={"seed": 9}),
    "more queries": Case("", "B", settings={"queries": 60}),
    "one class": Case("", "B", make={"classes": ["moon"]}, trained=False),
    "larger images": Case("", "B", make={"size": 160}, trained=False),
}


def first_finding(folder: Path, case: Case) -> str:
    """Return the first finding of a case, which is cached in its folder."""
    cached = folder / "finding.json"
    if cached.exists():
        return str(json.loads(cached.read_text()))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    data, run = folder / "data", folder / "run"
    make_shapes(data, **{"images": IMAGES, "size": SIZE, "objects": 4, **case.make})
    case.data(data)
    if case.trained:
        settings = {
            "weights": "shapes", "epochs": EPOCHS, "workers": 0, "eval_every": 3, "size": SIZE, **case.settings,
        }  # fmt: skip
        try:
            train(data, out=run, report=False, settings=settings)
        except DetrError as error:
            print(f"  the training ended: {error}")
    findings = doctor(run if case.trained else data).findings
    first = findings[0].finding if findings else ""
    cached.write_text(json.dumps(first))
    (folder / "all.txt").write_text("\n".join(f"{finding.weight:.0f} {finding}" for finding in findings))
    return first


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--part", choices=["A", "B"])
    parser.add_argument("--only", nargs="*")
    args = parser.parse_args()
    rows, named, silent = [], 0, 0
    for kind, cases in (("fault", FAULTS), ("healthy", HEALTHY)):
        for name, case in cases.items():
            if (args.part and case.part != args.part) or (args.only and name not in args.only):
                continue
            first = first_finding(args.folder / name.replace(" ", "-"), case)
            right = bool(re.search(case.pattern, first)) if case.pattern else not first
            named += kind == "fault" and right
            silent += kind == "healthy" and right
            row = {"case": f"{kind}: {name}", "part": case.part, "right": "yes" if right else "NO", "first": first}
            print(row, flush=True)
            rows.append(row)
    show(rows, named=named, silent=silent)


if __name__ == "__main__":
    main()
