"""How fast a folder of photographs is predicted, beside the network alone and beside decoding alone.

    pip install . && OMP_WAIT_POLICY=PASSIVE python examples/folder_speed.py

200 JPEGs of 640 x 480, ten at a time and in turn: from file to detections, as `detr predict --no-images` does it; the
network alone, on the same pictures decoded and resized beforehand; and decoding and resizing alone, in the threads of
`detr predict`. DETR R50 with the fast engine in float32 and in bf16, and detr-tiny. Expected: R50 in float32 within
1.05 of the network alone. It runs for some five minutes.
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
from detrcli.data.batching import collate
from detrcli.data.images import open_picture
from detrcli.data.preprocessing import prepare
from detrcli.inference.detector import Detector
from detrcli.system.allocator import keep_large_blocks

PHOTOGRAPHS, TOGETHER = 200, 10
MODELS = (("detr-r50", "fp32"), ("detr-r50", "bf16"), ("detr-tiny", "fp32"))


def measured(detector: Detector, paths: Sequence[Path]) -> dict[str, float]:
    """Seconds for all of them, each way, and the median of the parts' ratios to the network alone."""
    seconds: dict[str, list[float]] = {"folder": [], "network alone": [], "files alone": []}
    with ThreadPoolExecutor(max(2, min(8, os.cpu_count() or 2))) as pool:

        def pixels(path: Path) -> torch.Tensor:
            return prepare(open_picture(path).image, detector.preprocessing)

        for some in parts(paths):
            ready = [pixels(path) for path in some]
            ways: dict[str, Callable[[], Any]] = {
                "folder": lambda some=some: list(detector.stream(some)),
                "network alone": lambda ready=ready: [detector.engine(collate([one])) for one in ready],
                "files alone": lambda some=some: list(pool.map(pixels, some)),
            }
            for name, way in ways.items():
                began = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - began)
    slower = zip(seconds["folder"], seconds["network alone"], strict=True)
    return {name: sum(spent) for name, spent in seconds.items()} | {
        "ratio": statistics.median(a / b for a, b in slower)
    }


def parts(paths: Sequence[Path]) -> Iterator[Sequence[Path]]:
    for start in range(0, len(paths), TOGETHER):
        yield paths[start : start + TOGETHER]


def main() -> None:
    torch.manual_seed(0)
    keep_large_blocks()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [photograph(Path(folder) / f"{i:03}.jpg", seed=i) for i in range(PHOTOGRAPHS)]
        for name, precision in MODELS:
            detector = Detector(random_weights(name), "cpu", precision, "fast")
            list(detector.stream(paths[:2]))  # what is done only once
            found = measured(detector, paths)
            rows.append(
                {
                    "model": f"{name} {precision}",
                    **{f"{way}, pictures/s": round(PHOTOGRAPHS / found[way], 2) for way in list(found)[:3]},
                    "folder / network": round(found["ratio"], 3),
                }
            )
    show(rows)


if __name__ == "__main__":
    main()
