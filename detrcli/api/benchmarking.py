"""The speed of engines and precisions on this machine, side by side."""

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detrcli.api.loading import WEIGHTS, Weights, as_options
from detrcli.api.results import Result, Table
from detrcli.errors import MachineError, UsageError
from detrcli.inference import EngineName
from detrcli.inference.detector import Detector
from detrcli.reporter import SILENT, Reporter
from detrcli.structures import Detections

ENGINES: Sequence[tuple[EngineName, str]] = (
    ("plain", "fp32"),
    ("plain", "bf16"),
    ("fast", "fp32"),
    ("fast", "bf16"),
    ("compiled", "fp32"),
    ("compiled", "bf16"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("onnx", "fp32"),
)
CPU_ONLY = ("openvino", "onnx")
BAR = 40  # characters
GPU_ONLY = ("compiled",)  # on a CPU it compiles for minutes, and is not faster than the fast engine


@dataclass(frozen=True)
class EngineSpeed:
    """The time that an engine takes for an image."""

    engine: EngineName
    precision: str
    seconds: Mapping[str, float]  # by stage, median of the rounds
    difference: float  # largest difference from plain fp32, of a score or of a box relative to the image

    @property
    def total(self) -> float:
        """Seconds from file to detections."""
        return sum(self.seconds.values())


@dataclass(frozen=True)
class Benchmark(Result):
    """The speeds of several engines, plain fp32 first."""

    weights: str
    size: tuple[int, int]  # width and height of the image
    speeds: Sequence[EngineSpeed]
    left_out: Mapping[str, str]  # engine -> reason

    @property
    def default(self) -> EngineSpeed:
        """The engine that is used by default."""
        fast = [speed for speed in self.speeds if (speed.engine, speed.precision) == ("fast", "fp32")]
        return fast[0] if fast else self.speeds[0]

    @property
    def bottleneck(self) -> str:
        """The slowest stage of the default engine, and what would help, as a sentence."""
        default = self.default
        stage, seconds = max(default.seconds.items(), key=lambda item: item[1])
        name = {"reading": "Reading images", "network": "The network"}.get(stage, stage.capitalize())
        share = f"{name} takes {100 * seconds / default.total:.0f}% of the time"
        if stage != "network":
            return f"{share}: more processes, or smaller images, help more than another engine."
        best = min(self.speeds, key=lambda speed: speed.total)
        if best.total > 0.9 * default.total:
            return f"{share}, and no other engine is much faster here. A smaller input size is."
        return f"{share}: engine {best.engine} in {best.precision} is {default.total / best.total:.1f} times as fast."

    @property
    def document(self) -> dict[str, Any]:
        engines = [
            {
                "engine": speed.engine,
                "precision": speed.precision,
                "seconds": {stage: round(seconds, 6) for stage, seconds in speed.seconds.items()},
                "times_plain": round(self.speeds[0].total / speed.total, 3),
                "difference": speed.difference,
            }
            for speed in self.speeds
        ]
        document = {"schema": "detr.bench/1", "weights": self.weights, "picture": list(self.size), "engines": engines}
        return {**document, "bottleneck": self.bottleneck}

    @property
    def content(self) -> Sequence[str | Table]:
        plain, default = self.speeds[0].total, self.default
        rows = [
            (
                speed.engine,
                speed.precision,
                round(1000 * speed.total, 1),
                round(1 / speed.total, 1),
                round(plain / speed.total, 2),
                f"{speed.difference:.1g}",
            )
            for speed in self.speeds
        ]
        bars = {stage: "#" * round(BAR * seconds / default.total) for stage, seconds in default.seconds.items()}
        return [
            Table("", ("engine", "precision", "ms per image", "images/s", "times plain", "difference"), rows),
            f"{default.engine}, {default.precision}, from file to detections:",
            *(f"{stage:<15} {bars[stage]:<{BAR}} {1000 * s:.1f} ms" for stage, s in default.seconds.items()),
            self.bottleneck,
        ]


def bench(
    weights: Weights = WEIGHTS,
    image: str | Path | None = None,
    *,
    rounds: int = 5,
    device: str = "auto",
    reporter: Reporter = SILENT,
) -> Benchmark:
    """Time all installed engines, in turn, on an image; by default on a generated one of 640 x 480 pixels."""
    options = as_options(weights, device)
    torch_device = options.torch_device
    checkpoint = options.checkpoint(reporter=reporter)
    with tempfile.TemporaryDirectory() as folder:
        path = photograph(Path(folder) / "image.jpg") if image is None else Path(image)
        with Image.open(path) as opened:
            size = opened.size
        detectors: dict[tuple[EngineName, str], Detector] = {}
        left_out: dict[str, str] = {}
        for engine, precision in ENGINES:
            if engine in (GPU_ONLY if torch_device.type == "cpu" else CPU_ONLY):
                continue
            try:
                detector = Detector(checkpoint, torch_device, precision, engine=engine, reporter=reporter)
                detector.predict(path)  # so that the engine is prepared
            except (MachineError, UsageError) as error:
                if engine not in left_out:
                    reporter.note(f"{engine} is left out: {error.message.splitlines()[0]}")
                left_out[engine] = str(error).splitlines()[0]
                continue
            detectors[engine, precision] = detector
        results = {key: detector.predict(path, threshold=0) for key, detector in detectors.items()}
        times: dict[tuple[EngineName, str], list[dict[str, float]]] = {key: [] for key in detectors}
        for _ in range(rounds):
            for key, detector in detectors.items():
                before = dict(detector.seconds)
                detector.predict(path)
                times[key].append({stage: detector.seconds[stage] - before[stage] for stage in before})
    speeds = [
        EngineSpeed(
            *key,
            {stage: statistics.median(seconds[stage] for seconds in rounds_of) for stage in rounds_of[0]},
            _difference(results[key], results[ENGINES[0]], size),
        )
        for key, rounds_of in times.items()
    ]
    return Benchmark(options.weights, size, speeds, left_out)


def _difference(a: Detections, b: Detections, size: tuple[int, int]) -> float:
    if len(a) != len(b):
        return float("inf")
    boxes = np.abs(a.boxes - b.boxes) / np.tile(size, 2)
    return float(max(np.abs(a.scores - b.scores).max(initial=0), boxes.max(initial=0)))


def photograph(path: Path, width: int = 640, height: int = 480, seed: int = 0) -> Path:
    """Write a smooth random image, as large as a JPEG of a photograph."""
    coarse = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path, quality=90)
    return path
