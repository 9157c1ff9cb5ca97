"""Measure how fast a folder of photographs is predicted, compared with the network alone and decoding alone.

    pip install . && OMP_WAIT_POLICY=PASSIVE python examples/folder_speed.py

200 JPEGs of 640 x 480, ten at a time, alternating between: from file to detections, as `detr predict --no-images`; the
network alone, on images decoded and resized beforehand; decoding and resizing alone, with as many threads as `detr
predict`. DETR R50 with the fast engine in float32 and bf16, and detr-tiny. Expected: R50 in float32 within 1.05 of the
network alone. Takes about five minutes.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from timing import random_weights, show

from detrcli.api.benchmarking import photograph
from detrcli.data.images import open_image
from detrcli.data.preprocessing import collate, prepare
from detrcli.inference.detector import Detector
from detrcli.system.allocator import keep_large_blocks

PHOTOGRAPHS, PART = 200, 10
MODELS = (("detr-r50", "fp32"), ("detr-r50", "bf16"), ("detr-tiny", "fp32"))


def measured(detector: Detector, paths: Sequence[Path]) -> dict[str, float]:
    """Return total seconds of each way, and the median ratio of folder to network over the parts."""
    seconds: dict[str, list[float]] = {"folder": [], "network alone": [], "files alone": []}
    with ThreadPoolExecutor(max(2, min(8, os.cpu_count() or 2))) as pool:

        def pixels(path: Path) -> torch.Tensor:
            return prepare(open_image(path).image, detector.preprocessing)

        for part in parts(paths):
            ready = [pixels(path) for path in part]
            ways: dict[str, Callable[[], Any]] = {
                "folder": lambda part=part: list(detector.stream(part)),
                "network alone": lambda ready=ready: [detector.engine(collate([image])) for image in ready],
                "files alone": lambda part=part: list(pool.map(pixels, part)),
            }
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - start)
    pairs = zip(seconds["folder"], seconds["network alone"], strict=True)
    return {name: sum(spent) for name, spent in seconds.items()} | {"ratio": statistics.median(a / b for a, b in pairs)}


def parts(paths: Sequence[Path]) -> Iterator[Sequence[Path]]:
    for first in range(0, len(paths), PART):
        yield paths[first : first + PART]


def main() -> None:
    torch.manual_seed(0)
    keep_large_blocks()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [photograph(Path(folder) / f"{i:03}.jpg", seed=i) for i in range(PHOTOGRAPHS)]
        for name, precision in MODELS:
            detector = Detector(random_weights(name), "cpu", precision, engine="fast")
            list(detector.stream(paths[:2]))  # warm up
            result = measured(detector, paths)
            rows.append(
                {
                    "model": f"{name} {precision}",
                    **{f"{way}, images/s": round(PHOTOGRAPHS / result[way], 2) for way in list(result)[:3]},
                    "folder / network": round(result["ratio"], 3),
                }
            )
    show(rows)


if __name__ == "__main__":
    main()
