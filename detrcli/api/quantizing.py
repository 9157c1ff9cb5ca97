"""INT8 models for OpenVINO: calibrated on a dataset, and compared with float32 before the file is written."""

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from detrcli.api.datasets import checked_split, open_dataset
from detrcli.api.detectors import checkpoint_of
from detrcli.api.evaluating import evaluate
from detrcli.api.options import Data, Weights, data_options, load_options
from detrcli.api.results import Result, Table
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.data.images import File
from detrcli.data.preprocessing import prepare
from detrcli.errors import DataError, WeightsError
from detrcli.inference.detector import Detector
from detrcli.inference.engines import Engine
from detrcli.inference.export import RUNTIMES, cached_export
from detrcli.inference.stream import read_image
from detrcli.inference.verification import CPU
from detrcli.messages import argument
from detrcli.reporter import SILENT, Reporter
from detrcli.structures import Batch

MAX_AP_DROP = 0.01
CALIBRATION_IMAGES = 100
ROUNDS = 15  # of the measurement of speed, in which both models compute the same images
OPENVINO = RUNTIMES["openvino"]


@dataclass(frozen=True)
class Quantization(Result):
    """An INT8 model, compared with the same model in float32."""

    file: str
    weights: str
    split: str
    images: int  # of the split
    calibration: tuple[str, int]  # a split, and how many of its images
    in_float32: str  # the layers that are not quantized
    ap: tuple[float, float]  # in float32 and in INT8
    seconds: tuple[float, float]  # per image
    speedup: float  # median of the ratios of the rounds
    bytes: tuple[int, int]

    @property
    def content(self) -> list[str | Table]:
        name, count = self.calibration
        rows = [
            (precision, f"{ap:.3f}", f"{1000 * seconds:.1f}", f"{size / 1e6:.1f}")
            for precision, ap, seconds, size in zip(("fp32", "int8"), self.ap, self.seconds, self.bytes, strict=True)
        ]
        return [
            f"{self.file}: calibrated on {count} images of {name}, with {self.in_float32} in float32; "
            f"AP on {self.images:,} images of {self.split}.",
            Table("", ("precision", "AP", "ms per image", "MB"), rows),
            f"INT8 is {self.speedup:.2f} times as fast as float32 on this CPU.",
        ]

    @property
    def document(self) -> dict[str, Any]:
        name, count = self.calibration
        return {
            "schema": "detr.export/1",
            "file": self.file,
            "format": "openvino",
            "precision": "int8",
            "weights": self.weights,
            "calibration": {"split": name, "images": count},
            "split": self.split,
            "images": self.images,
            "float32_layers": self.in_float32,
            "AP": {"fp32": self.ap[0], "int8": self.ap[1]},
            "seconds": {"fp32": round(self.seconds[0], 6), "int8": round(self.seconds[1], 6)},
            "speedup": round(self.speedup, 3),
            "bytes": {"fp32": self.bytes[0], "int8": self.bytes[1]},
        }


def quantize(
    weights: Weights,
    data: Data,
    out: str | Path,
    *,
    split: str = "val",
    limit: int | None = None,
    max_ap_drop: float = MAX_AP_DROP,
    match_classes_by_id: bool = False,
    reporter: Reporter = SILENT,
) -> Quantization:
    """Write a model for OpenVINO in INT8.

    It is calibrated on images of train, or of `split` if there is no train, and compared with float32 on `split` (on
    its first images with `limit`). If AP falls by more than `max_ap_drop`, more layers stay in float32. If it still
    does, nothing is written, and WeightsError is raised.
    """
    OPENVINO.module()  # raises MachineError if it is not installed
    from detrcli.inference import quantize as quantizing  # needs OpenVINO

    quantizing.check_nncf()
    checkpoint = checkpoint_of(load_options(weights), reporter=reporter)
    calibration = "train" if "train" in open_dataset(data).splits else split
    images = calibration_images(data, calibration, checkpoint, reporter)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as folder:
        float32 = cached_export(checkpoint, OPENVINO, "fp32", reporter)
        plain = OPENVINO.open(float32, "fp32")

        def ap_of(engine: Engine) -> tuple[float, int]:
            detector = Detector(checkpoint, CPU, engine=engine)
            evaluation = evaluate(
                data, detector, split=split, limit=limit, match_classes_by_id=match_classes_by_id, reporter=reporter
            )
            return evaluation.metrics["AP"], len(evaluation.truth.images)

        (expected, evaluated), tried = ap_of(plain), []
        if expected < 0:
            raise DataError(f"{split} has no objects, so that AP cannot be measured.")
        for excluded in quantizing.EXCLUDED:
            draft = Path(folder) / out.name
            reporter.note(f"quantizing all but {excluded}, with {len(images)} images of {calibration}")
            quantizing.quantize(float32, draft, images, excluded)
            quantized = OPENVINO.open(draft, "fp32")
            ap, _ = ap_of(quantized)
            tried.append(f"{ap:.3f} with {excluded} in float32")
            if round(expected - ap, 6) <= max_ap_drop:
                break
        else:
            raise WeightsError(
                f"{checkpoint.source}: in INT8, AP on {split} falls from {expected:.3f} to {', '.join(tried)}; "
                f"nothing was written.\nA higher {argument('max_ap_drop')} than {max_ap_drop} accepts it."
            )
        seconds, speedup = compare_speed(plain, quantized, images[:8])
        parts = [(path, path.with_suffix(".bin")) for path in (float32, draft)]
        sizes = [sum(part.stat().st_size for part in pair) for pair in parts]
        for suffix in (*OPENVINO.sidecars, OPENVINO.suffix):  # the main file last
            os.replace(draft.with_suffix(suffix), out.with_suffix(suffix))
    return Quantization(
        str(out), checkpoint.source, split, evaluated, (calibration, len(images)), excluded, (expected, ap), seconds,
        speedup, (sizes[0], sizes[1]),
    )  # fmt: skip


def calibration_images(data: Data, split: str, checkpoint: Checkpoint, reporter: Reporter) -> list[np.ndarray]:
    """Return inputs of the network (1, 3, H, W) from images that are spread over a split."""
    checked = checked_split(data_options(data), split, reporter=reporter)
    usable = np.flatnonzero(checked.usable_images)
    if not len(usable):
        raise DataError(f"There are no usable images in {split}.")
    chosen = usable[np.unique(np.linspace(0, len(usable) - 1, CALIBRATION_IMAGES).astype(int))]
    written = checked.written
    files = [File(written.folder / written.files[i], bool(checked.turned[i])) for i in chosen]
    return [prepare(read_image(file).image, checkpoint.preprocessing)[None].numpy() for file in files]


def compare_speed(plain: Engine, quantized: Engine, images: list[np.ndarray]) -> tuple[tuple[float, float], float]:
    """Return the seconds per image of both engines, in turn, and how many times as fast the second is."""
    batches = [Batch(torch.from_numpy(image), None) for image in images]
    rounds = []
    for round_ in range(ROUNDS + 1):
        spent = []
        for engine in (plain, quantized):
            start = time.perf_counter()
            for batch in batches:
                engine(batch)
            spent.append((time.perf_counter() - start) / len(batches))
        if round_:  # the first fills caches
            rounds.append(spent)
    first, second = (median(column) for column in zip(*rounds, strict=True))
    return (first, second), median(a / b for a, b in rounds)
