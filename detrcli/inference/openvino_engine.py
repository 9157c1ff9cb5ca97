"""OpenVINO: its IR written, read, and run."""

import json
import threading
from collections.abc import Mapping
from pathlib import Path

import openvino
import torch
from torch import Tensor

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.errors import WeightsError
from detrcli.inference.engines import EngineName
from detrcli.inference.export import CPU, INPUT, OUTPUTS, PRECISION, picture_by_picture, trace
from detrcli.structures import Batch, Prediction

KEY = "detr"  # in the IR's runtime information


def write(checkpoint: Checkpoint, header: Mapping[str, str], path: Path, precision: str) -> None:
    """The model as `path` and a .bin beside it. In fp16 its weights are stored so; bf16 is a matter of computing."""
    program = trace(checkpoint)
    model = openvino.convert_model(program)
    ((example,), _) = program.example_inputs
    if len(example) == 1:  # traced for one picture, of which the conversion keeps nothing
        model.reshape(list(example.shape))
    for port, name in zip((*model.inputs, *model.outputs), (INPUT, *OUTPUTS), strict=True):
        port.get_tensor().set_names({name})
    model.set_rt_info(json.dumps(dict(header)), [KEY])
    openvino.save_model(model, path, compress_to_fp16=precision == "fp16")


def read_header(path: Path) -> Mapping[str, str]:
    """What travels inside; nothing where another wrote the file."""
    model = _read(path)
    try:
        header: Mapping[str, str] = json.loads(model.get_rt_info([KEY]).value) if model.has_rt_info([KEY]) else {}
    except (ValueError, RecursionError):
        return {}
    return header if isinstance(header, dict) else {}


def _read(path: Path) -> openvino.Model:
    try:
        return openvino.Core().read_model(path)
    except RuntimeError as error:
        raise WeightsError(
            f"{path}: OpenVINO cannot read it ({str(error).strip().splitlines()[-1]:.200}).\n"
            "Write it again with `detr export`."
        ) from None


class OpenVinoEngine:
    """An IR, compiled for this CPU."""

    name: EngineName = "openvino"
    device = CPU

    def __init__(self, path: Path, precision: str | None = None) -> None:
        """In the precision that it was written in, or in another."""
        model = _read(path)
        self.alone = model.input(0).partial_shape[0].is_static
        header = read_header(path)
        # Asked for explicitly: by itself it takes what the CPU is fastest in.
        hint = "bf16" if (precision or header.get(PRECISION)) == "bf16" else "f32"
        self.compiled = openvino.Core().compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": hint,
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            },
        )
        self._of_thread = threading.local()  # a request holds one result: threads that share it mix theirs

    def __call__(self, batch: Batch) -> Prediction:
        assert batch.padding is None, "pictures of one size share a batch"
        if self.alone and len(batch.images) > 1:
            return picture_by_picture(self._compute, batch.images)
        return self._compute(batch.images)

    def _compute(self, images: Tensor) -> Prediction:
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self.compiled.create_infer_request()
        request: openvino.InferRequest = self._of_thread.request
        request.infer({INPUT: images.contiguous().numpy()}, share_inputs=True)
        logits, boxes = (torch.from_numpy(request.get_tensor(name).data.copy()) for name in OUTPUTS)
        return Prediction(logits, boxes)


engine = OpenVinoEngine
