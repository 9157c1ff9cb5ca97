"""Measure the time that `detr visualize-attn` adds to `detr predict`, for one query.

    python examples/attention_speed.py

Both commands run from file to file on one image of 640 x 480 with the plain engine and a loaded detr-r50 (random
weights), alternating in one process. The time of the network, which is the same for both, is measured separately,
because it varies by more than attention adds. Expected: at most 3% of the network's time is added. Takes some minutes.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from timing import random_weights, show_values
from torch import nn

from detrcli.api.benchmarking import photograph
from detrcli.inference.detector import Detector
from detrcli.inspection.look import inspect_attention
from detrcli.render.attention_report import attention_figure
from detrcli.render.draw import draw_detections, save

ROUNDS = 12


class Clock:
    """The total time of a network's forward passes."""

    def __init__(self, model: nn.Module) -> None:
        self.seconds = 0.0
        model.register_forward_pre_hook(lambda *_: self._count(-1))
        model.register_forward_hook(lambda *_: self._count(1))

    def _count(self, sign: int) -> None:
        self.seconds += sign * time.perf_counter()


def clocked(clock: Clock, work: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds of the network, and of the rest."""
    clock.seconds, start = 0.0, time.perf_counter()
    work()
    return clock.seconds, time.perf_counter() - start - clock.seconds


def main() -> None:
    detector = Detector(random_weights(), "cpu", engine="plain")
    clock = Clock(detector.model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jpg"
        photograph(path)

        def predict() -> None:
            (result,) = detector.stream([path], threshold=0.7, keep_images=True)
            assert result.image
            assert result.detections is not None
            save(draw_detections(result.image, result.detections), path.with_name("predicted.jpg"))

        def attend() -> None:
            save(attention_figure(inspect_attention(detector, path, queries=[17])), path.with_name("attention.png"))

        for work in (predict, attend):  # warm up
            work()
        rounds = [(clocked(clock, predict), clocked(clock, attend)) for _ in range(ROUNDS)]

    network = statistics.median(seconds for pair in rounds for seconds, _ in pair)
    rest = [statistics.median(pair[i][1] for pair in rounds) for i in (0, 1)]
    show_values(
        {
            "network_s": round(network, 3),
            "rest_of_predict_ms": round(1000 * rest[0], 1),
            "rest_of_attention_ms": round(1000 * rest[1], 1),
            "added": round((rest[1] - rest[0]) / network, 4),
            "ratio": round(statistics.median(sum(b) / sum(a) for a, b in rounds), 4),
        }
    )


if __name__ == "__main__":
    main()
