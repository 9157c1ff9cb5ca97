"""What `detr visualize-attn` takes beside `detr predict`, for one query.

    python examples/attention_speed.py

All that the two commands do, with the plain model, once a detr-r50 (of random weights) is loaded, with one picture of
640 x 480 from file to file, in one process and in turn: the network, which is the same for both, and all the rest.
Since the network's own time varies by more than attention adds, the rest is also told apart from it: as what
visualize-attn needs more than predict, over the network's time. Expected: at most 3% more. It runs for some minutes.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from timing import random_weights
from torch import nn

from detrcli.api.benchmarking import photograph
from detrcli.inference.detector import Detector
from detrcli.render.attention_report import look
from detrcli.render.draw import draw_detections, save

ROUNDS = 12


class Clock:
    """Counts the time of a network, whoever calls it."""

    def __init__(self, model: nn.Module) -> None:
        self.seconds = 0.0
        model.register_forward_pre_hook(lambda *_: self._count(-1))
        model.register_forward_hook(lambda *_: self._count(1))

    def _count(self, sign: int) -> None:
        self.seconds += sign * time.perf_counter()


def clocked(clock: Clock, work: Callable[[], None]) -> tuple[float, float]:
    """Seconds of the network, and of the rest."""
    clock.seconds, began = 0.0, time.perf_counter()
    work()
    return clock.seconds, time.perf_counter() - began - clock.seconds


def main() -> None:
    detector = Detector(random_weights(), "cpu", engine="plain")
    clock = Clock(detector.model)
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "a.jpg"
        photograph(picture)

        def predict() -> None:
            (seen,) = detector.stream([picture], threshold=0.7, keep_images=True)
            assert seen.image
            assert seen.detections is not None
            save(draw_detections(seen.image, seen.detections), picture.with_name("predicted.jpg"))

        def attend() -> None:
            save(look(detector, picture, queries=[17]).figure, picture.with_name("attention.png"))

        for work in (predict, attend):  # whatever is done only once
            work()
        rounds = [(clocked(clock, predict), clocked(clock, attend)) for _ in range(ROUNDS)]

    network = statistics.median(seconds for pair in rounds for seconds, _ in pair)
    rest = [statistics.median(pair[i][1] for pair in rounds) for i in (0, 1)]
    results = {
        "network_s": round(network, 3),
        "rest_of_predict_ms": round(1000 * rest[0], 1),
        "rest_of_attention_ms": round(1000 * rest[1], 1),
        "added": round((rest[1] - rest[0]) / network, 4),
        "ratio": round(statistics.median(sum(b) / sum(a) for a, b in rounds), 4),
    }
    for name, value in results.items():
        print(f"{name:<22} {value:>8}")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
