"""Compare the recipe of dino-tiny with the best of twenty random settings, on three small datasets.

    pip install . && python examples/hand_tuned.py FOLDER [--only letters|digits|icons]

The datasets are letters (300 images of 160 x 128), digits (150 of 144 x 112, ten classes) and icons (80 of 128 x 128:
shapes that the weights have not seen), each with 100 validation images. The recipe is that of `detr train DATA
--weights shapes`. Each of the twenty settings is trained for a tenth of the recipe's epochs, then the best two, and
the recipe, for all epochs. Finished runs are not repeated, so the script can be interrupted, and datasets can run in
parallel. Expected: the recipe is within 0.03 AP of the best.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from letters import first, make, side
from timing import show

from detrcli.api.training import train
from detrcli.data.make import make_shapes

VALIDATION, TRIALS, FINALISTS, SHARE = 100, 20, 2, 10
DIGITS = {10 + number: str(number) for number in range(10)}
SETS: Mapping[str, Callable[[Path], None]] = {
    "letters": lambda folder: make(folder, splits={"train": 300, "val": VALIDATION}),
    "digits": lambda folder: make(folder, DIGITS, (144, 112), {"train": 150, "val": VALIDATION}),
    "icons": lambda folder: icons(folder, 80),
}


def icons(folder: Path, images: int) -> None:
    """Write few training images, and more validation images than `shapes` has for that number."""
    classes = ["ring", "hexagon", "arrow", "ell", "moon"]
    make_shapes(folder, images=4 * VALIDATION, classes=classes)
    path = folder / "annotations" / "instances_train.json"
    path.write_text(json.dumps(first(images, json.loads(path.read_text()))))


def by_hand(size: int) -> list[dict[str, Any]]:
    """Return twenty random settings in the usual range for images of this size; the others are the recipe's."""
    rng = np.random.default_rng(0)
    return [
        {
            "lr": round(float(10 ** rng.uniform(-3.5, -2)), 5),
            "augmentation": str(rng.choice(["none", "flip", "strong", "strong"])),
            "batch_size": int(rng.choice([4, 8, 16])),
            "weight_decay": float(rng.choice([1e-4, 0.05])),
            "ema": float(rng.choice([0, 0.99, 0.998])),
            "schedule": str(rng.choice(["cosine", "step"])),
            "size": 8 * round(size * float(rng.choice([0.75, 1, 1, 1.25])) / 8),
            "queries": int(rng.choice([20, 30, 50])),
        }
        for _ in range(TRIALS)
    ]


def with_epochs(trial: Mapping[str, Any], epochs: int, images: int) -> dict[str, Any]:
    """Add the number of epochs, a warmup of 5%, and an evaluation at the end."""
    warmup = epochs * (images // trial["batch_size"]) // 20
    return {**trial, "epochs": epochs, "warmup": warmup, "eval_every": epochs}


def trained(data: Path, run: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Train, unless this was done before, and return the AP on the validation split and the number of epochs."""
    kept = run.with_suffix(".json")
    if not kept.exists():
        result: Any = train(data, weights="shapes", out=run, report=False, settings={"workers": 0, **settings})
        kept.write_text(json.dumps({"AP": result.rows[-1]["AP"], "epochs": result.epochs, "settings": dict(settings)}))
    document: dict[str, Any] = json.loads(kept.read_text())
    return document


def compare(name: str, folder: Path) -> dict[str, Any]:
    """Compare the recipe with the best of the other settings on one dataset."""
    data = folder / name
    if not data.exists():
        SETS[name](data)
    recipe = trained(data, folder / f"{name}-recipe", {"eval_every": 1000})  # at the end only
    epochs, ours = recipe["epochs"], recipe["AP"]
    images = len(json.loads((data / "annotations" / "instances_train.json").read_text())["images"])
    trials = by_hand(side(data))

    def reached(number: int, epochs: int, suffix: str = "") -> float:
        run = folder / f"{name}-{number}{suffix}"
        return float(trained(data, run, with_epochs(trials[number], epochs, images))["AP"])

    short = {number: reached(number, epochs // SHARE, "-short") for number in range(TRIALS)}
    finalists = sorted(short, key=lambda number: -short[number])[:FINALISTS]
    full = {number: reached(number, epochs) for number in finalists}
    best = max(full, key=lambda number: full[number])
    return {
        "dataset": name,
        "epochs": epochs,
        "recipe": round(ours, 3),
        "best by hand": round(full[best], 3),
        "difference": round(ours - full[best], 3),
        "its settings": " ".join(f"{key}={value}" for key, value in trials[best].items()),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", choices=list(SETS), default=list(SETS))
    args = parser.parse_args()
    show([compare(name, args.folder) for name in args.only])


if __name__ == "__main__":
    main()
