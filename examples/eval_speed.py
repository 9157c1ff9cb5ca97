"""Measure how fast `detr eval` computes the COCO metrics, and the time it adds to a model's own.

    python examples/eval_speed.py

First part: writes ground truth and results of COCO's size to a temporary folder (5,000 images, 36,000 boxes with
polygons, 500,000 detections). Runs `detr eval DATA --predictions FILE` and a plain pycocotools script, alternating,
each in its own process. Their metrics must be equal. Second part: runs a complete evaluation of 12 images of 640 x 480
with a loaded detr-r50 (random weights), the forward passes alone on the same inputs, and the evaluation with a
constant in place of the model, because the model's time varies by more than evaluation adds. Expected on two cores: at
least twenty times as fast as pycocotools, in under 1 GB, and at most 2% of the model's time added. Takes about five
minutes.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timing import random_weights, show_values, write_coco

from detrcli.checkpoints.coco import NAMES
from detrcli.data.examine import examine_headers
from detrcli.data.images import open_image
from detrcli.data.preprocessing import collate, prepare
from detrcli.data.source import open_data
from detrcli.evaluation.class_mapping import map_classes
from detrcli.evaluation.metrics import METRICS, score
from detrcli.evaluation.run import detect_split
from detrcli.evaluation.truth import classes_in_split, truth_of
from detrcli.inference.detector import Detector
from detrcli.inference.engines import EngineName
from detrcli.structures import Batch, Prediction

IMAGES, BOXES, DETECTIONS, CLASSES = 5_000, 36_000, 500_000, 80
PHOTOGRAPHS, ROUNDS = 12, 3

PYCOCOTOOLS = """
import sys
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
truth = COCO(sys.argv[1])
evaluation = COCOeval(truth, truth.loadRes(sys.argv[2]), "bbox")
evaluation.evaluate()
evaluation.accumulate()
evaluation.summarize()
print(evaluation.stats.tolist())
"""

# Runs a command, then prints seconds and peak memory in MB to stderr.
MEASURED = """
import resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, file=sys.stderr)
"""


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return (N, 4) boxes as x, y, width, height in images of 640 x 480, most of them small."""
    size = np.exp(rng.uniform(np.log(6), np.log(400), (count, 2))) * [1, 0.75]
    corner = rng.uniform(0, 1, (count, 2)) * ([640, 480] - size)
    return np.column_stack([corner, size]).round(2)


def write(folder: Path) -> None:
    """Write ground truth like COCO's, and results like a detector's: a fifth near objects, the others anywhere."""
    rng = np.random.default_rng(0)
    of_image, of_class = rng.integers(IMAGES, size=BOXES), 1 + (CLASSES * rng.random(BOXES) ** 2).astype(int)
    truth = boxes(rng, BOXES)
    polygons = rng.uniform(0, 480, (BOXES, 40)).round(2)
    annotations = [
        {"segmentation": [polygon], "area": 0.6 * w * h, "iscrowd": int(i % 80 == 0), "image_id": image + 1,
         "bbox": [x, y, w, h], "category_id": category, "id": i + 1}
        for i, (polygon, image, (x, y, w, h), category) in enumerate(
            zip(polygons.tolist(), of_image.tolist(), truth.tolist(), of_class.tolist(), strict=True)
        )
    ]  # fmt: skip
    files = [{"id": i, "file_name": f"{i:012d}.jpg", "width": 640, "height": 480} for i in range(1, IMAGES + 1)]
    write_coco(folder, "val", files, annotations, [{"id": i, "name": f"class {i}"} for i in range(1, CLASSES + 1)])

    near = rng.integers(BOXES, size=DETECTIONS // 5)
    elsewhere = DETECTIONS - len(near)
    moved = truth[near] + 0.08 * rng.normal(size=(len(near), 4)) * np.tile(truth[near, 2:], 2)
    detected = np.concatenate([moved, boxes(rng, elsewhere)])
    images = np.concatenate([of_image[near], np.arange(elsewhere) % IMAGES])
    classes = np.concatenate([of_class[near], 1 + (CLASSES * rng.random(elsewhere) ** 2).astype(int)])
    scores = np.concatenate([rng.beta(3, 2, len(near)), rng.beta(1, 6, elsewhere)]).round(6)
    order = np.argsort(images, kind="stable")
    results = [
        {"image_id": image + 1, "category_id": category, "bbox": box, "score": score}
        for image, category, box, score in zip(
            images[order].tolist(), classes[order].tolist(), detected[order].round(3).tolist(), scores[order].tolist(),
            strict=True,
        )
    ]  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))


