"""Detectors and checkpoints, loaded by the name of their weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detrcli.api.options import WEIGHTS, LoadOptions, Weights, load_options
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.load import load_checkpoint
from detrcli.checkpoints.phrases import phrases_of
from detrcli.errors import UsageError
from detrcli.inference.detector import Detector
from detrcli.inference.export import Runtime, read_exported, runtime_of
from detrcli.inference.verification import CPU
from detrcli.messages import argument
from detrcli.reporter import SILENT, Reporter
from detrcli.system.devices import find_device
from detrcli.system.launch import launch


def load(
    weights: str | Path = WEIGHTS, device: str = "auto", *, reporter: Reporter = SILENT, **options: Any
) -> Detector:
    """Load a detector: a name from `detr models`, a file, a folder, `hf:OWNER/NAME` or a URL.

    `options` are those of LoadOptions: precision, engine (auto, plain, fast, compiled, openvino or onnx), model,
    sha256, size, max_size, and text, the phrases to detect ("a cat. a remote control.") for models that take phrases;
    tiles (N or "WxH"), overlap and nms for small and crowded objects.
    """
    return as_detector(LoadOptions(str(weights), device, **options), reporter=reporter)


def checkpoint_of(options: LoadOptions, class_names: Sequence[str] = (), reporter: Reporter = SILENT) -> Checkpoint:
    """Load the weights. Models that take phrases detect `class_names` where there is no text."""
    checkpoint = load_checkpoint(
        options.weights,
        model=options.model,
        sha256=options.sha256,
        phrases=None if options.text is None else phrases_of(options.text),
        class_names=class_names,
        reporter=reporter,
    )
    return checkpoint.resized(options.size, options.max_size)


def as_detector(
    weights: Weights | Detector,
    device: str = "auto",
    class_names: Sequence[str] = (),
    reporter: Reporter = SILENT,
    images: int | None = None,
) -> Detector:
    """Load the weights on the device, unless they are a detector already.

    With the number of images to come, which all processes share, the engine is `auto` by default.
    """
    if isinstance(weights, Detector):
        return weights
    options = load_options(weights, device)
    torch_device = find_device(options.device)  # an unknown device is an error before anything is downloaded
    runtime = runtime_of(options.weights)
    if runtime is not None and options.text is None:
        return _exported(options, runtime).with_tiling(options.tiling)
    checkpoint = checkpoint_of(options, class_names, reporter)
    engine = options.engine
    if images is not None:
        engine, images = engine or "auto", -(-images // launch().world_size)
    precision = options.precision or "fp32"
    detector = Detector(checkpoint, torch_device, precision, engine=engine, images=images, reporter=reporter)
    return detector.with_tiling(options.tiling)


def _exported(options: LoadOptions, runtime: Runtime) -> Detector:
    path, engine, device = Path(options.weights), options.engine, options.device
    if engine not in (None, "auto", runtime.name):
        raise UsageError(f"{path}: {argument('engine', engine)} cannot run it; {runtime.name} can.")
    if device != "auto" and find_device(device).type != runtime.device:
        raise UsageError(f"{path}: {runtime.name} needs {argument('device', runtime.device)}.")
    checkpoint, written = read_exported(path, runtime)
    precision = options.precision or written
    if precision != written and not {precision, written} <= set(runtime.runtime_precisions):
        raise UsageError(f"{path}: it was written in {written}. Export it again for {precision}.")
    resized = checkpoint.resized(options.size, options.max_size)
    computed = "fp32" if precision == "int8" else precision  # its other layers
    return Detector(resized, CPU, computed, engine=runtime.open(path, precision))
