"""Models: loaded, listed, and exported for other runtimes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from detrcli.api.results import Result, Table
from detrcli.architectures import architecture_of, preset
from detrcli.architectures.adapters.families import FAMILIES, MASK_FAMILIES, OPEN_VOCABULARY, Family
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.download import DownloadProgress, cached_path
from detrcli.checkpoints.load import load_checkpoint
from detrcli.checkpoints.phrases import phrases_of
from detrcli.checkpoints.registry import PUBLISHED, SHIPPED
from detrcli.errors import UsageError
from detrcli.inference import EngineName
from detrcli.inference import export as exporting
from detrcli.inference.detector import Detector
from detrcli.messages import argument
from detrcli.reporter import SILENT, Reporter
from detrcli.system.devices import find_device

WEIGHTS = "detr-r50"  # the default


@dataclass(frozen=True)
class LoadOptions:
    """Weights, and how to load and compute them. Functions take it in place of the name of weights."""

    weights: str = WEIGHTS  # a name, a file, a folder, `hf:OWNER/NAME` or a URL
    device: str = "auto"
    precision: str | None = None  # fp32, bf16 or fp16; by default fp32, or that of an exported model
    engine: EngineName | None = None  # by default the fastest for the device
    model: str | None = None  # architecture of a .pth file, where its tensors do not determine it
    sha256: str | None = None
    size: int | None = None  # shorter side of the input, by default that of the weights
    max_size: int | None = None
    text: str | Sequence[str] | None = None  # phrases to detect, for models that take phrases

    @cached_property
    def torch_device(self) -> torch.device:
        """The device."""
        return find_device(self.device)

    def checkpoint(self, class_names: Sequence[str] = (), reporter: Reporter = SILENT) -> Checkpoint:
        """Load the weights. Models that take phrases detect `class_names` where there is no text."""
        phrases = None if self.text is None else phrases_of(self.text)
        with downloads(reporter) as progress:
            checkpoint = load_checkpoint(
                self.weights,
                model=self.model,
                sha256=self.sha256,
                progress=progress,
                phrases=phrases,
                class_names=class_names,
            )
        return checkpoint.resized(self.size, self.max_size)

    def detector(self, class_names: Sequence[str] = (), reporter: Reporter = SILENT) -> Detector:
        """Load the weights on the device."""
        device = self.torch_device  # an unknown device is an error before anything is downloaded
        runtime = exporting.runtime_of(self.weights)
        if runtime is not None and self.text is None:
            return self._exported(runtime)
        checkpoint = self.checkpoint(class_names, reporter)
        return Detector(checkpoint, device, self.precision or "fp32", engine=self.engine, reporter=reporter)

    def _exported(self, runtime: exporting.Runtime) -> Detector:
        if self.engine not in (None, runtime.name):
            raise UsageError(f"{self.weights}: {argument('engine', self.engine)} cannot run it; {runtime.name} can.")
        if self.device != "auto" and self.torch_device.type != "cpu":
            raise UsageError(f"{self.weights}: {runtime.name} needs {argument('device', 'cpu')}.")
        checkpoint, written = exporting.read_exported(Path(self.weights), runtime)
        precision = self.precision or written
        if precision != written and not {precision, written} <= set(runtime.runtime_precisions):
            raise UsageError(f"{self.weights}: it was written in {written}. Export it again for {precision}.")
        engine = runtime.open(Path(self.weights), precision)
        return Detector(checkpoint.resized(self.size, self.max_size), exporting.CPU, precision, engine=engine)


@contextmanager
def downloads(reporter: Reporter) -> Iterator[DownloadProgress]:
    """Show the progress of downloads by a reporter."""
    with ExitStack() as stack:
        advance, before = None, 0

        def progress(name: str, done: int, total: int | None) -> None:
            nonlocal advance, before
            if advance is None:
                advance = stack.enter_context(reporter.progress(f"fetching {name}", total, "bytes"))
            advance(done - before)
            before = done

        yield progress


Weights = str | Path | LoadOptions


def load(
    weights: str | Path = WEIGHTS, device: str = "auto", *, reporter: Reporter = SILENT, **options: Any
) -> Detector:
    """Load a detector: a name from `detr models`, a file, a folder, `hf:OWNER/NAME` or a URL.

    `options` are those of LoadOptions: precision, engine (plain, fast, compiled, openvino or onnx), model, sha256,
    size, max_size, and text, the phrases to detect ("a cat. a remote control.") for models that take phrases.
    """
    return LoadOptions(str(weights), device, **options).detector(reporter=reporter)


def as_options(weights: Weights, device: str = "auto") -> LoadOptions:
    """Return the options for weights that may be a name only."""
    return weights if isinstance(weights, LoadOptions) else LoadOptions(str(weights), device)


def as_detector(
    weights: Weights | Detector, device: str = "auto", class_names: Sequence[str] = (), reporter: Reporter = SILENT
) -> Detector:
    """Return a detector, loaded unless it is one already."""
    if isinstance(weights, Detector):
        return weights
    return as_options(weights, device).detector(class_names, reporter)


def export(
    weights: Weights,
    out: str | Path,
    format: Literal["onnx", "openvino"],
    *,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    reporter: Reporter = SILENT,
) -> float:
    """Write a model for another runtime. Return the largest difference from the plain model."""
    runtime = exporting.RUNTIMES[format]
    runtime.check_precision(precision)  # before anything is downloaded
    checkpoint = as_options(weights).checkpoint(reporter=reporter)
    reporter.note(f"tracing {checkpoint.source}, which takes about ten seconds")
    return exporting.export(checkpoint, runtime, Path(out), precision)


@dataclass(frozen=True)
class NamedModel:
    """Weights that have a name."""

    name: str
    backbone: str
    parameters: int
    data: str  # on which AP was measured
    AP: float
    bytes: int | None
    cached: bool


@dataclass(frozen=True)
class ModelList(Result):
    """Weights that have a name, and the model families of transformers."""

    models: Sequence[NamedModel]
    families: Mapping[str, Family]  # by model_type

    @property
    def tables(self) -> Sequence[Table]:
        models = [
            (*astuple(model)[:5], model.bytes and round(model.bytes / 1e6), "yes" if model.cached else "no")
            for model in self.models
        ]
        families: list[tuple[str, ...]] = []
        for model_type, family in self.families.items():
            default, published = family.default, family.published
            size = ("", "", "")
            if default is not None:
                size = (f"{default.parameters:,}", f"{default.gflop:.1f}", f"{default.height} x {default.width}")
            ap = f"{published.ap} ({published.model}, arXiv {published.paper})" if published is not None else ""
            families.append((family.title, model_type, *size, ap))
        return [
            Table("", ("name", "backbone", "parameters", "evaluated on", "AP", "MB", "cached"), models),
            Table("", ("transformers family", "model_type", "parameters", "GFLOP", "at", "published AP"), families),
        ]

    @property
    def document(self) -> dict[str, Any]:
        families = [
            {
                "family": family.title,
                "model_type": model_type,
                "default": family.default and asdict(family.default),
                "as_published": family.published and asdict(family.published),
            }
            for model_type, family in self.families.items()
        ]
        return {"schema": "detr.models/1", "models": [asdict(model) for model in self.models], "families": families}


def list_models() -> ModelList:
    """Return the weights that have a name, and the model families of transformers that can be loaded."""
    models = []
    for name, weights in PUBLISHED.items():
        config = preset(name)
        cached = cached_path(weights.url, weights.sha256).exists()
        summary = architecture_of(config).summary(config)
        models.append(NamedModel(name, summary, weights.parameters, "COCO val2017", weights.ap, weights.bytes, cached))
    for name, shipped in SHIPPED.items():
        checkpoint = load_checkpoint(name)
        parameters = sum(p.numel() for p in checkpoint.model().parameters())
        ap = round(100 * shipped.record["metrics"]["AP"], 1)
        models.append(NamedModel(name, checkpoint.architecture.name, parameters, "shapes val", ap, shipped.bytes, True))
    return ModelList(models, {**FAMILIES, **OPEN_VOCABULARY, **MASK_FAMILIES})
