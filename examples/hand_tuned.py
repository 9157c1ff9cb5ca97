"""Whether the recipe that goes by the data is near the best of twenty settings, on three small data sets.

    pip install . && python examples/hand_tuned.py FOLDER [--only letters|digits|icons]

Letters (300 pictures of 160 x 128), digits (150 of 144 x 112, ten classes) and icons (80 of 128 x 128: shapes that
the weights never saw), each with 100 others for validation. `detr train DATA --weights shapes` with nothing else
said, beside twenty settings drawn around what one would try by hand. Each of the twenty is trained for a tenth of the
recipe's epochs; the best two of them, and the recipe, then for all. What is done is not done again, so it can be
stopped and started, and a part of it can run beside another. Expected: the recipe within 0.03 AP of the best.
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
    """A few pictures for training, and more for validation than `shapes` would have for so few."""
    classes = ["ring", "hexagon", "arrow", "ell", "moon"]
    make_shapes(folder, images=4 * VALIDATION, classes=classes)
    path = folder / "annotations" / "instances_train.json"
    path.write_text(json.dumps(first(images, json.loads(path.read_text()))))


def by_hand(size: int) -> list[dict[str, Any]]:
    """Twenty settings around those that people try on pictures of this size; what is not named is the recipe's."""
    chance = np.random.default_rng(0)
    return [
        {
            "lr": round(float(10 ** chance.uniform(-3.5, -2)), 5),
            "augmentation": str(chance.choice(["none", "flip", "strong", "strong"])),
            "batch_size": int(chance.choice([4, 8, 16])),
            "weight_decay": float(chance.choice([1e-4, 0.05])),
            "ema": float(chance.choice([0, 0.99, 0.998])),
            "schedule": str(chance.choice(["cosine", "step"])),
            "size": 8 * round(size * float(chance.choice([0.75, 1, 1, 1.25])) / 8),
            "queries": int(chance.choice([20, 30, 50])),
        }
        for _ in range(TRIALS)
    ]


def with_epochs(trial: Mapping[str, Any], epochs: int, pictures: int) -> dict[str, Any]:
    """For so many epochs, with 5% of warm-up, evaluated once at the end."""
    warmup = epochs * (pictures // trial["batch_size"]) // 20
    return {**trial, "epochs": epochs, "warmup": warmup, "eval_every": epochs}


def reached(data: Path, run: Path, settings: Mapping[str, Any]) -> float:
    """AP on the validation split at the end of a training."""
    kept = run.with_suffix(".json")
    if not kept.exists():
        done: Any = train(data, weights="shapes", out=run, report=False, settings={"workers": 0, **settings})
        kept.write_text(json.dumps({"AP": done.rows[-1]["AP"], "settings": dict(settings)}))
    return float(json.loads(kept.read_text())["AP"])


def compare(name: str, folder: Path) -> dict[str, Any]:
    """The recipe beside the best of the others, on one set."""
    data = folder / name
    if not data.exists():
        SETS[name](data)
    planned: Any = train(data, weights="shapes", dry_run=True)
    recipe = planned.settings
    trials = by_hand(side(data))
    pictures = planned.steps_per_epoch * planned.pictures_per_step
    after = {
        number: reached(data, folder / f"{name}-{number}-short", with_epochs(trial, recipe.epochs // SHARE, pictures))
        for number, trial in enumerate(trials)
    }
    finalists = sorted(after, key=lambda number: -after[number])[:FINALISTS]
    ends = {
        number: reached(data, folder / f"{name}-{number}", with_epochs(trials[number], recipe.epochs, pictures))
        for number in finalists
    }
    best = max(ends, key=lambda number: ends[number])
    ours = reached(data, folder / f"{name}-recipe", {"eval_every": recipe.epochs})
    return {
        "set": name,
        "epochs": recipe.epochs,
        "recipe": round(ours, 3),
        "best by hand": round(ends[best], 3),
        "difference": round(ours - ends[best], 3),
        "its settings": " ".join(f"{key}={value}" for key, value in trials[best].items()),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", choices=list(SETS), default=list(SETS))
    asked = parser.parse_args()
    show([compare(name, asked.folder) for name in asked.only])


if __name__ == "__main__":
    main()
