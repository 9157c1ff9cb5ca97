"""How many of 30 planted faults the first sentence of `detr doctor` names, and that healthy trainings get none.

    python examples/planted_faults.py FOLDER [--part A|B] [--only NAME...]

Each fault is planted in a small set of shapes or in the settings of a small training, from the `shapes` weights
where nothing else is said; half of the faults and of the
20 healthy trainings (part B) were made after the rules of `doctor` were frozen. What is done is not done again, so it
can be stopped and started. Expected: at least 26 of 30 named, and no healthy training with a finding.
"""

import argparse
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
    """A training, what is wrong with it, and the words in which that must be said first; none for a healthy one."""

    words: str  # a pattern
    part: str
    data: Callable[[Path], None] = lambda folder: None  # changes the folder
    settings: Mapping[str, Any] = field(default_factory=dict)
    make: Mapping[str, Any] = field(default_factory=dict)  # of the shapes
    trained: bool = True  # whether there is a run, or only data


def annotations(*splits: str) -> Callable[[Callable[[Document], None]], Callable[[Path], None]]:
    """Changes to the annotation files of some splits."""

    def by(change: Callable[[Document], None]) -> Callable[[Path], None]:
        def apply(folder: Path) -> None:
            for split in splits:
                path = folder / "annotations" / f"instances_{split}.json"
                document = json.loads(path.read_text())
                change(document)
                path.write_text(json.dumps(document))

        return apply

    return by


def boxes(change: Callable[[list[float]], list[float]]) -> Callable[[Document], None]:
    """Each box changed."""

    def apply(document: Document) -> None:
        for one in document["annotations"]:
            one["bbox"] = change(one["bbox"])

    return apply


def some(share: float, change: Callable[[Document, Any, np.random.Generator], None]) -> Callable[[Document], None]:
    """A share of the annotations changed."""

    def apply(document: Document) -> None:
        rng = np.random.default_rng(0)
        for one in list(document["annotations"]):
            if rng.random() < share:
                change(document, one, rng)

    return apply


def other_class(document: Document, one: Any, rng: np.random.Generator) -> None:
    ids = [category["id"] for category in document["categories"] if category["id"] != one["category_id"]]
    one["category_id"] = int(rng.choice(ids))


def removed(document: Document, one: Any, rng: np.random.Generator) -> None:
    document["annotations"].remove(one)


def doubled(document: Document, one: Any, rng: np.random.Generator) -> None:
    document["annotations"].append({**one, "id": max(a["id"] for a in document["annotations"]) + 1})


def crowded(document: Document, one: Any, rng: np.random.Generator) -> None:
    one["iscrowd"] = 1


def loose(document: Document, one: Any, rng: np.random.Generator) -> None:
    x, y, w, h = one["bbox"]
    one["bbox"] = [
        max(0.0, x - 0.3 * w * rng.random()), max(0.0, y - 0.3 * h * rng.random()),
        w * rng.uniform(1.1, 1.5), h * rng.uniform(1.1, 1.5),
    ]  # fmt: skip
    one["bbox"][2] = min(one["bbox"][2], SIZE - one["bbox"][0])
    one["bbox"][3] = min(one["bbox"][3], SIZE - one["bbox"][1])


def shifted(document: Document) -> None:
    ids = [category["id"] for category in document["categories"]]
    for one in document["annotations"]:
        one["category_id"] = ids[(ids.index(one["category_id"]) + 1) % len(ids)]


def renumbered(document: Document) -> None:
    ids = [category["id"] for category in document["categories"]]
    other = dict(zip(ids, [ids[2], ids[3], ids[4], ids[1], ids[0]], strict=True))
    for one in document["annotations"]:
        one["category_id"] = other[one["category_id"]]


def without_class(document: Document) -> None:
    document["annotations"] = [one for one in document["annotations"] if one["category_id"] != 2]


