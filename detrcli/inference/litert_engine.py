"""LiteRT files, for Android and microcontrollers: written by litert-torch, read, and run by LiteRT's interpreter.

Metadata is in a zip archive at the end of the file, as TensorFlow Lite's associated files: `unzip model.tflite`.
"""

import io
import threading
import zipfile
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import litert_torch
import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter

from detrcli.errors import WeightsError
from detrcli.inference.description import HEADER, Metadata, header_in
from detrcli.inference.export import ExportedEngine
from detrcli.inference.graphs import simplify


def write(program: Any, metadata: Metadata, path: Path, precision: str) -> None:
    """Write the model with its metadata as a single file."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # its progress
        litert_torch.convert(simplify(program).module(), program.example_inputs[0]).export(str(path))
    with zipfile.ZipFile(path, "a") as archive:
        for key, text in metadata.texts().items():
            archive.writestr(f"{key}.json", text)


def read_header(path: Path) -> Mapping[str, str]:
    """Return the header of a file, empty if `write` did not write it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return header_in({HEADER: archive.read(f"{HEADER}.json").decode()})
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError):
        return {}


def open_engine(path: Path, precision: str | None = None) -> ExportedEngine:
    """Return an engine for a file. The interpreter holds a single result, so threads take turns."""
    try:
        interpreter = Interpreter(model_path=str(path), num_threads=torch.get_num_threads())
        run = interpreter.get_signature_runner()
    except (ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: LiteRT cannot read it ({str(error).splitlines()[0]:.200}).") from None
    lock = threading.Lock()

    def compute(*inputs: np.ndarray) -> list[np.ndarray]:
        with lock:
            outputs = run(**{f"args_{index}": array for index, array in enumerate(inputs)})
        return [outputs[f"output_{index}"] for index in range(len(outputs))]

    _, _, height, width = interpreter.get_input_details()[0]["shape"].tolist()
    return ExportedEngine(compute, (height, width), single=True)
