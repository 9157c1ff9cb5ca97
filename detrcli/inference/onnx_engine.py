"""ONNX files: written, read, and run by onnxruntime."""

from collections.abc import Mapping
from pathlib import Path

import onnxruntime
import torch

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.errors import WeightsError
from detrcli.inference.export import INPUT, OUTPUTS, ExportedEngine, trace
from detrcli.system.precision import PRECISIONS

PREFIX = "detr."  # of keys in the file's metadata


def write(checkpoint: Checkpoint, header: Mapping[str, str], path: Path, precision: str) -> None:
    """Write the model as a single file, with weights and operators in this precision."""
    program = torch.onnx.export(
        trace(checkpoint, PRECISIONS[precision]),
        dynamo=True,
        input_names=[INPUT],
        output_names=list(OUTPUTS),
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update({PREFIX + key: value for key, value in header.items()})
    program.save(path, external_data=False)


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
    single = session.get_inputs()[0].shape[0] == 1
    return ExportedEngine(lambda images: session.run(list(OUTPUTS), {INPUT: images}), single)
