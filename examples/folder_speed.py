"""What a folder of photographs takes beside the network alone.

    OMP_WAIT_POLICY=PASSIVE python examples/folder_speed.py

JPEGs of 640 x 480, from files to detections, in turn with nothing but the network on the same inputs: forty with DETR
R50 and the fast engine, four hundred with the `shapes` weights. Expected for R50: at most 1.05 times the network.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

from timing import photograph, random_weights

from detrcli.data.batching import collate
from detrcli.data.images import open_picture
from detrcli.data.preprocessing import prepare
from detrcli.inference.detector import Detector
from detrcli.system.allocator import keep_large_blocks
from detrcli.weights.load import load_weights

ROUNDS = 3


def beside_the_network(detector: Detector, paths: list[Path]) -> dict[str, float]:
    """Seconds a picture of both, and the median of the rounds' ratios."""
    inputs = [prepare(open_picture(path).image, detector.preprocessing) for path in paths[:8]]
    whole, alone = [], []
    for round_ in range(ROUNDS + 1):
        began = time.perf_counter()
        for _ in detector.stream(paths):
            pass
        between = time.perf_counter()
        for i in range(len(paths)):
            detector.engine(collate([inputs[i % len(inputs)]]))
        ended = time.perf_counter()
        if round_:  # the first fills caches
            whole.append(between - began)
            alone.append(ended - between)
    return {
        "pictures_per_s": round(len(paths) / statistics.median(whole), 2),
        "network_alone_per_s": round(len(paths) / statistics.median(alone), 2),
        "ratio": round(statistics.median(a / b for a, b in zip(whole, alone, strict=True)), 3),
    }


def main() -> None:
    keep_large_blocks()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i:03}.jpg" for i in range(400)]
        for i, path in enumerate(paths):
            photograph(path, seed=i)
        for name, weights, count in (
            ("detr-r50", random_weights(), 40),
            ("shapes", load_weights("shapes"), 400),
        ):
            for precision in ("fp32", "bf16"):
                detector = Detector.of(weights, "cpu", precision)
                results[f"{name} {precision}"] = beside_the_network(detector, paths[:count])
    for name, row in results.items():
        print(f"{name:<16} " + "   ".join(f"{key} {value}" for key, value in row.items()))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
