"""A model written for another runtime."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from detrcli.checkpoints.load import load_checkpoint
from detrcli.inference import export as exporting
from detrcli.inference.export import RUNTIMES
from detrcli.reporter import SILENT, Reporter


def export(
    weights: str | Path,
    out: str | Path,
    format: Literal["onnx", "openvino"],
    *,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    size: int | None = None,
    max_size: int | None = None,
    model: str | None = None,
    sha256: str | None = None,
    progress: Reporter = SILENT,
    note: Callable[[str], None] = lambda text: None,
) -> float:
    """Write a model that `--weights` takes; how far it is from the plain one, in the worst of what was compared."""
    runtime = RUNTIMES[format]
    exporting.check_written_in(runtime, precision)  # before anything is fetched
    loaded = load_checkpoint(str(weights), model=model, sha256=sha256, reporter=progress)
    note(f"tracing {weights}, which takes some ten seconds")
    return exporting.export(loaded.resized(size, max_size), runtime, Path(out), precision)
