"""Measure how fast annotations of COCO's size are read, and the cost of a loader process.

    python examples/data_loading.py

Writes an annotation file of the size of COCO train2017 (118,287 images, 860,001 boxes with polygons) to a temporary
folder. Reads it with detrcli and with Python's json, alternating, each in its own process. Then measures the bytes
sent to each loader process, and the images per second that one core augments. Expected on two cores: a few seconds for
the file, several times faster than json, and a few kilobytes per process for any dataset size.
"""

import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import torch
from timing import show_values

from detrcli.config import Preprocessing
from detrcli.data.annotations import annotate, classes_in_report
from detrcli.data.dataset import DetectionDataset
from detrcli.data.examine import examine_headers
from detrcli.data.make import make_shapes
from detrcli.data.source import open_data

IMAGES, BOXES, ROUNDS = 118_287, 860_001, 3

OURS = """
import resource, sys, time
from pathlib import Path
from detrcli.data.layouts import coco
start = time.perf_counter()
written = coco.read(Path(sys.argv[1]), [Path(sys.argv[1]).parent])
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, len(written.boxes))
"""
JSON = """
import json, resource, sys, time
start = time.perf_counter()
with open(sys.argv[1]) as file:
    document = json.load(file)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(time.perf_counter() - start, peak, len(document["annotations"]))
"""


def write(path: Path) -> None:
    """Write annotations like COCO's, with polygons of twenty points."""
    rng = random.Random(0)
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "width": 640, "height": 480, "license": 3} for i in range(IMAGES)]
    with path.open("w") as file:
        file.write('{"images": ' + json.dumps(images) + ', "annotations": [')
        for i in range(BOXES):
            x, y, w, h = (round(rng.uniform(0, 300), 2) for _ in range(4))
            polygon = [round(rng.uniform(0, 600), 2) for _ in range(40)]
            entry = {"segmentation": [polygon], "area": w * h, "iscrowd": 0, "image_id": rng.randrange(IMAGES)}
            entry |= {"bbox": [x, y, w, h], "category_id": rng.randint(1, 90), "id": i + 1}
            file.write((", " if i else "") + json.dumps(entry))
        file.write('], "categories": ' + json.dumps([{"id": i, "name": f"class {i}"} for i in range(1, 91)]) + "}")


def run(code: str, path: Path) -> tuple[float, float]:
    shown = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    seconds, peak, count = map(float, shown.stdout.split())
    assert count == BOXES
    return seconds, peak


def reading(folder: Path) -> dict[str, float]:
    path = folder / "instances.json"
    write(path)
    pairs = [(run(OURS, path), run(JSON, path)) for _ in range(ROUNDS)]
    return {
        "file_MB": round(path.stat().st_size / 1e6),
        "ours_s": round(statistics.median(ours[0] for ours, _ in pairs), 2),
        "json_s": round(statistics.median(theirs[0] for _, theirs in pairs), 2),
        "time_ratio": round(statistics.median(theirs[0] / ours[0] for ours, theirs in pairs), 1),
        "ours_peak_MB": round(pairs[0][0][1]),
        "json_peak_MB": round(pairs[0][1][1]),
    }


def loader(folder: Path, images: int, side: int, size: int) -> DetectionDataset:
    """Return a training dataset of `shapes`."""
    make_shapes(folder, images=images, size=side)
    examined = examine_headers(open_data(folder), ["train"])
    annotations = annotate(examined.splits["train"], classes_in_report(examined))
    preprocessing = Preprocessing(Preprocessing().resize.with_size(size, round(size * 1333 / 800)))
    return DetectionDataset(annotations, preprocessing, augmentation="published")


def per_second(dataset: DetectionDataset, count: int) -> float:
    start = time.perf_counter()
    for i in range(count):
        dataset[0, i]
    return round(count / (time.perf_counter() - start), 1)


def sharing(folder: Path) -> dict[str, float]:
    torch.set_num_threads(1)
    few, many = loader(folder / "few", 50, 128, 128), loader(folder / "many", 2000, 128, 128)
    large = loader(folder / "large", 40, 640, 800)
    return {
        "bytes_per_process_50_images": len(ForkingPickler.dumps(few)),
        "bytes_per_process_2000_images": len(ForkingPickler.dumps(many)),
        "augmented_per_s_128_pixels": per_second(many, 500),
        "augmented_per_s_640_pixels_at_800": per_second(large, 40),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        show_values({**reading(Path(folder)), **sharing(Path(folder))})


if __name__ == "__main__":
    main()