def rare_class(document: Document) -> None:
    kept = [one for one in document["annotations"] if one["category_id"] == 3][:4]
    document["annotations"] = [one for one in document["annotations"] if one["category_id"] != 3] + kept


def without_objects(document: Document) -> None:
    document["annotations"] = [one for one in document["annotations"] if one["image_id"] % 4 == 0]


def few_pictures(count: int) -> Callable[[Document], None]:
    def apply(document: Document) -> None:
        document["images"] = document["images"][:count]
        kept = {one["id"] for one in document["images"]}
        document["annotations"] = [one for one in document["annotations"] if one["image_id"] in kept]

    return apply


def pictures(split: str, change: Callable[[Image.Image], Image.Image]) -> Callable[[Path], None]:
    """Each picture of a split changed."""

    def apply(folder: Path) -> None:
        for path in (folder / split).iterdir():
            change(Image.open(path).convert("RGB")).save(path)

    return apply


def leak(folder: Path) -> None:
    """Pictures of val in train, with their annotations."""
    documents = {
        split: json.loads((folder / "annotations" / f"instances_{split}.json").read_text())
        for split in ("train", "val")
    }
    train_, val = documents["train"], documents["val"]
    for image in val["images"][:20]:
        id_, name = 10_000 + image["id"], f"leak-{image['file_name']}"
        shutil.copy(folder / "val" / image["file_name"], folder / "train" / name)
        train_["images"].append({**image, "id": id_, "file_name": name})
        train_["annotations"] += [
            {**one, "id": 100_000 + one["id"], "image_id": id_}
            for one in val["annotations"]
            if one["image_id"] == image["id"]
        ]
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(train_))


def night(image: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(image) * 0.15).astype(np.uint8))


def mirrored(box: list[float]) -> list[float]:
    x, y, w, h = box
    return [SIZE - x - w, y, w, h]


