"""What makes a small detection transformer learn fast: ingredients one after the other, and left out one at a time.

    pip install . && python examples/letters.py letters
    python examples/convergence.py letters runs/convergence

Each way is trained from scratch on the same number of pictures with three seeds: from a plain small DETR on, an
ingredient more each time, to dino-tiny; then dino-tiny without one of its ingredients or with one more. What is done
already is not done again, so it can be stopped and started, and several can share the work by --seeds and --ways.
A way takes a minute and a half for each seed on two cores; on `shapes` (`detr data make shapes shapes`), with
--pictures 10000, two to four.

How fast each way trains is measured by itself at the end (--speed, on an idle machine): minutes are pictures seen by
pictures a second. It prints a table of means over the seeds with half of their spread, and draws AP against minutes
and epochs with a band from the worst seed to the best. Instability is the share of objects that the last layer
matches with another query than at the evaluation before, over the second half of the training. Duplicates are
detections, over objects, of an object that a surer one has found, among those whose score gives the best F1.
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
from letters import first, side
from timing import show

from detrcli.api.evaluating import evaluate
from detrcli.api.training import train
from detrcli.architectures import Preset, architectures, preset, register
from detrcli.architectures.common import SoftmaxArchitecture
from detrcli.architectures.tiny import NORMS, SMALL_IMAGES, TinyConfig
from detrcli.evaluation.errors import errors_of
from detrcli.evaluation.thresholds import best_thresholds
from detrcli.model.detr import DETR
from detrcli.model.position import SinePosition
from detrcli.model.tiny_backbone import TinyBackbone
from detrcli.model.transformer import Decoder, Encoder
from detrcli.render.plot import Panel, plot
from detrcli.training.matching_history import read


class PlainTiny(SoftmaxArchitecture[TinyConfig]):
    """detr-tiny without its refining queries: learned ones, as the paper has them."""

    name = "plain-tiny"
    config = TinyConfig
    presets: Mapping[str, TinyConfig] = {"plain-tiny": TinyConfig()}
    preprocessing = SMALL_IMAGES

    def build(self, config: TinyConfig) -> DETR:
        c = config
        return DETR(
            backbone=TinyBackbone(c.width, norm=NORMS[c.norm]),
            position=SinePosition(c.dim),
            encoder=Encoder(c.encoder_layers, c.dim, c.heads, c.feed_forward, c.dropout, pre_norm=False),
            decoder=Decoder(c.decoder_layers, c.dim, c.heads, c.feed_forward, c.dropout, pre_norm=False),
            dim=c.dim,
            queries=c.queries,
            rows=self.scoring(c).num_logits(c.classes),
        )


register(PlainTiny())


def changed(name: str, **changes: Any) -> Preset:
    """A preset with other numbers."""
    architecture, config = preset(name)
    return Preset(architecture, replace(config, **changes))


PLAINLY: Mapping[str, Any] = {"lr": 5e-4, "schedule": "cosine", "batch_size": 16}
# The model, and settings of training, by what they are called. First what is added ...
ADDED: Mapping[str, tuple[Preset, Mapping[str, Any]]] = {
    "plain DETR": (preset("plain-tiny"), PLAINLY),
    "+ refining queries (detr-tiny)": (preset("detr-tiny"), PLAINLY),
    "+ augmentation, EMA, clipping": (
        preset("detr-tiny"),
        {**PLAINLY, "augmentation": "strong", "ema": 0.998, "grad_clip": 1.0, "weight_decay_on": "matrices"},
    ),
    "+ sampled points, proposals (deformable-tiny)": (preset("deformable-tiny"), {"lr": 5e-4}),
    "+ the recipe's learning rate": (preset("deformable-tiny"), {}),
    "+ quality loss, no encoder": (changed("dino-tiny", denoising=0), {}),
    "+ denoising (dino-tiny)": (preset("dino-tiny"), {}),
}
# ... then what is left out of the last, or added to it.
CHANGED: Mapping[str, tuple[Preset, Mapping[str, Any]]] = {
    "flips alone": (preset("dino-tiny"), {"augmentation": "flip"}),
    "no EMA": (preset("dino-tiny"), {"ema": 0.0}),
    "lr 1e-3": (preset("dino-tiny"), {"lr": 1e-3}),
    "one decoder layer": (changed("dino-tiny", decoder_layers=1), {}),
    "no decoder": (changed("dino-tiny", decoder_layers=0, denoising=0), {}),
    "an encoder layer": (changed("dino-tiny", encoder_layers=1), {}),
    "40 denoising queries": (changed("dino-tiny", denoising=40), {}),
}
WAYS = {**ADDED, **CHANGED}
LAST = "+ denoising (dino-tiny)"
MEASURED = "as measured"  # what the model of a way is called while it is trained
COLUMNS = ("AP", "AP50", "APs")
FEW = 192  # pictures, by which speed is measured


def folder_of(out: Path, name: str, seed: int) -> Path:
    """Where a run of a way stands."""
    words = "".join(letter if letter.isalnum() else " " for letter in name).split()
    return out / "-".join((*words, str(seed)))


def train_way(data: Path, folder: Path, name: str, seed: int, pictures: int) -> None:
    """Train one way with one seed."""
    (architecture, config), settings = WAYS[name]
    for known in architectures().values():
        known.presets = {key: value for key, value in known.presets.items() if key != MEASURED}  # in this process
    architecture.presets = {**architecture.presets, MEASURED: config}
    epochs = max(1, round(pictures / count(data)))
    chosen = {"epochs": epochs, "eval_every": max(1, epochs // 6), "workers": 0, "size": side(data), **settings}
    train(data, model=MEASURED, weights="none", seed=seed, out=folder, settings=chosen, report=False)


def count(data: Path) -> int:
    """Pictures to train on."""
    return len(json.loads((data / "annotations" / "instances_train.json").read_text())["images"])


def run(data: Path, out: Path, name: str, seed: int, pictures: int) -> None:
    """One way with one seed, and what its detections are worth, unless it was done before."""
    folder = folder_of(out, name, seed)
    measured = folder / "duplicates.json"
    if measured.exists():
        return
    if not (folder / "metrics.csv").exists():
        train_way(data, folder, name, seed, pictures)
    found = evaluate(data, folder / "last.safetensors")
    kept = found.results.part(found.results.scores >= best_thresholds(found.truth, found.results).overall.threshold)
    errors = {one.kind: one.count for one in errors_of(found.truth, kept)}
    moved = read(folder)
    late = moved.moved[len(moved.moved) // 2 :, -1].mean() / moved.counts.sum()
    measured.write_text(
        json.dumps({"duplicates": errors["duplicate"] / int((~found.truth.crowd).sum()), "instability": float(late)})
    )


def measure_speed(data: Path, out: Path, ways: Sequence[str]) -> None:
    """Pictures a second of each way's training on a part of the data, in turn, the best epoch of two rounds."""
    few = out / "few"
    if not few.exists():
        part_of(data, few)
    speeds: dict[str, float] = {}
    for _ in range(2):
        for name in ways:
            folder = folder_of(out, f"speed {name}", len(list(out.glob("speed*"))))
            train_way(few, folder, name, 0, 3 * FEW)
            with (folder / "metrics.csv").open() as file:
                fastest = max(float(row["pictures_per_second"]) for row in csv.DictReader(file))
            speeds[name] = max(speeds.get(name, 0.0), fastest)
    (out / "speed.json").write_text(json.dumps(speeds))


