"""Ablation: what makes a small detection transformer learn fast.

    pip install . && python examples/letters.py letters
    python examples/convergence.py letters runs/convergence

Trains each variant from scratch on the same number of images with three seeds: a plain small DETR, then one more
ingredient each time up to dino-tiny, then dino-tiny with one change. Finished runs are not repeated, so the script can
be interrupted, and several processes can share the work with --seeds and --variants. A variant takes a minute and a
half per seed on two cores; on `shapes` (`detr data make shapes shapes`) with --images 10000, two to four minutes.

--speed measures the training speed of each variant at the end (use an idle machine): minutes are images seen divided
by images per second. Prints a table of means over the seeds and half their range, and draws AP against minutes and
epochs with a band from the worst to the best seed. Instability is the share of objects that the last layer matches
with another query than at the evaluation before, in the second half of the training. Duplicates are detections of an
object that a detection with a higher score has found, per object, at the score threshold with the best F1.
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
from detrcli.evaluation.outcomes import errors_of
from detrcli.evaluation.thresholds import best_thresholds
from detrcli.model.backbone import TinyBackbone
from detrcli.model.detr import DETR
from detrcli.model.position import SinePosition
from detrcli.model.transformer import Decoder, Encoder
from detrcli.render.plot import Panel, plot
from detrcli.training.matching_history import read


class PlainTiny(SoftmaxArchitecture[TinyConfig]):
    """detr-tiny with learned queries as in the paper, without box refinement."""

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
    """Return a preset with changes."""
    architecture, config = preset(name)
    return Preset(architecture, replace(config, **changes))


TINY = preset("dino-tiny")
DEFORMABLE = preset("deformable-tiny")
BASIC: Mapping[str, Any] = {"lr": 5e-4, "schedule": "cosine", "batch_size": 16}
# Model and training settings of each variant. First the ingredients that are added ...
ADDED: Mapping[str, tuple[Preset, Mapping[str, Any]]] = {
    "plain DETR": (preset("plain-tiny"), BASIC),
    "+ box refinement (detr-tiny)": (preset("detr-tiny"), BASIC),
    "+ augmentation, EMA, gradient clipping": (
        preset("detr-tiny"),
        {**BASIC, "augmentation": "strong", "ema": 0.998, "grad_clip": 1.0, "weight_decay_on": "matrices"},
    ),
    "+ deformable attention, proposals (deformable-tiny)": (DEFORMABLE, {"lr": 5e-4}),
    "+ the recipe's learning rate": (DEFORMABLE, {}),
    "+ quality focal loss, no encoder": (changed("dino-tiny", denoising=0), {}),
    "+ denoising (dino-tiny)": (TINY, {}),
}
# ... then single changes of dino-tiny.
CHANGED: Mapping[str, tuple[Preset, Mapping[str, Any]]] = {
    "flips only": (TINY, {"augmentation": "flip"}),
    "no EMA": (TINY, {"ema": 0.0}),
    "lr 1e-3": (TINY, {"lr": 1e-3}),
    "one decoder layer": (changed("dino-tiny", decoder_layers=1), {}),
    "no decoder": (changed("dino-tiny", decoder_layers=0, denoising=0), {}),
    "one encoder layer": (changed("dino-tiny", encoder_layers=1), {}),
    "40 denoising queries": (changed("dino-tiny", denoising=40), {}),
}
VARIANTS = {**ADDED, **CHANGED}
LAST = "+ denoising (dino-tiny)"
PRESET = "as measured"  # name of the preset with the model of the variant
COLUMNS = ("AP", "AP50", "APs")
SPEED_IMAGES = 192


def folder_of(out: Path, name: str, seed: int) -> Path:
    words = "".join(letter if letter.isalnum() else " " for letter in name).split()
    return out / "-".join((*words, str(seed)))


def train_variant(data: Path, folder: Path, name: str, seed: int, images: int) -> None:
    (architecture, config), settings = VARIANTS[name]
    for known in architectures().values():  # in this process only
        known.presets = {key: value for key, value in known.presets.items() if key != PRESET}
    architecture.presets = {**architecture.presets, PRESET: config}
    epochs = max(1, round(images / count(data)))
    chosen = {"epochs": epochs, "eval_every": max(1, epochs // 6), "workers": 0, "size": side(data), **settings}
    train(data, model=PRESET, weights="none", seed=seed, out=folder, settings=chosen, report=False)


def count(data: Path) -> int:
    """Return the number of training images."""
    return len(json.loads((data / "annotations" / "instances_train.json").read_text())["images"])


def run(data: Path, out: Path, name: str, seed: int, images: int) -> None:
    """Train one variant with one seed and measure its detections, unless this was done before."""
    folder = folder_of(out, name, seed)
    measured = folder / "duplicates.json"
    if measured.exists():
        return
    if not (folder / "metrics.csv").exists():
        train_variant(data, folder, name, seed, images)
    result = evaluate(data, folder / "last.safetensors")
    threshold = best_thresholds(result.truth, result.results).overall.threshold
    kept = result.results.part(result.results.scores >= threshold)
    errors = {error.kind: error.count for error in errors_of(result.truth, kept)}
    history = read(folder)
    instability = history.moved[len(history.moved) // 2 :, -1].mean() / history.counts.sum()
    duplicates = errors["duplicate"] / int((~result.truth.crowd).sum())
    measured.write_text(json.dumps({"duplicates": duplicates, "instability": float(instability)}))


def measure_speed(data: Path, out: Path, variants: Sequence[str]) -> None:
    """Measure the training speed of each variant on a part of the dataset, in turn: the best epoch of two rounds."""
    part = out / "few"
    if not part.exists():
        part_of(data, part)
    speeds: dict[str, float] = {}
    for _ in range(2):
        for name in variants:
            folder = folder_of(out, f"speed {name}", len(list(out.glob("speed*"))))
            train_variant(part, folder, name, 0, 3 * SPEED_IMAGES)
            with (folder / "metrics.csv").open() as file:
                fastest = max(float(row["images_per_second"]) for row in csv.DictReader(file))
            speeds[name] = max(speeds.get(name, 0.0), fastest)
    (out / "speed.json").write_text(json.dumps(speeds))


def part_of(data: Path, folder: Path) -> None:
    """Link the first images of both splits."""
    (folder / "annotations").mkdir(parents=True)
    for split, images in (("train", SPEED_IMAGES), ("val", 16)):
        (folder / split).symlink_to((data / split).resolve())
        file = f"annotations/instances_{split}.json"
        (folder / file).write_text(json.dumps(first(images, json.loads((data / file).read_text()))))


def rows_of(folder: Path) -> list[dict[str, float]]:
    """Return the metrics of the evaluated epochs."""
    with (folder / "metrics.csv").open() as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file) if row["AP"]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=5400, help="images seen in each training")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--speed", action="store_true", help="measure the training speed of each variant")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for name in args.variants:
            run(args.data, args.out, name, seed, args.images)
    if args.speed:
        measure_speed(args.data, args.out, args.variants)
    report(args.data, args.out)


def report(data: Path, out: Path) -> None:
    """Print the table and draw the figure of all finished runs."""
    runs = {name: sorted(out.glob(f"{folder_of(out, name, 0).name[:-1]}[0-9]")) for name in VARIANTS}
    runs = {name: [path for path in done if (path / "duplicates.json").exists()] for name, done in runs.items()}
    speed = json.loads((out / "speed.json").read_text()) if (out / "speed.json").exists() else {}
    table, curves = [], {}
    for name, done in runs.items():
        if not done:
            continue
        rows = [rows_of(path) for path in done]
        measures = [json.loads((path / "duplicates.json").read_text()) for path in done]
        seen = count(data) * rows[0][-1]["epoch"]
        table.append(
            {
                "variant": name,
                "seeds": len(done),
                **{key: spread([epochs[-1].get(key, float("nan")) for epochs in rows]) for key in COLUMNS},
                **{key: spread([measure[key] for measure in measures]) for key in ("instability", "duplicates")},
                "images/s": round(speed[name], 1) if name in speed else "",
                "minutes": round(seen / speed[name] / 60, 1) if name in speed else "",
            }
        )
        curves[name] = [(epoch[0]["epoch"], [row["AP"] for row in epoch]) for epoch in zip(*rows, strict=False)]

    def panel(title: str, variants: Sequence[str], *, minutes: bool) -> Panel:
        shown, bands = {}, {}
        for name in variants:
            if name in curves and (not minutes or name in speed):
                factor = count(data) / speed[name] / 60 if minutes else 1
                short = name if name == LAST else name.split(" (")[0]
                shown[short] = [(factor * epoch, statistics.mean(values)) for epoch, values in curves[name]]
                bands[short] = [(factor * epoch, min(values), max(values)) for epoch, values in curves[name]]
        return Panel(title, "minutes on this machine" if minutes else "epochs", shown, 0, bands=bands)

    added, changed = list(ADDED), [LAST, *CHANGED]
    panels = [
        panel(title, variants, minutes=minutes)
        for title, variants in (("AP, one ingredient more", added), ("AP, one change", changed))
        for minutes in (False, True)
    ]
    plot(panels).save(out / "convergence.png")
    show(table)


def spread(values: Sequence[float]) -> str:
    """Format the mean and half the range."""
    return f"{statistics.mean(values):.3f} ± {(max(values) - min(values)) / 2:.3f}"


if __name__ == "__main__":
    main()
