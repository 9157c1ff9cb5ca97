"""ONNX: its files written, read, and run by onnxruntime."""

from collections.abc import Mapping
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.errors import WeightsError
from detrcli.inference.engines import EngineName
from detrcli.inference.export import CPU, INPUT, OUTPUTS, picture_by_picture, trace
from detrcli.structures import Batch, Prediction
from detrcli.system.devices import PRECISIONS

PREFIX = "detr."  # of the keys in the file's metadata


def write(checkpoint: Checkpoint, header: Mapping[str, str], path: Path, precision: str) -> None:
    """The model as one file, its weights and operators in these numbers."""
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
    """What travels inside; nothing where another wrote the file."""
    found = _session(path).get_modelmeta().custom_metadata_map
    return {key.removeprefix(PREFIX): value for key, value in found.items() if key.startswith(PREFIX)}


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has its own classes, of which none is public
        first = str(error).splitlines()[0]
        raise WeightsError(
            f"{path}: onnxruntime cannot read it ({first:.200}).\nWrite it again with `detr export`."
        ) from None


class OnnxEngine:
    """A file, run on this CPU."""

    name: EngineName = "onnx"
    device = CPU

    def __init__(self, path: Path, precision: str | None = None) -> None:
        """In the precision that it was written in."""
        self.session = _session(path)
        self.alone = self.session.get_inputs()[0].shape[0] == 1

    def __call__(self, batch: Batch) -> Prediction:
        assert batch.padding is None, "pictures of one size share a batch"
        if self.alone and len(batch.images) > 1:
            return picture_by_picture(self._compute, batch.images)
        return self._compute(batch.images)

    def _compute(self, images: Tensor) -> Prediction:
        found = self.session.run(list(OUTPUTS), {INPUT: images.contiguous().numpy()})
        logits, boxes = (torch.from_numpy(one) for one in found)
        return Prediction(logits, boxes)


engine = OnnxEngine
