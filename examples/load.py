"""What the commands hold when there is much of everything: pictures, boxes, classes, objects, pixels, steps.

    python examples/load.py FOLDER [--share X] [--only NAME...]

Each part makes its data below FOLDER (`--share` of the full count), runs one command on it, and watches what is
resident in that process: after a tenth of its time, at its end, and at most. Expected: every command ends with 0, and
where pictures or steps come one after the other, the end holds at most 1.15 times what a tenth did. All of it takes
some forty minutes on two cores, and needs Linux.
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
from timing import show

PICTURES, BOXES, CLASSES, OBJECTS, SIDE, STEPS = 100_000, 1_000_000, 1_203, 1_000, 20_000, 20_000
KINDS = ("jpg", "png", "webp", "bmp", "tif", "gif")
MODES = ("RGB", "L", "RGBA", "P")
IN_ORDER = ("pictures", "steps")  # whose memory is to stay flat
Command = Sequence[object]


def picture(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Blotches."""
    return Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((width, height))


def many_pictures(folder: Path, share: float) -> Command:
    """Pictures of all kinds and of many sizes, one in a hundred broken: links to some hundred files."""
    rng, count = np.random.default_rng(0), round(PICTURES * share)
    (folder / "own").mkdir()
    own: list[Path] = []
    for i in range(min(count, 480)):
        kind, mode = KINDS[i % len(KINDS)], MODES[i // len(KINDS) % len(MODES)]
        if kind == "jpg" and mode in ("RGBA", "P"):
            mode = "L"
        path = folder / "own" / f"{i}.{kind}"
        picture(rng, *rng.integers(16, 160, 2).tolist()).convert(mode).save(path)
        if i % 100 == 99:
            path.write_bytes(path.read_bytes()[:60])
        own.append(path)
    for i in range(count):
        place = folder / "photos" / f"{i % 100:02d}"
        place.mkdir(parents=True, exist_ok=True)
        source = own[i % len(own)]
        os.link(source, place / f"{i:06d}{source.suffix}")
    return (
        "predict", folder / "photos", "--weights", "shapes-detr", "--size", 48, "--save", folder / "found.jsonl",
        "--no-images", "--batch-size", 8,
    )  # fmt: skip


def write_coco(folder: Path, boxes: Sequence[int], classes: int, *, split: str = "train") -> None:
    """Pictures with so many boxes each, which are links to one file."""
    rng = np.random.default_rng(1)
    (folder / split).mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    first = folder / f"{split}.png"
    picture(rng, 160, 120).save(first)
    images, annotations = [], []
    for i, count in enumerate(boxes):
        os.link(first, folder / split / f"{i:06d}.png")
        images.append({"id": i + 1, "file_name": f"{i:06d}.png", "width": 160, "height": 120})
        places = np.round(rng.random((count, 4)) * [120, 80, 36, 36] + [0, 0, 4, 4], 2).tolist()
        for box in places:
            annotations.append(
                {"id": len(annotations) + 1, "image_id": i + 1, "bbox": box, "area": box[2] * box[3],
                 "category_id": len(annotations) % classes + 1, "iscrowd": 0}
            )  # fmt: skip
    categories = [{"id": k + 1, "name": f"class {k + 1}"} for k in range(classes)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))


def many_boxes(folder: Path, share: float) -> Command:
    """Twenty boxes in each picture."""
    write_coco(folder / "data", [20] * max(1, round(BOXES * share / 20)), 80)
    return ("data", "check", folder / "data")


def many_classes(folder: Path, share: float) -> Command:
    """Detections of a set with the classes of LVIS, 300 in each picture."""
    rng, images = np.random.default_rng(2), max(2, round(2000 * share))
    write_coco(folder / "data", [10] * images, CLASSES, split="val")
    found = [
        {"image_id": image + 1, "category_id": int(category), "bbox": box, "score": round(float(score), 4)}
        for image in range(images)
        for category, score, box in zip(
            rng.integers(1, CLASSES + 1, 300),
            rng.random(300),
            np.round(rng.random((300, 4)) * [120, 80, 36, 36] + [0, 0, 4, 4], 2).tolist(),
            strict=True,
        )
    ]
    (folder / "found.json").write_text(json.dumps(found))
    return ("eval", folder / "data", "--predictions", folder / "found.json")


