"""A model written for another runtime, with all that it takes to use it, and held against the plain one.

The network is traced once with torch.export, the number of pictures and their size left open. What tensors do not say
(classes, preprocessing, scoring) travels as the header of our own files does.
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

import torch
from torch import Tensor, nn

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.formats.header import checksum, from_header, header_of
from detrcli.checkpoints.registry import EXPORTS
from detrcli.errors import MachineError, UsageError, WeightsError
from detrcli.inference.engines import Engine, EngineName, PlainEngine
from detrcli.losses.scoring import Scoring
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.structures import Batch, Prediction
from detrcli.system.cache import cache_folder

INPUT, OUTPUTS = "images", ("logits", "boxes")
PRECISION = "precision"  # in the header of an export: what it was written in
TOLERANCE = {"fp32": 1e-4, "bf16": 0.1, "fp16": 0.02}  # of probabilities and boxes in [0, 1]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Runtime:
    """A format and who runs it."""

    name: EngineName
    beside: Sequence[str]  # endings of the files that belong to it
    precisions: Sequence[str]  # that it can be written in
    computes: Sequence[str]  # of these, those that are chosen anew when it is run
    packages: Sequence[str]  # what it takes, of the extra that has its name
    module: str  # with `write`, `read_header` and `engine`

    @property
    def ending(self) -> str:
        """How the name of its file ends."""
        return EXPORTS[self.name]

    def code(self) -> ModuleType:
        """Its module, where its packages are installed."""
        for package in self.packages:
            try:
                import_module(package)
            except ImportError:
                raise MachineError(
                    f"{self.name} needs the package {package}: pip install 'detrcli[{self.name}]'"
                ) from None
        return import_module(self.module)


RUNTIMES = {
    "onnx": Runtime(
        "onnx", (), ("fp32", "fp16"), (), ("onnx", "onnxscript", "onnxruntime"), "detrcli.inference.onnx_engine"
    ),
    "openvino": Runtime(
        "openvino",
        (".bin",),
        ("fp32", "bf16", "fp16"),
        ("fp32", "bf16"),
        ("openvino",),
        "detrcli.inference.openvino_engine",
    ),
}


def runtime_of(path: str | Path) -> Runtime | None:
    """Who runs a file of this name; None where it is no export."""
    return next((one for one in RUNTIMES.values() if str(path).lower().endswith(one.ending)), None)


class LastLayer(nn.Module):
    """A model as a function of tensors: pictures (B, 3, H, W) to logits (B, Q, R) and boxes (B, Q, 4)."""

    def __init__(self, model: DetectionTransformer, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model.to(dtype)
        self.dtype = dtype

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        last = self.model(Batch(images.to(self.dtype), None)).last
        return last.logits.float(), last.boxes.float()


def trace(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> Any:
    """The network of these weights as a torch.export.ExportedProgram."""
    if checkpoint.architecture.takes_phrases:
        raise UsageError(
            f"{checkpoint.source}: models that look for phrases are not exported; --engine plain or fast computes them."
        )
    auto = torch.export.Dim.AUTO
    height, width = _sizes(checkpoint)[0]
    exact = len(_sizes(checkpoint)) == 1
    # Axes of length 1, as the coarsest of several levels would have them, are taken to be fixed.
    if not exact:
        height, width = max(height, 320), max(width, 448)
    model = checkpoint.model()
    if model.has_masks:
        raise UsageError(
            f"{checkpoint.source}: models with a mask head are not exported; --engine plain or fast computes them."
        )
    if not (exact or model.open_batch):
        raise UsageError(
            f"{checkpoint.source}: it takes inputs of many sizes, and of such models ours alone can be exported. One "
            "whose processor resizes to a height and a width can."
        )
    open_axes = {0: auto} if model.open_batch else {}
    if not exact:
        open_axes |= {2: auto, 3: auto}
    pictures = torch.zeros(2 if model.open_batch else 1, 3, height, width)
    with torch.no_grad(), _quiet():
        program = torch.export.export(LastLayer(model, dtype), (pictures,), dynamic_shapes=(open_axes,))
    if not model.open_batch:
        _drop_assertions(program)
    return program


def _drop_assertions(program: Any) -> None:
    """Without what a network asserts of its own numbers: runtimes know no such operators."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if str(node.target).startswith(("aten._assert", "aten.sym_constrain")):
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()


