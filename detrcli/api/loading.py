"""Weights and how to load them. Importing this module does not import torch."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detrcli.checkpoints.phrases import phrases_of
from detrcli.errors import UsageError
from detrcli.inference import EngineName
from detrcli.messages import argument
from detrcli.reporter import SILENT, Reporter

if TYPE_CHECKING:
    import torch

    from detrcli.checkpoints.checkpoint import Checkpoint
    from detrcli.checkpoints.download import DownloadProgress
    from detrcli.inference.detector import Detector
    from detrcli.inference.export import Runtime

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
    def torch_device(self) -> "torch.device":
        """The device."""
        from detrcli.system.devices import find_device

        return find_device(self.device)

    def checkpoint(self, class_names: Sequence[str] = (), reporter: Reporter = SILENT) -> "Checkpoint":
        """Load the weights. Models that take phrases detect `class_names` where there is no text."""
        from detrcli.checkpoints.load import load_checkpoint

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

    def detector(self, class_names: Sequence[str] = (), reporter: Reporter = SILENT) -> "Detector":
        """Load the weights on the device."""
        from detrcli.inference.detector import Detector
        from detrcli.inference.export import runtime_of

        device = self.torch_device  # an unknown device is an error before anything is downloaded
        runtime = runtime_of(self.weights)
        if runtime is not None and self.text is None:
            return self._exported(runtime)
        checkpoint = self.checkpoint(class_names, reporter)
        return Detector(checkpoint, device, self.precision or "fp32", engine=self.engine, reporter=reporter)

    def _exported(self, runtime: "Runtime") -> "Detector":
        from detrcli.inference.detector import Detector
        from detrcli.inference.export import CPU, read_exported

        if self.engine not in (None, runtime.name):
            raise UsageError(f"{self.weights}: {argument('engine', self.engine)} cannot run it; {runtime.name} can.")
        if self.device != "auto" and self.torch_device.type != "cpu":
            raise UsageError(f"{self.weights}: {runtime.name} needs {argument('device', 'cpu')}.")
        checkpoint, written = read_exported(Path(self.weights), runtime)
        precision = self.precision or written
        if precision != written and not {precision, written} <= set(runtime.runtime_precisions):
            raise UsageError(f"{self.weights}: it was written in {written}. Export it again for {precision}.")
        engine = runtime.open(Path(self.weights), precision)
        return Detector(checkpoint.resized(self.size, self.max_size), CPU, precision, engine=engine)


@contextmanager
def downloads(reporter: Reporter) -> "Iterator[DownloadProgress]":
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
) -> "Detector":
    """Load a detector: a name from `detr models`, a file, a folder, `hf:OWNER/NAME` or a URL.

    `options` are those of LoadOptions: precision, engine (plain, fast, compiled, openvino or onnx), model, sha256,
    size, max_size, and text, the phrases to detect ("a cat. a remote control.") for models that take phrases.
    """
    return LoadOptions(str(weights), device, **options).detector(reporter=reporter)


def as_options(weights: Weights, device: str = "auto") -> LoadOptions:
    """Return the options for weights that may be a name only."""
    return weights if isinstance(weights, LoadOptions) else LoadOptions(str(weights), device)


def as_detector(
    weights: "Weights | Detector", device: str = "auto", class_names: Sequence[str] = (), reporter: Reporter = SILENT
) -> "Detector":
    """Return a detector, loaded unless it is one already."""
    if isinstance(weights, str | Path | LoadOptions):
        return as_options(weights, device).detector(class_names, reporter)
    return weights
