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
import shutil
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
from detrcli.errors import DetrError, MachineError, UsageError, WeightsError
from detrcli.inference.description import MASKS, Metadata
from detrcli.inference.tensorrt_shapes import trtexec_command
from detrcli.inference.tracing import trace
from detrcli.inference.verification import input_sizes, verify
from detrcli.messages import argument
from detrcli.model.masks import QueryMasks
from detrcli.reporter import SILENT, Reporter
from detrcli.resize import ExactSize
from detrcli.structures import Batch, Prediction
from detrcli.system.devices import PRECISIONS
from detrcli.system.files import cache_folder

PRECISION, POSTPROCESSING = "precision", "postprocessing"  # keys in the header of an export


@dataclass(frozen=True)
class ExportedEngine:
    """An exported model, run by its runtime on the CPU."""

    compute: Callable[..., Sequence[np.ndarray]]  # from the inputs to the outputs, in their order in the file
    size: tuple[int, int] | None  # height and width of the images, if fixed
    single: bool = False  # whether it takes one image at a time
    masks_by_corner: bool = False  # see `structures.Masks`

    def __call__(self, batch: Batch) -> Prediction:
        assert batch.padding is None, "only images of equal input size share a batch"
        height, width = batch.images.shape[-2:]
        if self.size not in (None, (height, width)):
            raise UsageError(
                f"The exported model takes images of {self.size[1]} x {self.size[0]} pixels, not {width} x {height}.\n"
                f"Omit {argument('size')} and {argument('max_size')}, or export the model again with another size."
            )
        logits, boxes, *masks = map(torch.from_numpy, self.run(batch.images.contiguous().numpy()))
        if not masks:
            return Prediction(logits, boxes)
        of_queries = QueryMasks((height, width), lambda i, q: masks[0][i, q], by_corner=self.masks_by_corner)
        return Prediction(logits, boxes, of_queries)

    def run(self, *inputs: np.ndarray) -> Sequence[np.ndarray]:
        """Return the outputs for inputs of any number of images."""
        if not self.single or len(inputs[0]) == 1:
            return self.compute(*inputs)
        parts = [self.compute(*(array[i : i + 1] for array in inputs)) for i in range(len(inputs[0]))]
        return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


@dataclass(frozen=True)
class Runtime:
    """A file format and the library that runs it."""

    name: str
    sidecars: Sequence[str]  # suffixes of the files beside it that belong to it
    precisions: Sequence[str]  # in which a model can be exported
    runtime_precisions: Sequence[str]  # a model exported in one of these can be run in any of them
    packages: Sequence[str]  # required; `pip install 'detrcli[NAME]'` installs them
    converts_precision: bool = False  # whether its converter does; otherwise the network is traced in the precision
    fixed: bool = False  # whether files take one image of one size
    device: str = "cpu"  # on which it runs
    # Returns the remedy on a machine without the packages, such as a command to run elsewhere.
    alternative: Callable[[Checkpoint, str, bool], str] | None = None

    @property
    def suffix(self) -> str:
        return EXPORTS[self.name]

    def module(self) -> ModuleType:
        """Import its module, with `write`, `read_header` and `open_engine`. Raises MachineError if not installed."""
        for package in self.packages:
            try:
                with _quiet():
                    import_module(package)
            except ImportError:
                raise MachineError(
                    f"{self.name} needs the package {package}: pip install 'detrcli[{self.name}]'"
                ) from None
        return import_module(f"detrcli.inference.{self.name}_engine")

    def open(self, path: Path, precision: str | None = None) -> ExportedEngine:
        """Return an engine that runs a file, by default in the precision in which it was written.

        Raises MachineError if the runtime does not exist on this machine.
        """
        engine: ExportedEngine = self.module().open_engine(path, precision)
        return engine

    def check_precision(self, precision: str) -> None:
        """Raise UsageError if files of this runtime cannot have the precision."""
        if precision not in self.precisions:
            raise UsageError(
                f"{argument('precision', precision)}: {self.name} models have {' or '.join(self.precisions)}."
            )


_ONNX = ("onnx", "onnxscript", "onnxruntime")
_RUNTIMES = (
    Runtime("onnx", (), ("fp32", "fp16"), (), _ONNX),
    Runtime("openvino", (".bin",), ("fp32", "bf16", "fp16"), ("fp32", "bf16"), ("openvino",), converts_precision=True),
    Runtime(
        "tensorrt",
        (".engine.json",),
        ("fp32", "fp16"),
        (),
        ("tensorrt", *_ONNX),
        device="cuda",
        alternative=trtexec_command,
    ),
    Runtime("coreml", (), ("fp32", "fp16"), (), ("coremltools",), converts_precision=True, fixed=True),
    Runtime("litert", (), ("fp32",), (), ("litert_torch", "ai_edge_litert"), fixed=True),
    Runtime("executorch", (), ("fp32",), (), ("executorch",), fixed=True),
)
RUNTIMES = {runtime.name: runtime for runtime in _RUNTIMES}


