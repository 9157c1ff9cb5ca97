"""Export of models to other runtimes, onnxruntime and OpenVINO.

Why: on CPUs with AMX, OpenVINO is faster than torch, and programs can run an exported file without torch.
How: torch.export traces the network once, with a variable batch and image size. A runtime module (onnx_engine,
openvino_engine) converts the program, and reads and runs the file. Metadata in the file is the header of our own
checkpoints, and a description for other programs (description.py).
Every export is compared with the plain model on inputs of extreme sizes before the file is moved to its path.
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
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.formats.header import checksum, from_header, header_of
from detrcli.checkpoints.registry import EXPORTS
from detrcli.errors import MachineError, UsageError, WeightsError
from detrcli.inference.description import describe, shapes_of
from detrcli.inference.engines import Engine, PlainEngine
from detrcli.losses.scoring import Scoring
from detrcli.messages import argument
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.reporter import Reporter
from detrcli.structures import Batch, Prediction
from detrcli.system.devices import PRECISIONS
from detrcli.system.files import cache_folder

INPUT, OUTPUTS = "images", ("logits", "boxes")
PRECISION = "precision"  # key in the header of an export
TOLERANCE = {"fp32": 1e-4, "bf16": 0.1, "fp16": 0.02}  # maximum difference of probabilities and of boxes in [0, 1]
IMAGE_SIZES = [(480, 640), (100, 1000), (1000, 100)]  # height and width of the images for which an export is verified
CPU = torch.device("cpu")


@dataclass(frozen=True)
class ExportedEngine:
    """An exported model, run by its runtime on the CPU."""

    compute: Callable[[np.ndarray], Sequence[np.ndarray]]  # images (B, 3, H, W) to logits and boxes
    single: bool  # whether the model takes one image at a time

    def __call__(self, batch: Batch) -> Prediction:
        assert batch.padding is None, "only images of equal input size share a batch"
        images = batch.images.chunk(len(batch.images) if self.single else 1)
        parts = [self.compute(part.contiguous().numpy()) for part in images]
        logits, boxes = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*parts, strict=True))
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


class LastLayer(nn.Module):
    """A model as a function of tensors: images (B, 3, H, W) to logits (B, Q, R) and boxes (B, Q, 4)."""

    def __init__(self, model: DetectionTransformer, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model.to(dtype)
        self.dtype = dtype

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        last = self.model(Batch(images.to(self.dtype), None)).last
        return last.logits.float(), last.boxes.float()


def trace(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> Any:
    """Return the network as a torch.export.ExportedProgram. Raises UsageError if it cannot be exported."""
    model = checkpoint.model()
    sizes = _input_sizes(checkpoint)
    fixed_size = len(sizes) == 1
    reason = None
    if checkpoint.architecture.takes_phrases:
        reason = "models that detect phrases cannot be exported"
    elif model.has_masks:
        reason = "models with a mask head cannot be exported"
    elif not (fixed_size or model.variable_batch_size):
        reason = "a model of another library can be exported only if its processor resizes to a fixed height and width"
    if reason is not None:
        raise UsageError(f"{checkpoint.source}: {reason}. The engines `fast` and `plain` compute this model.")
    height, width = sizes[0]
    if not fixed_size:  # large enough that no feature map has an axis of length 1, which torch.export takes as constant
        height, width = max(height, 320), max(width, 448)
    variable = {0: torch.export.Dim.AUTO} if model.variable_batch_size else {}
    if not fixed_size:
        variable |= {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    images = torch.zeros(2 if model.variable_batch_size else 1, 3, height, width)
    with torch.no_grad(), _quiet():
        program = torch.export.export(LastLayer(model, dtype), (images,), dynamic_shapes=(variable,))
    if not model.variable_batch_size:  # remove assertions about the network's own values; runtimes cannot compute them
        graph = program.graph_module.graph
        for node in list(graph.nodes):
            if str(node.target).startswith(("aten._assert", "aten.sym_constrain")):
                graph.erase_node(node)
        graph.eliminate_dead_code()
        program.graph_module.recompile()
    return program


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


def verify(checkpoint: Checkpoint, engine: Engine, precision: str) -> float:
    """Compare an engine with the plain model on noise. Raises WeightsError if they differ beyond the tolerance."""
    plain = PlainEngine(checkpoint.model(), CPU)
    random = torch.Generator().manual_seed(0)
    largest = 0.0
    for height, width in _input_sizes(checkpoint):
        batch = Batch(torch.randn(1, 3, height, width, generator=random), None)
        distance = difference(engine(batch), plain(batch), checkpoint.scoring)
        if not distance <= TOLERANCE[precision]:  # also for NaN
            raise WeightsError(
                f"{checkpoint.source}: the {precision} export differs from the plain model by {distance:.2g} on an "
                f"image of {width} x {height} pixels; nothing was written.\n"
                + ("Please report this." if precision == "fp32" else f"Use {argument('precision', 'fp32')}.")
            )
        largest = max(largest, distance)
    return largest


def difference(a: Prediction, b: Prediction, scoring: Scoring) -> float:
    """Return the largest difference of a probability, or of a box in [0, 1]; NaN if a value is NaN.

    Two-stage models select queries from proposals, and proposals with nearly equal scores may change places. If the
    queries differ, they are therefore compared in the one-to-one assignment with the smallest differences.
    """
    ours, theirs = (torch.cat([scoring.probabilities(p.logits), p.boxes], -1) for p in (a, b))  # (B, Q, K + 4)
    in_order = float((ours - theirs).abs().max())
    if not in_order > 1e-3:  # also for NaN
        return in_order
    from scipy.optimize import linear_sum_assignment

    distances = torch.cdist(ours, theirs, p=torch.inf)  # (B, Q, Q)
    return max(float(matrix[linear_sum_assignment(matrix)].max()) for matrix in distances)


def _input_sizes(checkpoint: Checkpoint) -> list[tuple[int, int]]:
    """Return the distinct input sizes (height, width) of images of IMAGE_SIZES."""
    placements = [checkpoint.preprocessing.resize.place(height, width) for height, width in IMAGE_SIZES]
    return list(dict.fromkeys((placement.height, placement.width) for placement in placements))


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