def part_of(data: Path, folder: Path) -> None:
    """The first pictures of both splits; their files stay where they are."""
    (folder / "annotations").mkdir(parents=True)
    for split, images in (("train", FEW), ("val", 16)):
        (folder / split).symlink_to((data / split).resolve())
        file = f"annotations/instances_{split}.json"
        (folder / file).write_text(json.dumps(first(images, json.loads((data / file).read_text()))))


def rows_of(folder: Path) -> list[dict[str, float]]:
    """The epochs that were evaluated."""
    with (folder / "metrics.csv").open() as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file) if row["AP"]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pictures", type=int, default=5400, help="seen in each training")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--speed", action="store_true", help="measure how fast each way trains")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    asked.out.mkdir(parents=True, exist_ok=True)
    for seed in asked.seeds:
        for name in asked.ways:
            run(asked.data, asked.out, name, seed, asked.pictures)
    if asked.speed:
        measure_speed(asked.data, asked.out, asked.ways)
    report(asked.data, asked.out)


def report(data: Path, out: Path) -> None:
    """The table and the figure of all that is done."""
    runs = {name: sorted(out.glob(f"{folder_of(out, name, 0).name[:-1]}[0-9]")) for name in WAYS}
    runs = {name: [one for one in done if (one / "duplicates.json").exists()] for name, done in runs.items()}
    speed = json.loads((out / "speed.json").read_text()) if (out / "speed.json").exists() else {}
    table, curves = [], {}
    for name, done in runs.items():
        if not done:
            continue
        rows = [rows_of(one) for one in done]
        also = [json.loads((one / "duplicates.json").read_text()) for one in done]
        seen = count(data) * rows[0][-1]["epoch"]
        table.append(
            {
                "way": name,
                "seeds": len(done),
                **{key: spread([one[-1].get(key, float("nan")) for one in rows]) for key in COLUMNS},
                "instability": spread([one["instability"] for one in also]),
                "duplicates": spread([one["duplicates"] for one in also]),
                "pictures/s": round(speed[name], 1) if name in speed else "",
                "minutes": round(seen / speed[name] / 60, 1) if name in speed else "",
            }
        )
        curves[name] = [(epoch[0]["epoch"], [one["AP"] for one in epoch]) for epoch in zip(*rows, strict=False)]

    def panel(title: str, ways: Sequence[str], *, minutes: bool) -> Panel:
        shown = {}
        bands = {}
        for name in ways:
            if name in curves and (not minutes or name in speed):
                factor = count(data) / speed[name] / 60 if minutes else 1
                short = name if name == LAST else name.split(" (")[0]
                shown[short] = [(factor * epoch, statistics.mean(values)) for epoch, values in curves[name]]
                bands[short] = [(factor * epoch, min(values), max(values)) for epoch, values in curves[name]]
        return Panel(title, "minutes on this machine" if minutes else "epochs", shown, 0, bands=bands)

    added, changed = list(ADDED), [LAST, *CHANGED]
    panels = [
        panel("AP, one ingredient more", added, minutes=False),
        panel("AP, one ingredient more", added, minutes=True),
        panel("AP, one change", changed, minutes=False),
        panel("AP, one change", changed, minutes=True),
    ]
    plot(panels).save(out / "convergence.png")
    show(table)


def spread(values: Sequence[float]) -> str:
    """The mean, and half of the way from the least to the most."""
    return f"{statistics.mean(values):.3f} ± {(max(values) - min(values)) / 2:.3f}"


if __name__ == "__main__":
    main()
