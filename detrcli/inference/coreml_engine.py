"""Core ML packages, for Apple's devices: written by coremltools anywhere, and run on macOS only.

Metadata are the user-defined metadata of the package, which Xcode shows.
"""

import io
import platform
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import coremltools
import numpy as np

from detrcli.errors import MachineError, WeightsError
from detrcli.inference.description import Metadata, header_in
from detrcli.inference.export import ExportedEngine
from detrcli.inference.graphs import simplify


def write(program: Any, metadata: Metadata, path: Path, precision: str) -> None:
    """Write the model with its metadata as a package, a folder."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # its progress
        model = coremltools.convert(
            simplify(program.run_decompositions({})),
            inputs=[coremltools.TensorType(name=name, shape=shape) for name, shape in metadata.inputs.items()],
            outputs=[coremltools.TensorType(name=name) for name in metadata.outputs],
            compute_precision=getattr(coremltools.precision, {"fp32": "FLOAT32", "fp16": "FLOAT16"}[precision]),
            minimum_deployment_target=coremltools.target.iOS17,
        )
    model.user_defined_metadata.update(metadata.texts())
    model.save(str(path))


def read_header(path: Path) -> Mapping[str, str]:
    """Return the header of a package, empty if `write` did not write it."""
    try:
        return header_in(coremltools.models.MLModel(str(path), skip_model_load=True).user_defined_metadata)
    except Exception as error:  # coremltools raises all kinds of errors for other files
        raise WeightsError(f"{path}: coremltools cannot read it ({str(error).splitlines()[0]:.200}).") from None


def open_engine(path: Path, precision: str | None = None) -> ExportedEngine:
    """Return an engine for a package. Raises MachineError on other systems than macOS."""
    if platform.system() != "Darwin":
        raise MachineError("Core ML models run on macOS only.")
    model = coremltools.models.MLModel(str(path))
    spec = model.get_spec().description
    names, outputs = ([port.name for port in ports] for ports in (spec.input, spec.output))

    def compute(*inputs: np.ndarray) -> list[np.ndarray]:
        results = model.predict(dict(zip(names, inputs, strict=True)))
        return [results[name] for name in outputs]

    height, width = spec.input[0].type.multiArrayType.shape[2:]
    return ExportedEngine(compute, (height, width), single=True)
