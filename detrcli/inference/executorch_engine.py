"""ExecuTorch programs, for phones and embedded devices: lowered to XNNPACK, read, and run by ExecuTorch's runtime.

Metadata are methods of the program that return a text: `module.execute("detector")`.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime as ExecutorchRuntime

from detrcli.errors import WeightsError
from detrcli.inference.description import HEADER, Metadata, header_in
from detrcli.inference.export import ExportedEngine


def write(program: Any, metadata: Metadata, path: Path, precision: str) -> None:
    """Write the model with its metadata as a single file."""
    lowered = to_edge_transform_and_lower(
        program, partitioner=[XnnpackPartitioner()], constant_methods=dict(metadata.texts())
    )
    path.write_bytes(lowered.to_executorch().buffer)


def read_header(path: Path) -> Mapping[str, str]:
    """Return the header of a file, empty if `write` did not write it."""
    program = _program(path)
    present = HEADER in program.method_names
    return header_in({HEADER: str(program.load_method(HEADER).execute([])[0])} if present else {})


def _program(path: Path) -> Any:
    try:
        return ExecutorchRuntime.get().load_program(path)
    except RuntimeError as error:
        raise WeightsError(f"{path}: ExecuTorch cannot read it ({str(error).splitlines()[0]:.200}).") from None


def open_engine(path: Path, precision: str | None = None) -> ExportedEngine:
    """Return an engine for a file. A method holds a single result, so threads take turns."""
    forward, lock = _program(path).load_method("forward"), threading.Lock()

    def compute(*inputs: np.ndarray) -> list[np.ndarray]:
        with lock:
            return [output.numpy().copy() for output in forward.execute([torch.from_numpy(array) for array in inputs])]

    _, _, height, width = forward.metadata.input_tensor_meta(0).sizes()
    return ExportedEngine(compute, (height, width), single=True)
