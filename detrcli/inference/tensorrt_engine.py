"""TensorRT engines, for the GPU on which they are built. Metadata is in a JSON file beside the engine."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt
import torch

from detrcli.errors import WeightsError
from detrcli.inference import onnx_engine
from detrcli.inference.exported import ExportedFunction, Metadata
from detrcli.inference.tensorrt_shapes import profile_of

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
    for name, shapes in profile_of(metadata).items():
        profile.set_shape(name, *shapes)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise WeightsError("TensorRT cannot build an engine of the model. Its log says why.")
    path.write_bytes(plan)
    path.with_suffix(".json").write_text(json.dumps(dict(metadata.texts())), encoding="utf-8")


def read_texts(path: Path) -> Mapping[str, str]:
    beside = path.with_suffix(".json")
    return json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}


def open_function(path: Path, metadata: Metadata, precision: str) -> ExportedFunction:
    """Return the engine as a function of arrays."""
    engine = tensorrt.Runtime(LOGGER).deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise WeightsError(f"{path}: TensorRT cannot read it. An engine fits only the GPU and version that built it.")
    context, stream = engine.create_execution_context(), torch.cuda.Stream()

    def compute(*inputs: np.ndarray) -> list[np.ndarray]:
        arrays = {name: torch.from_numpy(array).cuda() for name, array in zip(metadata.inputs, inputs, strict=True)}
        for name, tensor in arrays.items():
            context.set_input_shape(name, tuple(tensor.shape))
        for name in metadata.outputs:
            dtype = getattr(torch, tensorrt.nptype(engine.get_tensor_dtype(name)).__name__)
            arrays[name] = torch.empty(tuple(context.get_tensor_shape(name)), dtype=dtype, device="cuda")
        for name, tensor in arrays.items():
            context.set_tensor_address(name, tensor.data_ptr())
        stream.wait_stream(torch.cuda.current_stream())
        context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        return [arrays[name].cpu().numpy() for name in metadata.outputs]

    return compute