def measured(*command: object) -> tuple[str, float, float]:
    """Return the stdout of a command, its seconds, and its peak memory in MB."""
    shown = subprocess.run(
        [sys.executable, "-c", MEASURED, sys.executable, *map(str, command)], capture_output=True, text=True, check=True
    )
    seconds, peak = map(float, shown.stderr.splitlines()[-1].split())
    return shown.stdout, seconds, peak


def scoring(folder: Path) -> dict[str, float]:
    write(folder)
    truth, results = folder / "annotations" / "instances_val.json", folder / "results.json"
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(measured("-m", "detrcli", "eval", folder, "--predictions", results, "--json"))
        theirs.append(measured("-c", PYCOCOTOOLS, truth, results))
    numbers = json.loads(theirs[0][0].splitlines()[-1])
    metrics = json.loads(ours[0][0])["metrics"]
    difference = max(abs(metrics[name] - number) for name, number in zip(METRICS, numbers, strict=True))
    assert difference < 1e-9, difference
    return {
        "AP": round(numbers[0], 4),
        "largest_difference": difference,
        "ours_s": round(statistics.median(seconds for _, seconds, _ in ours), 2),
        "pycocotools_s": round(statistics.median(seconds for _, seconds, _ in theirs), 2),
        "time_ratio": round(statistics.median(b[1] / a[1] for a, b in zip(ours, theirs, strict=True)), 1),
        "ours_peak_MB": round(max(peak for *_, peak in ours)),
        "pycocotools_peak_MB": round(max(peak for *_, peak in theirs)),
    }


def photographs(folder: Path) -> None:
    """Write a COCO folder of images of 640 x 480 with seven boxes each."""
    rng = np.random.default_rng(0)
    (folder / "val").mkdir()
    for i in range(PHOTOGRAPHS):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(folder / "val" / f"{i:02}.jpg", quality=90)
    images = [{"id": i, "file_name": f"{i:02}.jpg", "width": 640, "height": 480} for i in range(PHOTOGRAPHS)]
    annotations = [
        {"id": i, "image_id": i % PHOTOGRAPHS, "category_id": 1 + i % 90, "bbox": box}
        for i, box in enumerate(boxes(rng, 7 * PHOTOGRAPHS).tolist())
    ]
    write_coco(folder, "val", images, annotations, [{"id": i, "name": NAMES[i]} for i in range(1, 91)])


class Constant:
    """An engine that returns a constant prediction."""

    name: EngineName = "plain"
    device = torch.device("cpu")

    def __init__(self, rows: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.prediction = Prediction(
            torch.randn(1, 100, rows, generator=generator), torch.rand(1, 100, 4, generator=generator)
        )

    def __call__(self, batch: Batch) -> Prediction:
        return self.prediction


def clocked(work: Callable[[], None]) -> tuple[float, float]:
    """Return wall-clock seconds, and processor seconds of all threads, which do not depend on other processes."""
    start, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - used


def beside_the_model(folder: Path) -> dict[str, float]:
    photographs(folder)
    checkpoint = random_weights()
    detector = Detector(checkpoint, "cpu")
    inputs = [prepare(open_image(path).image, detector.preprocessing) for path in sorted((folder / "val").iterdir())]

    def evaluate(detector: Detector) -> None:
        split = examine_headers(open_data(folder), ["val"]).splits["val"]
        truth = truth_of(split)
        mapping = map_classes(detector.classes, classes_in_split(split))
        score(truth, detect_split(detector, truth, mapping).results)

    def bare() -> None:
        for pixels in inputs:
            detector.engine(collate([pixels]))

    bare()  # warm up
    constant = Detector(
        checkpoint, detector.device, engine=Constant(checkpoint.scoring.num_logits(len(checkpoint.classes)))
    )
    rounds = [
        (clocked(lambda: evaluate(detector)), clocked(bare), clocked(lambda: evaluate(constant))) for _ in range(ROUNDS)
    ]
    return {
        "evaluation_s": round(statistics.median(ours[0] for ours, _, _ in rounds), 2),
        "bare_model_s": round(statistics.median(bare[0] for _, bare, _ in rounds), 2),
        "evaluation_ratio": round(statistics.median(ours[0] / bare[0] for ours, bare, _ in rounds), 4),
        "processor_s_without_model": round(statistics.median(rest[1] for *_, rest in rounds), 3),
        "processor_s_of_model": round(statistics.median(bare[1] for _, bare, _ in rounds), 2),
        "added_of_processor_time": round(statistics.median(rest[1] / bare[1] for _, bare, rest in rounds), 4),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as results_folder, tempfile.TemporaryDirectory() as images_folder:
        show_values({**scoring(Path(results_folder)), **beside_the_model(Path(images_folder))})


if __name__ == "__main__":
    main()