def export(
    checkpoint: Checkpoint, runtime: Runtime, path: Path, precision: str = "fp32", *, sizes: int | None = None
) -> float:
    """Write the file, once it was seen to say what the model says; the largest difference of a number."""
    check_written_in(runtime, precision)
    header = {**header_of(checkpoint), PRECISION: precision}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        draft = Path(folder) / path.name
        with _quiet():
            runtime.code().write(checkpoint, header, draft, precision)
        try:
            difference = verify(checkpoint, runtime.code().engine(draft), precision, sizes)
        except RuntimeError as error:  # as OpenVINO says that its own conversion does not fit the picture
            raise WeightsError(
                f"{checkpoint.source}: {runtime.name} cannot compute this model as it was converted; nothing was "
                f"written.\nAnother --format may do. It says: {str(error).strip().splitlines()[-1]}"
            ) from None
        # The file that the name stands for comes last.
        for ending in (*runtime.beside, runtime.ending):
            os.replace(draft.with_suffix(ending), path.with_suffix(ending))
    return difference


def check_written_in(runtime: Runtime, precision: str) -> None:
    """A UsageError for a precision that a runtime's files do not come in."""
    if precision not in runtime.precisions:
        raise UsageError(f"{runtime.name} is written in {' or '.join(runtime.precisions)}, not {precision}.")


def verify(checkpoint: Checkpoint, engine: Engine, precision: str, sizes: int | None = None) -> float:
    """Run both on noise of extreme sizes; a WeightsError where they differ by more than such numbers may."""
    plain = PlainEngine(checkpoint.model(), CPU)
    random = torch.Generator().manual_seed(0)
    worst = 0.0
    for height, width in _sizes(checkpoint, sizes):
        batch = Batch(torch.randn(1, 3, height, width, generator=random), None)
        found = difference(engine(batch), plain(batch), checkpoint.scoring)
        if not found <= TOLERANCE[precision]:
            raise WeightsError(
                f"{checkpoint.source}: the exported model differs from the plain one by {found:.2g} on a picture of "
                f"{width} x {height} pixels; nothing was written.\nPlease report it."
            )
        worst = max(worst, found)
    return worst


def difference(a: Prediction, b: Prediction, scoring: Scoring) -> float:
    """The largest difference of a probability or of a box in [0, 1]; NaN where one is not a number.

    Of queries that begin at the best proposals none has a place: nearly equal ones may come in another order. So each
    is held against the one that it is closest to, one to one.
    """
    one, two = (torch.cat([scoring.probabilities(p.logits), p.boxes], -1) for p in (a, b))  # (B, Q, K + 4)
    in_order = float((one - two).abs().max())
    if not in_order > 1e-3:  # also where it is not a number
        return in_order
    from scipy.optimize import linear_sum_assignment

    worst = 0.0
    for ours, theirs in zip(one, two, strict=True):
        apart = torch.cdist(ours, theirs, p=torch.inf)  # (Q, Q)
        worst = max(worst, float(apart[linear_sum_assignment(apart)].max()))
    return worst


def _sizes(checkpoint: Checkpoint, count: int | None = None) -> list[tuple[int, int]]:
    """Inputs (height, width) that the preprocessing gives: a usual one, a wide and a tall strip; or so many."""
    random = torch.Generator().manual_seed(0)
    asked = [(480, 640), (100, 1000), (1000, 100)]
    asked += (torch.randint(50, 1000, ((count or 3) - 3, 2), generator=random)).tolist()
    placed = (checkpoint.preprocessing.resize.place(height, width) for height, width in asked)
    return list(dict.fromkeys((place.height, place.width) for place in placed))


def picture_by_picture(compute: Callable[[Tensor], Prediction], images: Tensor) -> Prediction:
    """What a model says that was written for one picture at a time."""
    found = [compute(image[None]) for image in images]
    return Prediction(torch.cat([one.logits for one in found]), torch.cat([one.boxes for one in found]))


def read_exported(path: Path, runtime: Runtime) -> tuple[Checkpoint, str]:
    """What an export says of itself, without tensors, and the precision that it was written in."""
    header: Mapping[str, str] = runtime.code().read_header(path)
    if not {"format", PRECISION} <= header.keys():
        raise WeightsError(f"{path}: not written by `detr export`: it lacks the model's classes and preprocessing.")
    return from_header(header, {}, str(path)), header[PRECISION]


def cached_export(checkpoint: Checkpoint, runtime: Runtime, precision: str, note: Callable[[str], None]) -> Path:
    """Where the export of these weights is kept; it is made where it is not there yet."""
    versions = [metadata.version(package) for package in ("torch", *runtime.packages)]
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    text = json.dumps([checksum(header_of(checkpoint), tensors), runtime.name, precision, versions])
    folder = cache_folder() / "exports" / hashlib.sha256(text.encode()).hexdigest()[:32]
    path = folder / f"model{runtime.ending}"
    if not path.exists():
        note(f"{checkpoint.source}: exporting for {runtime.name}, once; it is kept in {folder}")
        export(replace(checkpoint, tensors=tensors), runtime, path, precision)
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters talk of their inner life."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "torch.onnx", "onnx_ir")]
    before = [(one.level, one.disabled) for one in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for one in loggers:
            one.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for one, (level, disabled) in zip(loggers, before, strict=True):
                one.setLevel(level)
                one.disabled = disabled
