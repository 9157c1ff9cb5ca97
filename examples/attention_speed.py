"""What `detr visualize-attn` takes beside `detr predict`, for one query.

    python examples/attention_speed.py

All that the two commands do once a detr-r50 (of random weights) is loaded, with one picture of 640 x 480 from file to
file, in one process and in turn: the network, which is the same for both, and all the rest. Since the network's own
time varies by more than attention adds, the rest is also told apart from it: as what visualize-attn needs more than
predict, over the network's time. Expected: at most 3% more. It runs for some minutes.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from detrcli.inference.detector import Detector
from detrcli.render.attention_report import look
from detrcli.render.draw import draw_detections, save
from detrcli.structures import Output
from detrcli.variants import preset, variant_of
from detrcli.weights.weights import Weights, classes_by_index

ROUNDS = 12


class Clocked(Detector):
    """A detector that counts the time of its network."""

    network = 0.0

    def output(self, pixels: Sequence[Tensor]) -> Output:
        began = time.perf_counter()
        output = super().output(pixels)
        self.network += time.perf_counter() - began
        return output


def random_weights() -> Weights:
    """A detr-r50 that has learned nothing; its speed is that of one that has."""
    config = preset("detr-r50")
    variant = variant_of(config)
    tensors = variant.build(config).state_dict()
    return Weights("random", config, tensors, classes_by_index(91), variant.preprocessing, variant.loss)


def clocked(detector: Clocked, work: Callable[[], None]) -> tuple[float, float]:
    """Seconds of the network, and of the rest."""
    detector.network, began = 0.0, time.perf_counter()
    work()
    return detector.network, time.perf_counter() - began - detector.network


def main() -> None:
    detector = Clocked.of(random_weights(), "cpu")
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "a.jpg"
        coarse = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(picture, quality=90)

        def predict() -> None:
            (seen,) = detector.stream([picture], threshold=0.7, keep_images=True)
            assert seen.image
            assert seen.detections is not None
            save(draw_detections(seen.image, seen.detections), picture.with_name("predicted.jpg"))

        def attend() -> None:
            save(look(detector, picture, queries=[17]).figure, picture.with_name("attention.png"))

        for work in (predict, attend):  # whatever is done only once
            work()
        rounds = [(clocked(detector, predict), clocked(detector, attend)) for _ in range(ROUNDS)]

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
