"""What makes a small detection transformer learn fast: ingredients left out one at a time, over seeds and minutes.

    pip install . && python examples/letters.py letters
    python examples/convergence.py letters runs/convergence

Each way is trained from scratch on the same number of pictures with three seeds, in turn, on two threads: dino-tiny
as it stands, the same without one of its ingredients or with one more, deformable-tiny and detr-tiny. What is done
already is not done again, so it can be stopped and started, and several can share the work by --seeds. It prints a
table of means over the seeds with the spread between them, and draws AP against minutes and epochs. A way takes a
minute and a half for each seed on two cores.
"""

import argparse
import csv
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timing import show

from detrcli.api.training import train
from detrcli.config import ModelConfig
from detrcli.render.plot import Panel, plot
from detrcli.variants import preset, variants

TINY = preset("dino-tiny")
# The model, and settings of training, by what they are called.
WAYS: Mapping[str, tuple[ModelConfig, Mapping[str, Any]]] = {
    "dino-tiny": (TINY, {}),
    "no denoising": (replace(TINY, denoising=0), {}),
    "flips alone": (TINY, {"augmentation": "flip"}),
    "an encoder layer more": (replace(TINY, encoder_layers=1), {}),
    "one decoder layer": (replace(TINY, decoder_layers=1), {}),
    "no decoder": (replace(TINY, decoder_layers=0, denoising=0), {}),
    "lr 1e-3": (TINY, {"lr": 1e-3}),
    "deformable-tiny": (preset("deformable-tiny"), {}),
    "detr-tiny": (preset("detr-tiny"), {"lr": 5e-4, "schedule": "cosine", "batch_size": 16, "eval_every": 3}),
}
# Which curves stand in a panel together.
MEMBERS = ("dino-tiny", "deformable-tiny", "detr-tiny")
LEFT_OUT = (
    ("dino-tiny", "no denoising", "flips alone"),
    ("dino-tiny", "an encoder layer more", "one decoder layer", "no decoder"),
)


def run(data: Path, out: Path, name: str, seed: int, pictures: int) -> None:
    """Train one way with one seed, unless it was done before."""
    folder = out / f"{name.replace(' ', '-')}-{seed}"
    if (folder / "metrics.csv").exists():
        return
    model, settings = WAYS[name]
    for variant in variants().values():
        if variant.config is type(model):
            variant.presets["as measured"] = model  # type: ignore[index]  # for this process alone
    epochs = max(1, round(pictures / len(json.loads(labels(data).read_text())["images"])))
    chosen = {"epochs": epochs, "eval_every": max(1, epochs // 6), "workers": 0, **settings}
    train(data, model="as measured", weights="none", seed=seed, out=folder, settings=chosen)


def labels(data: Path) -> Path:
    return data / "annotations" / "instances_train.json"


def rows_of(folder: Path) -> list[dict[str, float]]:
    """The epochs that were evaluated."""
    with (folder / "metrics.csv").open() as file:
        return [
            {key: float(value) for key, value in row.items() if value}
            for row in csv.DictReader(file)
            if row["AP"]
        ]


def mean_curve(
    runs: Sequence[list[dict[str, float]]], across: str, factor: float
) -> list[tuple[float, float]]:
    """AP of the seeds' mean, at the mean of where they were."""
    return [
        (
            factor * statistics.mean(row[across] for row in rows),
            statistics.mean(row["AP"] for row in rows),
        )
        for rows in zip(*runs, strict=False)
    ]


def table(found: Mapping[str, list[list[dict[str, float]]]]) -> list[dict[str, Any]]:
    def of(runs: list[list[dict[str, float]]], key: str) -> str:
        values = [rows[-1].get(key, float("nan")) for rows in runs]
        spread = f" ± {(max(values) - min(values)) / 2:.3f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.3f}{spread}"

    return [
        {
            "way": name,
            "seeds": len(runs),
            **{key: of(runs, key) for key in ("AP", "AP50", "APs")},
            "minutes": round(statistics.mean(rows[-1]["seconds"] for rows in runs) / 60, 1),
        }
        for name, runs in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pictures", type=int, default=5400, help="seen in each training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    asked.out.mkdir(parents=True, exist_ok=True)
    for seed in asked.seeds:
        for name in asked.ways:
            run(asked.data, asked.out, name, seed, asked.pictures)
    found = {
        name: runs
        for name in WAYS
        if (runs := [rows_of(path) for path in sorted(asked.out.glob(f"{name.replace(' ', '-')}-[0-9]*"))])
    }

    def panel(across: str, column: str, factor: float, ways: Sequence[str]) -> Panel:
        shown = {name: mean_curve(found[name], column, factor) for name in ways if name in found}
        return Panel("AP", across, shown, 0)

    panels = [
        panel("minutes", "seconds", 1 / 60, MEMBERS),
        panel("epochs", "epoch", 1, MEMBERS),
        *(panel("minutes", "seconds", 1 / 60, ways) for ways in LEFT_OUT),
    ]
    plot(panels).save(asked.out / "convergence.png")
    show(table(found))


if __name__ == "__main__":
    main()
