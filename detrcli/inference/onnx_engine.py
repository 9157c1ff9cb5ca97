"""ONNX files: written, read, and run by onnxruntime."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from detrcli.errors import WeightsError
from detrcli.inference.description import HEADER, KEY, MASKS, Metadata
from detrcli.inference.export import ExportedEngine

PREFIX = f"{HEADER}."  # of keys in the file's metadata


def write(program: Any, metadata: Metadata, path: Path, precision: str) -> None:
    """Write the model as a single file, with weights and operators in the precision in which it was traced."""
    onnx = torch.onnx.export(
        program, dynamo=True, input_names=[*metadata.inputs], output_names=[*metadata.outputs], verbose=False
    )
    assert onnx is not None
    onnx.model.metadata_props.update({PREFIX + key: value for key, value in metadata.header.items()})
    onnx.model.metadata_props[KEY] = metadata.texts()[KEY]
    _name_dimensions(onnx.model.graph, {**metadata.inputs, **metadata.outputs})
    onnx.save(path, external_data=False)


def _name_dimensions(graph: Any, shapes: Mapping[str, Sequence[int | str]]) -> None:
    """Replace the symbols of torch.export, as `s34`, by the names of `shapes` in all shapes of a graph."""
    values = [*graph.inputs, *graph.outputs]
    symbols = {
        side.value: name
        for value in values
        for side, name in zip(value.shape, shapes[value.name], strict=True)
        if isinstance(name, str)
    }
    for value in {*values, *(output for node in graph.all_nodes() for output in node.outputs)}:
        for axis, side in enumerate(value.shape or ()):
            if isinstance(text := getattr(side, "value", None), str):
                value.shape[axis] = re.sub(r"\w+", lambda word: symbols.get(word[0], word[0]), text)


def read_header(path: Path) -> Mapping[str, str]:
    """Return the header of a file, empty if it was not written by `write`."""
    metadata = _session(path).get_modelmeta().custom_metadata_map
    return {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exception classes are not public
        first = str(error).splitlines()[0]
        raise WeightsError(
            f"{path}: onnxruntime cannot read it ({first:.200}).\nWrite it again with `detr export`."
        ) from None


def open_engine(path: Path, precision: str | None = None) -> ExportedEngine:
    """Return an engine for a file. Its precision is that of the file."""
    session = _session(path)
    height, width = session.get_inputs()[0].shape[2:]  # names if variable
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    names = [value.name for value in session.get_inputs()]
    by_corner = session.get_modelmeta().custom_metadata_map.get(PREFIX + MASKS) == "by corner"
    return ExportedEngine(
        lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True))), size, masks_by_corner=by_corner
    )