def runtime_of(path: str | Path) -> Runtime | None:
    """Return the runtime for a file of this name, None if it is not an export."""
    return next((runtime for runtime in RUNTIMES.values() if str(path).lower().endswith(runtime.suffix)), None)


def fixed_size(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint that stretches every image to one size: that of an image of 640 x 480 pixels."""
    height, width = input_sizes(checkpoint)[0]
    preprocessing = replace(checkpoint.preprocessing, resize=ExactSize(height, width))
    return replace(checkpoint, preprocessing=preprocessing)


def export(
    checkpoint: Checkpoint,
    runtime: Runtime,
    path: Path,
    precision: str = "fp32",
    *,
    postprocessing: bool = False,
    reporter: Reporter = SILENT,
) -> float | None:
    """Export a model, and compare it with the plain one before writing `path`.

    Returns the largest difference; None where the runtime writes files that it cannot run.
    """
    runtime.check_precision(precision)
    try:
        module = runtime.module()
    except MachineError as error:
        if runtime.alternative is None:
            raise
        raise MachineError(f"{error.message}\n{runtime.alternative(checkpoint, precision, postprocessing)}") from None
    model = checkpoint.model()
    if (runtime.fixed or model.exports_one_size) and len(input_sizes(checkpoint)) > 1:
        checkpoint = fixed_size(checkpoint)
        size = checkpoint.preprocessing.resize
        models = f"{runtime.name} models" if runtime.fixed else "exports of this model"
        reporter.note(f"{models} take images of one size: all are stretched to {size}")
    header = {**header_of(checkpoint), PRECISION: precision, **({POSTPROCESSING: "true"} if postprocessing else {})}
    if checkpoint.segmentation is not None:
        header[MASKS] = "by corner" if model.masks_by_corner else "by center"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        draft = Path(folder) / path.name
        dtype = torch.float32 if runtime.converts_precision else PRECISIONS[precision]
        reporter.note(f"tracing {checkpoint.source}, which takes about ten seconds")
        with _quiet():
            program = trace(checkpoint, dtype, single=runtime.fixed, postprocessing=postprocessing)
            try:
                module.write(program, Metadata.of(checkpoint, program, header), draft, precision)
            except (DetrError, OSError, MemoryError):
                raise
            except Exception as error:  # converters raise all kinds of errors for operators that they lack
                raise _refused(checkpoint, runtime, "convert the model", error) from error
        largest = None
        try:
            largest = verify(checkpoint, runtime.open(draft), precision, postprocessing=postprocessing)
        except MachineError as error:
            reporter.note(error.message)
        except RuntimeError as error:  # OpenVINO's, if the converted model does not fit the input
            raise _refused(checkpoint, runtime, "run the converted model", error) from None
        for suffix in (*runtime.sidecars, runtime.suffix):  # the main file last
            target = path.with_suffix(suffix)
            if target.is_dir():  # a package
                shutil.rmtree(target)
            os.replace(draft.with_suffix(suffix), target)
    return largest


def _refused(checkpoint: Checkpoint, runtime: Runtime, task: str, error: Exception) -> WeightsError:
    reason = (str(error).strip() or repr(error)).splitlines()[-1]
    return WeightsError(
        f"{checkpoint.source}: {runtime.name} cannot {task}; nothing was written.\n"
        f"Try another {argument('format')}. The error was: {reason:.300}"
    )


def read_exported(path: Path, runtime: Runtime) -> tuple[Checkpoint, str]:
    """Return the checkpoint in an exported file, without tensors, and the precision in which it was written."""
    header: Mapping[str, str] = runtime.module().read_header(path)
    if not {"format", PRECISION} <= header.keys():
        raise WeightsError(f"{path}: not written by `detr export`, so its classes and preprocessing are unknown.")
    if POSTPROCESSING in header:
        raise UsageError(
            f"{path}: this file contains its postprocessing, for other programs.\n"
            f"Export the model without {argument('with_postprocessing')} for `detr predict` and `detr eval`."
        )
    return from_header(header, {}, str(path)), header[PRECISION]


def export_path(checkpoint: Checkpoint, runtime: Runtime, precision: str) -> Path:
    """Return the path in the cache of the exported file of these weights."""
    versions = [metadata.version(package) for package in ("torch", *runtime.packages)]
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    key = json.dumps([checksum(header_of(checkpoint), tensors), runtime.name, precision, versions])
    return cache_folder() / "exports" / hashlib.sha256(key.encode()).hexdigest()[:32] / f"model{runtime.suffix}"


def cached_export(checkpoint: Checkpoint, runtime: Runtime, precision: str, reporter: Reporter) -> Path:
    """Return the exported file of these weights in the cache, and write it if it does not exist.

    Raises UsageError if the file would take other input sizes than the model.
    """
    if checkpoint.model().exports_one_size and len(input_sizes(checkpoint)) > 1:
        raise UsageError(
            f"{checkpoint.source}: an export of this model takes images of one size.\n"
            f"Use {argument('engine', 'fast')}, or a file written by `detr export`, which stretches images to its size."
        )
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
