"""How fast weights are on this machine: engines and precisions side by side, and where the time goes."""

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from detrcli.checkpoints.load import load_checkpoint
from detrcli.errors import MachineError, UsageError
from detrcli.inference.detector import Detector
from detrcli.inference.engines import EngineName
from detrcli.reporter import SILENT, Reporter
from detrcli.structures import Detections
from detrcli.system.devices import find_device

ROUNDS = 5
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
ON_CPUS = ("openvino", "onnx")
ON_GPUS = ("compiled",)  # on CPUs compiling takes minutes, and buys nothing that the fast engine does not


@dataclass(frozen=True)
class EngineSpeed:
    """One way to compute a network, on one picture."""

    engine: EngineName
    precision: str
    seconds: Mapping[str, float]  # by stage, the median of the rounds
    difference: float  # from plain in fp32, the greatest of a score or of a box as a part of the picture

    @property
    def total(self) -> float:
        """Seconds from file to detections."""
        return sum(self.seconds.values())


@dataclass(frozen=True)
class Benchmark:
    """What was measured, the plain way first."""

    size: tuple[int, int]  # of the picture, width and height
    speeds: Sequence[EngineSpeed]
    left_out: Mapping[str, str]  # engine -> why

    @property
    def default(self) -> EngineSpeed:
        """What is used where nothing is asked for."""
        return next((one for one in self.speeds if one.engine == "fast" and one.precision == "fp32"), self.speeds[0])

    @property
    def bottleneck(self) -> str:
        """In one sentence, what the default's time goes into, and what would help."""
        used = self.default
        stage, spent = max(used.seconds.items(), key=lambda one: one[1])
        name = {"reading": "Reading pictures", "network": "The network"}.get(stage, stage.capitalize())
        share = f"{name} takes {100 * spent / used.total:.0f}% of the time"
        if stage != "network":
            return f"{share}: more processes, or smaller pictures, help more than another engine."
        best = min(self.speeds, key=lambda one: one.total)
        if best.total > 0.9 * used.total:
            return f"{share}, and no other way to compute it is much faster here: a smaller --size is."
        how = f"--engine {best.engine} --precision {best.precision}"
        return f"{share}: {how} is {used.total / best.total:.1f} times as fast."

    def __str__(self) -> str:
        return "\n".join(f"{one.engine} {one.precision}: {1000 * one.total:.1f} ms" for one in self.speeds)


def bench(
    weights: str | Path = "detr-r50",
    image: Path | None = None,
    *,
    rounds: int = ROUNDS,
    device: str = "auto",
    size: int | None = None,
    max_size: int | None = None,
    model: str | None = None,
    sha256: str | None = None,
    progress: Reporter = SILENT,
    note: Callable[[str], None] = lambda text: None,
) -> Benchmark:
    """Time every engine that is installed, in turn, on a picture; without one a picture of 640 x 480 is made."""
    place = find_device(device)
    loaded = load_checkpoint(str(weights), model=model, sha256=sha256, reporter=progress).resized(size, max_size)
    with tempfile.TemporaryDirectory() as folder:
        path = image or photograph(Path(folder) / "picture.jpg")
        with Image.open(path) as opened:
            picture_size = opened.size
        detectors: dict[tuple[EngineName, str], Detector] = {}
        left_out: dict[str, str] = {}
        for engine, precision in ENGINES:
            if engine in (ON_GPUS if place.type == "cpu" else ON_CPUS):
                continue
            try:
                detector = Detector(loaded, place, precision, engine=engine, note=note)
                detector.predict(path)  # what is done only once
            except (MachineError, UsageError) as error:
                left_out[engine] = str(error).splitlines()[0]
                continue
            detectors[engine, precision] = detector
        found = {key: detector.predict(path, threshold=0) for key, detector in detectors.items()}
        plain = found[ENGINES[0]]
        spent: dict[tuple[EngineName, str], list[dict[str, float]]] = {key: [] for key in detectors}
        for _ in range(rounds):
            for key, detector in detectors.items():
                before = dict(detector.seconds)
                detector.predict(path)
                spent[key].append({stage: detector.seconds[stage] - before[stage] for stage in before})
    return Benchmark(
        picture_size,
        [
            EngineSpeed(
                engine,
                precision,
                {stage: statistics.median(one[stage] for one in each) for stage in each[0]},
                _difference(found[engine, precision], plain, picture_size),
            )
            for (engine, precision), each in spent.items()
        ],
        left_out,
    )


def _difference(a: Detections, b: Detections, size: tuple[int, int]) -> float:
    if len(a) != len(b):
        return float("inf")
    boxes = np.abs(a.boxes - b.boxes) / np.tile(size, 2)
    return float(max(np.abs(a.scores - b.scores).max(initial=0), boxes.max(initial=0)))


def photograph(path: Path, width: int = 640, height: int = 480, seed: int = 0) -> Path:
    """Make a picture as large and as smooth as a photograph, a JPEG."""
    coarse = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path, quality=90)
    return path