def many_objects(folder: Path, share: float) -> Command:
    """A training on pictures with a thousand objects each, and as many queries."""
    objects = max(10, round(OBJECTS * share))
    for split in ("train", "val"):
        write_coco(folder / "data", [objects] * 4, 3, split=split)
        for i, path in enumerate(sorted((folder / "data" / split).iterdir())):
            path.unlink()  # no picture is to be in both splits
            picture(np.random.default_rng([len(split), i]), 160, 120).save(path)
    return (
        "train", folder / "data", "--model", "detr-tiny", "--weights", "none", "--set", f"queries={objects}",
        "--size", 120, "--batch-size", 2, "--epochs", 2, "--set", "workers=0", "--out", folder / "run", "--no-report",
    )  # fmt: skip


def many_pixels(folder: Path, share: float) -> Command:
    """One picture of 400 megapixels."""
    side = round(SIDE * share**0.5)
    Image.new("L", (side, side), 90).save(folder / "large.png", compress_level=1)
    return (
        "predict", folder / "large.png", "--weights", "shapes-detr", "--max-pixels", SIDE**2, "--no-images",
    )  # fmt: skip


def many_steps(folder: Path, share: float) -> Command:
    """Steps on pictures of random sizes, two in each, 200 an epoch."""
    rng = np.random.default_rng(3)
    for split, count in (("train", 400), ("val", 4)):
        write_coco(folder / "data", [3] * count, 3, split=split)
        path = folder / "data" / "annotations" / f"instances_{split}.json"
        document = json.loads(path.read_text())
        for image in document["images"]:
            width, height = rng.integers(64, 220, 2).tolist()
            file = folder / "data" / split / image["file_name"]
            file.unlink()
            picture(rng, width, height).save(file)
            image |= {"width": width, "height": height}
        for one in document["annotations"]:
            one["bbox"] = [5, 5, 20 + one["id"] % 30, 20 + one["id"] % 25]
        path.write_text(json.dumps(document))
    return (
        "train", folder / "data", "--model", "detr-tiny", "--weights", "none", "--size", 48, "--batch-size", 2,
        "--epochs", max(2, round(STEPS * share / 200)), "--set", "eval_every=1000", "--set", "workers=0",
        "--set", "save_every=1", "--out", folder / "run", "--no-report",
    )  # fmt: skip


PARTS: Mapping[str, Callable[[Path, float], Command]] = {
    "pictures": many_pictures,
    "boxes": many_boxes,
    "classes": many_classes,
    "objects": many_objects,
    "pixels": many_pixels,
    "steps": many_steps,
}


def megabytes(pid: int, what: str) -> float:
    """Of a process that may just have ended."""
    try:
        found = re.findall(rf"{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found[0]) / 1000 if found else 0.0


def watched(command: Command, log: Path) -> dict[str, Any]:
    """Run a command of `detr` and look at it four times a second."""
    began, seen, most = time.monotonic(), [], 0.0
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "detrcli", *map(str, command)], stdout=out, stderr=subprocess.STDOUT
        )
        while process.poll() is None:
            seen.append((time.monotonic() - began, megabytes(process.pid, "VmRSS")))
            most = max(most, megabytes(process.pid, "VmHWM"))
            time.sleep(0.25)
    seconds = time.monotonic() - began
    # What is loaded before the first picture is no growth.
    tenth = next((held for after, held in seen if after >= max(0.1 * seconds, 6)), 0.0)
    # Of the last twentieth but the end itself, where memory is already being given back.
    end = max((held for after, held in seen if after >= 0.95 * seconds), default=0.0)
    return {
        "code": process.returncode,
        "seconds": round(seconds, 1),
        "MB after a tenth": round(tenth),
        "MB at the end": round(end),
        "MB at most": round(most),
        "grown": round(end / tenth, 3) if tenth else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    asked = parser.parse_args()
    rows = []
    for name in asked.only:
        folder = asked.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        command = PARTS[name](folder, asked.share)
        row = {"part": name, **watched(command, folder / "log.txt")}
        if name not in IN_ORDER:
            row["grown"] = None  # it is one piece of work
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    show(rows, share=asked.share)


if __name__ == "__main__":
    main()
