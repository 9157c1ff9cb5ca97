"""The speed of engines and precisions on this machine, side by side."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from detrcli.api.detectors import checkpoint_of
from detrcli.api.options import WEIGHTS, Weights, load_options
from detrcli.api.results import PlainResult, Result, Table
from detrcli.errors import MachineError, UsageError, WeightsError
from detrcli.inference import EngineName
from detrcli.inference.detector import Detector
from detrcli.reporter import SILENT, Reporter
from detrcli.structures import Detections
from detrcli.system.devices import find_device

Key = tuple[EngineName, str]  # engine and precision
PLAIN: Key = ("plain", "fp32")
DEFAULT: Key = ("fast", "fp32")
ENGINES: Sequence[Key] = (
    PLAIN,
    ("plain", "bf16"),
    DEFAULT,
    ("fast", "bf16"),
    ("compiled", "fp32"),
    ("compiled", "bf16"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("onnx", "fp32"),
)
CPU_ONLY = ("openvino", "onnx")
GPU_ONLY = ("compiled",)  # on a CPU it compiles for minutes, and is not faster than the fast engine
BAR = 40  # characters


def bench(
    weights: Weights = WEIGHTS,
    image: str | Path | None = None,
    *,
    rounds: int = 5,
    device: str = "auto",
    reporter: Reporter = SILENT,
) -> Result:
    """Time all installed engines, in turn, on an image; by default on a generated one of 640 x 480 pixels."""
    options = load_options(weights, device)
    torch_device = find_device(options.device)
    checkpoint = checkpoint_of(options, reporter=reporter)
    with tempfile.TemporaryDirectory() as folder:
        path = photograph(Path(folder) / "image.jpg") if image is None else Path(image)
        with Image.open(path) as opened:
            size = opened.size
        detectors: dict[Key, Detector] = {}
        left_out: set[str] = set()
        for engine, precision in ENGINES:
            if engine in (GPU_ONLY if torch_device.type == "cpu" else CPU_ONLY):
                continue
            try:
                detector = Detector(checkpoint, torch_device, precision, engine=engine, reporter=reporter)
                detector.predict(path)  # builds the engine, outside the timing
            except (MachineError, UsageError, WeightsError) as error:
                if engine == "plain" and isinstance(error, WeightsError):
                    raise
                if engine not in left_out:
                    reporter.note(f"{engine} in {precision} is left out: {error.message.splitlines()[0]}")
                left_out.add(engine)
                continue
            detectors[engine, precision] = detector
        results = {key: detector.predict(path, threshold=0) for key, detector in detectors.items()}
        times: dict[Key, list[dict[str, float]]] = {key: [] for key in detectors}
        for _ in range(rounds):
            for key, detector in detectors.items():
                before = dict(detector.seconds)
                detector.predict(path)
                times[key].append({stage: detector.seconds[stage] - before[stage] for stage in before})
    seconds = {
        key: {stage: median(in_round[stage] for in_round in of_key) for stage in of_key[0]}
        for key, of_key in times.items()
    }
    differences = {key: _difference(result, results[PLAIN], size) for key, result in results.items()}
    totals = {key: sum(stages.values()) for key, stages in seconds.items()}
    entries = [
        {
            "engine": engine,
            "precision": precision,
            "seconds": {stage: round(spent, 6) for stage, spent in seconds[engine, precision].items()},
            "times_plain": round(totals[PLAIN] / total, 3),
            "difference": differences[engine, precision],
        }
        for (engine, precision), total in totals.items()
    ]
    rows = [
        (*key, round(1000 * total, 1), round(1 / total, 1), round(totals[PLAIN] / total, 2), f"{differences[key]:.1g}")
        for key, total in totals.items()
    ]
    default = DEFAULT if DEFAULT in seconds else PLAIN
    advice = bottleneck(seconds, default)
    bars = [
        f"{stage:<15} {'#' * round(BAR * spent / totals[default]):<{BAR}} {1000 * spent:.1f} ms"
        for stage, spent in seconds[default].items()
    ]
    return PlainResult(
        [
            Table("", ("engine", "precision", "ms per image", "images/s", "times plain", "difference"), rows),
            f"{', '.join(default)}, from file to detections:",
            *bars,
            advice,
        ],
        {
            "schema": "detr.bench/1",
            "weights": options.weights,
            "picture": list(size),
            "engines": entries,
            "bottleneck": advice,
        },
    )


def bottleneck(seconds: Mapping[Key, Mapping[str, float]], default: Key) -> str:
    """Return a sentence on the slowest stage of the default engine, and what would help, from seconds by stage."""
    totals = {key: sum(stages.values()) for key, stages in seconds.items()}
    stage, longest = max(seconds[default].items(), key=lambda item: item[1])
    name = {"reading": "Reading images", "network": "The network"}.get(stage, stage.capitalize())
    share = f"{name} takes {100 * longest / totals[default]:.0f}% of the time"
    if stage != "network":
        return f"{share}: more processes, or smaller images, help more than another engine."
    (engine, precision), total = min(totals.items(), key=lambda item: item[1])
    if total > 0.9 * totals[default]:
        return f"{share}, and no other engine is much faster here. A smaller input size is."
    return f"{share}: engine {engine} in {precision} is {totals[default] / total:.1f} times as fast."


def _difference(a: Detections, b: Detections, size: tuple[int, int]) -> float:
    """Return the largest difference between scores, or boxes relative to the image; infinite if the counts differ."""
    if len(a) != len(b):
        return float("inf")
    boxes = np.abs(a.boxes - b.boxes) / np.tile(size, 2)
    return float(max(np.abs(a.scores - b.scores).max(initial=0), boxes.max(initial=0)))


def photograph(path: Path, width: int = 640, height: int = 480, seed: int = 0) -> Path:
    """Write a smooth random image whose JPEG file is about as large as that of a photograph."""
    coarse = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path, quality=90)
    return path
