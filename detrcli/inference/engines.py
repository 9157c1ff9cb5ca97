"""How a network is computed: from a batch to what its queries say in the end.

The model as it stands is the plain way, which training and those who look inside take. The others are faster and give
the same numbers, in float32 to 1e-4.
"""

from typing import Literal, Protocol

import torch

from detrcli.errors import UsageError
from detrcli.inference.fuse import fuse
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.structures import Batch, Prediction
from detrcli.system.precision import PRECISIONS, computing_in

EngineName = Literal["plain", "fast", "openvino", "onnx"]


class Engine(Protocol):
    """Computes a network on a device."""

    name: EngineName
    device: torch.device

    def __call__(self, batch: Batch) -> Prediction:
        """What the decoder's last layer says of every picture; without gradients."""


class PlainEngine:
    """The modules of the model as they stand."""

    name: EngineName = "plain"

    def __init__(self, model: DetectionTransformer, device: torch.device, precision: str = "fp32") -> None:
        self.model = model
        self.device = device
        self.precision = precision

    def __call__(self, batch: Batch) -> Prediction:
        with torch.inference_mode(), computing_in(self.precision, self.device):
            return self.model(batch.to(self.device)).last


class FastEngine(PlainEngine):
    """The model with its operators fused, from the weights that it has now."""

    name: EngineName = "fast"

    def __init__(self, model: DetectionTransformer, device: torch.device, precision: str = "fp32") -> None:
        if device.type == "cpu" and precision == "fp16":
            raise UsageError("--engine fast computes in fp32 or bf16 on a CPU: for fp16 take --engine plain.")
        # What computes in fewer bits is said layer by layer, which spares the casts that autocast puts everywhere.
        by_layer = precision != "fp32" and device.type in {"cpu", "cuda"}
        super().__init__(model, device, "fp32" if by_layer else precision)
        if by_layer and not model.casts_itself:
            self.precision = precision
            return
        self.model = fuse(model, PRECISIONS[precision if by_layer else "fp32"])


def fastest(device: torch.device, precision: str) -> EngineName:
    """The engine where none is asked for: the prepared one where that was measured to help."""
    return "fast" if device.type == "cpu" and precision in {"fp32", "bf16"} else "plain"
