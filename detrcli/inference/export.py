"""Export of models to other runtimes, onnxruntime and OpenVINO.

Why: on CPUs with AMX, OpenVINO is faster than torch, and programs can run an exported file without torch.
How: tracing.py traces the network once, for any number of images. A runtime module (onnx_engine, openvino_engine)
converts the program, and reads and runs the file. Metadata in the file is the header of our own checkpoints, and a
description for other programs (description.py).
Every export is compared with the plain model (verification.py) before the file is moved to its path.
Without this file there is no `detr export`, no engine `onnx` or `openvino`, and no .onnx or .xml as weights; nothing
else needs it. Tests: tests/inference/test_export.py, with `-m slow` for all architectures and fifty image sizes.
"""

import hashlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.formats.header import checksum, from_header, header_of
from detrcli.checkpoints.registry import EXPORTS
from detrcli.errors import MachineError, UsageError, WeightsError
from detrcli.inference.description import describe, shapes_of
from detrcli.inference.engines import Engine
from detrcli.inference.tracing import trace
from detrcli.inference.verification import verify
from detrcli.messages import argument
from detrcli.reporter import Reporter
from detrcli.structures import Batch, Prediction
from detrcli.system.devices import PRECISIONS
from detrcli.system.files import cache_folder

PRECISION = "precision"  # key in the header of an export


@dataclass(frozen=True)
class ExportedEngine:
    """An exported model, run by its runtime on the CPU."""

    compute: Callable[[np.ndarray], Sequence[np.ndarray]]  # images (B, 3, H, W) to logits and boxes
    size: tuple[int, int] | None  # height and width of the images, if fixed

    def __call__(self, batch: Batch) -> Prediction:
        assert batch.padding is None, "only images of equal input size share a batch"
        height, width = batch.images.shape[-2:]
        if self.size not in (None, (height, width)):
            raise UsageError(
                f"The exported model takes images of {self.size[1]} x {self.size[0]} pixels, not {width} x {height}.\n"
                f"Omit {argument('size')} and {argument('max_size')}, or export the model again with another size."
            )
        logits, boxes = map(torch.from_numpy, self.compute(batch.images.contiguous().numpy()))
        return Prediction(logits, boxes)


@dataclass(frozen=True)
class Runtime:
    """A file format and the library that runs it."""

    name: str
    sidecars: Sequence[str]  # suffixes of the files beside it that belong to it
    precisions: Sequence[str]  # in which a model can be exported
    runtime_precisions: Sequence[str]  # a model exported in one of these can be run in any of them
    packages: Sequence[str]  # required; `pip install 'detrcli[NAME]'` installs them
    converts_precision: bool = False  # whether its converter does; otherwise the network is traced in the precision

    @property
    def suffix(self) -> str:
        return EXPORTS[self.name]

    def module(self) -> ModuleType:
        """Import its module, with `write`, `read_header` and `open_engine`. Raises MachineError if not installed."""
        for package in self.packages:
            try:
                import_module(package)
            except ImportError:
                raise MachineError(
                    f"{self.name} needs the package {package}: pip install 'detrcli[{self.name}]'"
                ) from None
        return import_module(f"detrcli.inference.{self.name}_engine")

    def open(self, path: Path, precision: str | None = None) -> Engine:
        """Return an engine that runs a file, by default in the precision in which it was written."""
        engine: Engine = self.module().open_engine(path, precision)
        return engine

    def check_precision(self, precision: str) -> None:
        """Raise UsageError if files of this runtime cannot have the precision."""
        if precision not in self.precisions:
            raise UsageError(
                f"{argument('precision', precision)}: {self.name} models have {' or '.join(self.precisions)}."
            )


RUNTIMES = {
    "onnx": Runtime("onnx", (), ("fp32", "fp16"), (), ("onnx", "onnxscript", "onnxruntime")),
    "openvino": Runtime("openvino", (".bin",), ("fp32", "bf16", "fp16"), ("fp32", "bf16"), ("openvino",), True),
}


def runtime_of(path: str | Path) -> Runtime | None:
    """Return the runtime for a file of this name, None if it is not an export."""
    return next((runtime for runtime in RUNTIMES.values() if str(path).lower().endswith(runtime.suffix)), None)


def export(checkpoint: Checkpoint, runtime: Runtime, path: Path, precision: str = "fp32") -> float:
    """Export a model, and compare it with the plain one before writing `path`. Return the largest difference."""
    runtime.check_precision(precision)
    header = {**header_of(checkpoint), PRECISION: precision}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        draft = Path(folder) / path.name
        with _quiet():
            program = trace(checkpoint, torch.float32 if runtime.converts_precision else PRECISIONS[precision])
            description = json.dumps(describe(checkpoint, shapes_of(program)))
            runtime.module().write(program, header, description, draft, precision)
        try:
            largest = verify(checkpoint, runtime.open(draft), precision)
        except RuntimeError as error:  # OpenVINO's, if the converted model does not fit the input
            raise WeightsError(
                f"{checkpoint.source}: {runtime.name} cannot run the converted model; nothing was written.\n"
                f"Try another {argument('format')}. The error was: {str(error).strip().splitlines()[-1]}"
            ) from None
        for suffix in (*runtime.sidecars, runtime.suffix):  # the main file last
            os.replace(draft.with_suffix(suffix), path.with_suffix(suffix))
    return largest


def read_exported(path: Path, runtime: Runtime) -> tuple[Checkpoint, str]:
    """Return the checkpoint in an exported file, without tensors, and the precision in which it was written."""
    header: Mapping[str, str] = runtime.module().read_header(path)
    if not {"format", PRECISION} <= header.keys():
        raise WeightsError(f"{path}: not written by `detr export`, so its classes and preprocessing are unknown.")
    return from_header(header, {}, str(path)), header[PRECISION]


def export_path(checkpoint: Checkpoint, runtime: Runtime, precision: str) -> Path:
    """Return the path in the cache of the exported file of these weights."""
    versions = [metadata.version(package) for package in ("torch", *runtime.packages)]
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    key = json.dumps([checksum(header_of(checkpoint), tensors), runtime.name, precision, versions])
    return cache_folder() / "exports" / hashlib.sha256(key.encode()).hexdigest()[:32] / f"model{runtime.suffix}"


def cached_export(checkpoint: Checkpoint, runtime: Runtime, precision: str, reporter: Reporter) -> Path:
    """Return the exported file of these weights in the cache, and write it if it does not exist."""
    path = export_path(checkpoint, runtime, precision)
    if not path.exists():
        reporter.note(f"{checkpoint.source}: exporting for {runtime.name}, once; the file is kept in {path.parent}")
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
        export(replace(checkpoint, tensors=tensors), runtime, path, precision)
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the warnings and log messages of exporters."""
    level = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)
