"""Core ML packages, for Apple's devices: written by coremltools anywhere, and run on macOS only.

Metadata are the user-defined metadata of the package, which Xcode shows.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import coremltools
import numpy as np

from detrcli.inference.exported import ExportedFunction, Metadata
from detrcli.inference.graphs import simplify


def write(program: Any, metadata: Metadata, path: Path, precision: str) -> None:
    """Write the model with its metadata as a package, a folder."""
    model = coremltools.convert(
        simplify(program.run_decompositions({})),
        inputs=[coremltools.TensorType(name=name, shape=shape) for name, shape in metadata.inputs.items()],
        outputs=[coremltools.TensorType(name=name) for name in metadata.outputs],
        compute_precision=getattr(coremltools.precision, {"fp32": "FLOAT32", "fp16": "FLOAT16"}[precision]),
        minimum_deployment_target=coremltools.target.iOS17,
    )
    model.user_defined_metadata.update(metadata.texts())
    model.save(str(path))


def read_texts(path: Path) -> Mapping[str, str]:
    return dict(coremltools.models.MLModel(str(path), skip_model_load=True).user_defined_metadata)


def open_function(path: Path, metadata: Metadata, precision: str) -> ExportedFunction | None:
    """Return the model as a function of arrays; None where Core ML does not exist."""
    if sys.platform != "darwin":
        return None
    model = coremltools.models.MLModel(str(path))

    def compute(*inputs: np.ndarray) -> list[np.ndarray]:
        outputs = model.predict(dict(zip(metadata.inputs, inputs, strict=True)))
        return [outputs[name] for name in metadata.outputs]

    return compute