BOTH, TRAIN, VAL = annotations("train", "val"), annotations("train"), annotations("val")
FAULTS: Mapping[str, Case] = {
    # Part A: the rules were made with these in view.
    "boxes as shares": Case("shares of the picture", "A", BOTH(boxes(lambda b: [v / SIZE for v in b])), trained=False),
    "boxes as centres": Case(
        "centres", "A", BOTH(boxes(lambda b: [b[0] + b[2] / 2, b[1] + b[3] / 2, b[2], b[3]])), trained=False
    ),
    "boxes as corners": Case(
        "corners", "A", BOTH(boxes(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])), trained=False
    ),
    "boxes of larger pictures": Case(
        "twice as large|size-mismatch", "A", BOTH(boxes(lambda b: [2 * v for v in b])), trained=False
    ),
    "labels of val off by one": Case("off by one", "A", VAL(shifted)),
    "class missing in train": Case("missing in train", "A", TRAIN(without_class), trained=False),
    "pictures in both splits": Case("in another split|same-picture", "A", leak, trained=False),
    "annotated twice": Case("twice", "A", TRAIN(some(0.3, doubled)), trained=False),
    "crowds": Case("crowds", "A", TRAIN(some(0.6, crowded)), trained=False),
    "rate too high": Case("learning rate is too high|diverged", "A", settings={"lr": 0.2}),
    "rate too low": Case("learning rate is too low", "A", settings={"lr": 1e-6}),
    "too few queries": Case("too few queries", "A", settings={"queries": 2}),
    "frozen backbone": Case("frozen", "A", settings={**SCRATCH, "freeze": "all", "epochs": 10}),
    "tiny input": Case("too small in the network", "A", settings={"size": 32}),
    "wrong labels": Case("labels of train are wrong", "A", TRAIN(some(0.3, other_class))),
    # Part B: made when the rules were frozen.
    "boxes of smaller pictures": Case(
        "smaller pictures", "B", BOTH(boxes(lambda b: [v / 2 for v in b])), trained=False
    ),
    "boxes of val mirrored": Case("mirrored", "B", VAL(boxes(mirrored))),
    "boxes of val turned": Case("turned", "B", VAL(boxes(lambda b: [b[1], b[0], b[3], b[2]]))),
    "classes of val renumbered": Case("numbered in another way|off by one", "B", VAL(renumbered)),
    "rare class": Case("balanced", "B", TRAIN(rare_class), trained=False),
    "pictures without annotations": Case("no annotation", "B", TRAIN(without_objects), trained=False),
    "little data": Case("little data|by heart", "B", TRAIN(few_pictures(24)), trained=False),
    "missing labels": Case("not annotated", "B", TRAIN(some(0.4, removed))),
    "val at night": Case("look other", "B", pictures("val", night)),
    "boxes that cost nothing": Case("l1 term|giou term", "B", settings={"loss": {"l1": 0.01, "giou": 0.01}}),
    "warm-up without end": Case("still rising when", "B", settings={"warmup": 100_000}),
    "batches too large": Case("too few steps", "B", settings={"batch_size": 120}),
    "too short": Case("too short", "B", settings={**SCRATCH, "epochs": 2}),
    "decay to nothing": Case("[Ww]eight decay", "B", settings={"weight_decay": 30.0}),
    "no class loss": Case("class term", "B", settings={"loss": {"class": 0.001}}),
}
HEALTHY: Mapping[str, Case] = {
    **{f"seed {seed}": Case("", "A", settings={"seed": seed}) for seed in range(4)},
    "twice the rate": Case("", "A", settings={"lr": 6e-3}),
    "half the rate": Case("", "A", settings={"lr": 1.5e-3}),
    "deformable": Case("", "A", settings={**SCRATCH, "model": "deformable-tiny"}),
    "flips": Case("", "A", settings={"augmentation": "flip"}),
    "data alone": Case("", "A", trained=False),
    "one object each": Case("", "A", make={"objects": 1}),
    "no mean": Case("", "B", settings={"ema": 0.0}),
    "larger input": Case("", "B", settings={"size": 128}),
    "smaller batches": Case("", "B", settings={"batch_size": 8}),
    "many objects": Case("", "B", make={"objects": 8}),
    "other shapes": Case("", "B", make={"classes": ["ring", "hexagon", "arrow"]}),
    "two classes": Case("", "B", make={"classes": ["circle", "star"]}),
    "other pictures": Case("", "B", make={"seed": 9}),
    "more queries": Case("", "B", settings={"queries": 60}),
    "data of one class": Case("", "B", make={"classes": ["moon"]}, trained=False),
    "larger pictures": Case("", "B", make={"size": 160}, trained=False),
}


def first_sentence(folder: Path, case: Case) -> str:
    """What doctor says first of a case; it is kept beside the case."""
    kept = folder / "said.json"
    if kept.exists():
        return str(json.loads(kept.read_text()))
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
    found = doctor(run if case.trained else data).findings
    said = found[0].finding if found else ""
    kept.write_text(json.dumps(said))
    (folder / "all.txt").write_text("\n".join(f"{one.weight:.0f} {one}" for one in found))
    return said


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--part", choices=["A", "B"])
    parser.add_argument("--only", nargs="*")
    asked = parser.parse_args()
    rows, named, quiet = [], 0, 0
    for kind, cases in (("fault", FAULTS), ("healthy", HEALTHY)):
        for name, case in cases.items():
            if (asked.part and case.part != asked.part) or (asked.only and name not in asked.only):
                continue
            said = first_sentence(asked.folder / name.replace(" ", "-"), case)
            right = bool(re.search(case.words, said)) if case.words else not said
            named += kind == "fault" and right
            quiet += kind == "healthy" and right
            rows.append(
                {"case": f"{kind}: {name}", "part": case.part, "right": "yes" if right else "NO", "first": said}
            )
            print(rows[-1], flush=True)
    show(rows, named=named, quiet=quiet)


if __name__ == "__main__":
    main()
