"""Measure the memory of commands on large inputs: many images, boxes, classes, objects, pixels and steps.

    python examples/load.py FOLDER [--share X] [--only NAME...]

Each part writes its data below FOLDER (`--share` of the full size), runs one command on it, and records the resident
memory of the process: after a tenth of its time, at its end, and at its peak. Expected: every command exits with 0,
and for images and steps, memory at the end is at most 1.15 times that after a tenth. Takes about forty minutes on two
cores and requires Linux.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from timing import show, write_coco

IMAGES, BOXES, CLASSES, OBJECTS, SIDE, STEPS = 100_000, 1_000_000, 1_203, 1_000, 20_000, 20_000
KINDS = ("jpg", "png", "webp", "bmp", "tif", "gif")
MODES = ("RGB", "L", "RGBA", "P")
SEQUENTIAL = ("images", "steps")  # parts whose memory should stay constant
Command = Sequence[object]


def random_image(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((width, height))


def many_images(folder: Path, share: float) -> Command:
    """Images of all formats and many sizes, 1% of them broken, as links to a few hundred files."""
    rng, count = np.random.default_rng(0), round(IMAGES * share)
    (folder / "files").mkdir()
    files: list[Path] = []
    for i in range(min(count, 480)):
        kind, mode = KINDS[i % len(KINDS)], MODES[i // len(KINDS) % len(MODES)]
        if kind == "jpg" and mode in ("RGBA", "P"):
            mode = "L"
        path = folder / "files" / f"{i}.{kind}"
        random_image(rng, *rng.integers(16, 160, 2).tolist()).convert(mode).save(path)
        if i % 100 == 99:
            path.write_bytes(path.read_bytes()[:60])
        files.append(path)
    for i in range(count):
        subfolder = folder / "photos" / f"{i % 100:02d}"
        subfolder.mkdir(parents=True, exist_ok=True)
        source = files[i % len(files)]
        os.link(source, subfolder / f"{i:06d}{source.suffix}")
    return (
        "predict", folder / "photos", "--weights", "shapes-detr", "--size", 48, "--save", folder / "detections.jsonl",
        "--no-images", "--batch-size", 8,
    )  # fmt: skip


def write_split(folder: Path, boxes: Sequence[int], classes: int, *, split: str = "train") -> None:
    """Write images with the given numbers of boxes, as links to one file."""
    rng = np.random.default_rng(1)
    (folder / split).mkdir(parents=True, exist_ok=True)
    first = folder / f"{split}.png"
    random_image(rng, 160, 120).save(first)
    images, annotations = [], []
    for i, count in enumerate(boxes):
        os.link(first, folder / split / f"{i:06d}.png")
        images.append({"id": i + 1, "file_name": f"{i:06d}.png", "width": 160, "height": 120})
        for box in random_boxes(rng, count):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": i + 1, "bbox": box, "area": box[2] * box[3],
                 "category_id": len(annotations) % classes + 1, "iscrowd": 0}
            )  # fmt: skip
    categories = [{"id": k + 1, "name": f"class {k + 1}"} for k in range(classes)]
    write_coco(folder, split, images, annotations, categories)


def random_boxes(rng: np.random.Generator, count: int) -> list[list[float]]:
    return np.round(rng.random((count, 4)) * [120, 80, 36, 36] + [0, 0, 4, 4], 2).tolist()


def many_boxes(folder: Path, share: float) -> Command:
    """Twenty boxes per image."""
    write_split(folder / "data", [20] * max(1, round(BOXES * share / 20)), 80)
    return ("data", "check", folder / "data")


def many_classes(folder: Path, share: float) -> Command:
    """Detections of as many classes as LVIS has, 300 per image."""
    rng, images = np.random.default_rng(2), max(2, round(2000 * share))
    write_split(folder / "data", [10] * images, CLASSES, split="val")
    detections = [
        {"image_id": image + 1, "category_id": int(category), "bbox": box, "score": round(float(score), 4)}
        for image in range(images)
        for category, score, box in zip(
            rng.integers(1, CLASSES + 1, 300), rng.random(300), random_boxes(rng, 300), strict=True
        )
    ]
    (folder / "detections.json").write_text(json.dumps(detections))
    return ("eval", folder / "data", "--predictions", folder / "detections.json")


def many_objects(folder: Path, share: float) -> Command:
    """A training on images with a thousand objects each, and as many queries."""
    objects = max(10, round(OBJECTS * share))
    for split in ("train", "val"):
        write_split(folder / "data", [objects] * 4, 3, split=split)
        for i, path in enumerate(sorted((folder / "data" / split).iterdir())):
            path.unlink()  # images must differ between the splits
            random_image(np.random.default_rng([len(split), i]), 160, 120).save(path)
    return (
        "train", folder / "data", "--model", "detr-tiny", "--weights", "none", "--set", f"queries={objects}",
        "--size", 120, "--batch-size", 2, "--epochs", 2, "--set", "workers=0", "--out", folder / "run", "--no-report",
    )  # fmt: skip


def many_pixels(folder: Path, share: float) -> Command:
    """One image of 400 megapixels."""
    side = round(SIDE * share**0.5)
    Image.new("L", (side, side), 90).save(folder / "large.png", compress_level=1)
    return (
        "predict", folder / "large.png", "--weights", "shapes-detr", "--max-pixels", SIDE**2, "--no-images",
    )  # fmt: skip


def many_steps(folder: Path, share: float) -> Command:
    """Training steps on images of random sizes: two images per step, 200 steps per epoch."""
    rng = np.random.default_rng(3)
    for split, count in (("train", 400), ("val", 4)):
        write_split(folder / "data", [3] * count, 3, split=split)
        path = folder / "data" / "annotations" / f"instances_{split}.json"
        document = json.loads(path.read_text())
        for image in document["images"]:
            width, height = rng.integers(64, 220, 2).tolist()
            file = folder / "data" / split / image["file_name"]
            file.unlink()
            random_image(rng, width, height).save(file)
            image |= {"width": width, "height": height}
        for annotation in document["annotations"]:
            annotation["bbox"] = [5, 5, 20 + annotation["id"] % 30, 20 + annotation["id"] % 25]
        path.write_text(json.dumps(document))
    return (
        "train", folder / "data", "--model", "detr-tiny", "--weights", "none", "--size", 48, "--batch-size", 2,
        "--epochs", max(2, round(STEPS * share / 200)), "--set", "eval_every=1000", "--set", "workers=0",
        "--set", "save_every=1", "--out", folder / "run", "--no-report",
    )  # fmt: skip


PARTS: Mapping[str, Callable[[Path, float], Command]] = {
    "images": many_images,
    "boxes": many_boxes,
    "classes": many_classes,
    "objects": many_objects,
    "pixels": many_pixels,
    "steps": many_steps,
}


def megabytes(pid: int, field: str) -> float:
    """Return a field of /proc/PID/status, or 0 if the process has ended."""
    try:
        match = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(match[1]) / 1000 if match else 0.0


def monitored(command: Command, log: Path) -> dict[str, Any]:
    """Run a `detr` command and record its memory four times per second."""
    start, samples, peak = time.monotonic(), [], 0.0
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "detrcli", *map(str, command)], stdout=out, stderr=subprocess.STDOUT
        )
        while process.poll() is None:
            samples.append((time.monotonic() - start, megabytes(process.pid, "VmRSS")))
            peak = max(peak, megabytes(process.pid, "VmHWM"))
            time.sleep(0.25)
    seconds = time.monotonic() - start
    # Startup takes up to 6 s and does not count as growth.
    tenth = next((resident for after, resident in samples if after >= max(0.1 * seconds, 6)), 0.0)
    # The maximum of the last twentieth, because memory is already returned at the very end.
    end = max((resident for after, resident in samples if after >= 0.95 * seconds), default=0.0)
    return {
        "code": process.returncode,
        "seconds": round(seconds, 1),
        "MB after a tenth": round(tenth),
        "MB at the end": round(end),
        "peak MB": round(peak),
        "grown": round(end / tenth, 3) if tenth else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    args = parser.parse_args()
    rows = []
    for name in args.only:
        folder = args.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        command = PARTS[name](folder, args.share)
        row = {"part": name, **monitored(command, folder / "log.txt")}
        if name not in SEQUENTIAL:
            row["grown"] = None
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    show(rows, share=args.share)


if __name__ == "__main__":
    main()
