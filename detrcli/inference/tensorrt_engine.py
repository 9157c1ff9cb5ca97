"""TensorRT engines, for the GPU on which they are built. Metadata is in a JSON file beside the engine."""

import json
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt
import torch

from detrcli.checkpoints.formats.header import from_header
from detrcli.errors import WeightsError
from detrcli.inference import onnx_engine
from detrcli.inference.description import Metadata, header_in
from detrcli.inference.export import ExportedEngine
from detrcli.inference.tensorrt_shapes import shapes_for

LOGGER = tensorrt.Logger(tensorrt.Logger.ERROR)


def write(program: Any, metadata: Metadata, path: Path, precision: str) -> None:
    """Build an engine from the ONNX model, whose number formats it keeps, for the sizes that the model takes."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        onnx = Path(folder) / "model.onnx"
        onnx_engine.write(program, metadata, onnx, precision)
        content = onnx.read_bytes()
    builder = tensorrt.Builder(LOGGER)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, LOGGER)
    if not parser.parse(content):
        raise WeightsError(f"TensorRT cannot read the ONNX model ({parser.get_error(0).desc():.200}).")
    config = builder.create_builder_config()
    config.clear_flag(tensorrt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    checkpoint = from_header(metadata.header, {}, str(path))
    for name, shapes in shapes_for(checkpoint, "sizes" in metadata.inputs).items():
        profile.set_shape(name, *shapes)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise WeightsError("TensorRT cannot build an engine of the model. Its log says why.")
    path.write_bytes(plan)
    path.with_suffix(".engine.json").write_text(json.dumps(dict(metadata.texts())), encoding="utf-8")


def read_header(path: Path) -> Mapping[str, str]:
    """Return the header in the file beside an engine, empty if there is none."""
    beside = path.with_suffix(".engine.json")
    try:
        return header_in(json.loads(beside.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError):
        return {}


def open_engine(path: Path, precision: str | None = None) -> ExportedEngine:
    """Return an engine for a file, which computes on the GPU."""
    engine = tensorrt.Runtime(LOGGER).deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise WeightsError(f"{path}: TensorRT cannot read it. An engine fits only the GPU and version that built it.")
    context, lock = engine.create_execution_context(), threading.Lock()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # untyped in torch
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT]
    outputs = [name for name in names if name not in inputs]

    def compute(*arrays: np.ndarray) -> list[np.ndarray]:
        with lock:  # a context runs one batch at a time
            tensors = {name: torch.from_numpy(array).cuda() for name, array in zip(inputs, arrays, strict=True)}
            for name, tensor in tensors.items():
                context.set_input_shape(name, tuple(tensor.shape))
            for name in outputs:
                dtype = getattr(torch, np.dtype(tensorrt.nptype(engine.get_tensor_dtype(name))).name)
                tensors[name] = torch.empty(tuple(context.get_tensor_shape(name)), dtype=dtype, device="cuda")
            for name, tensor in tensors.items():
                context.set_tensor_address(name, tensor.data_ptr())
            stream.wait_stream(torch.cuda.current_stream())
            context.execute_async_v3(stream.cuda_stream)
            stream.synchronize()
            return [tensors[name].cpu().numpy() for name in outputs]

    height, width = engine.get_tensor_shape(inputs[0])[2:]
    return ExportedEngine(compute, None if -1 in (height, width) else (height, width))
