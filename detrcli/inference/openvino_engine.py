"""OpenVINO's intermediate representation (IR): written, read, and run."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch

from detrcli.errors import WeightsError
from detrcli.inference.description import HEADER, MASKS, Metadata, header_in
from detrcli.inference.export import PRECISION, ExportedEngine


def write(program: Any, metadata: Metadata, path: Path, precision: str) -> None:
    """Write the model as `path` and a .bin beside it. fp16 weights are stored as such; bf16 takes effect on running."""
    model = openvino.convert_model(program)
    for port, name in zip((*model.inputs, *model.outputs), (*metadata.inputs, *metadata.outputs), strict=True):
        port.get_tensor().set_names({name})
    # The conversion loses a fixed height and width.
    inputs = metadata.inputs.items()
    model.reshape({name: [side if isinstance(side, int) else -1 for side in shape] for name, shape in inputs})
    model.input("images").get_node().set_layout(openvino.Layout("NCHW"))
    for key, text in metadata.texts().items():
        model.set_rt_info(text, [key])
    openvino.save_model(model, path, compress_to_fp16=precision == "fp16")


def read_header(path: Path) -> Mapping[str, str]:
    """Return the header of a file; empty if `write` did not write it."""
    model = _read(path)
    return header_in({HEADER: model.get_rt_info([HEADER]).value} if model.has_rt_info([HEADER]) else {})


def _read(path: Path) -> openvino.Model:
    try:
        return openvino.Core().read_model(path)
    except RuntimeError as error:
        raise WeightsError(
            f"{path}: OpenVINO cannot read it ({str(error).strip().splitlines()[-1]:.200}).\n"
            "Write it again with `detr export`."
        ) from None


def open_engine(path: Path, precision: str | None = None) -> ExportedEngine:
    """Compile a file for this CPU, by default in the precision in which it was written."""
    model, header = _read(path), read_header(path)
    # Explicit, because OpenVINO's default is the precision in which the CPU is fastest.
    hint = "bf16" if (precision or header.get(PRECISION)) == "bf16" else "f32"
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    local = threading.local()  # an infer request holds one result, so each thread needs its own

    inputs, outputs = ([port.get_any_name() for port in ports] for ports in (model.inputs, model.outputs))

    def compute(*arrays: np.ndarray) -> list[np.ndarray]:
        if not hasattr(local, "request"):
            local.request = compiled.create_infer_request()
        local.request.infer(dict(zip(inputs, arrays, strict=True)), share_inputs=True)
        return [local.request.get_tensor(name).data.copy() for name in outputs]

    sides = list(model.input(0).partial_shape)[2:]
    size = (sides[0].get_length(), sides[1].get_length()) if all(side.is_static for side in sides) else None
    return ExportedEngine(compute, size, masks_by_corner=header.get(MASKS) == "by corner")
