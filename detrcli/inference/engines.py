"""How a network is computed: from a batch to an output. The model as it stands is the plain way."""

from typing import Protocol

import torch

from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.structures import Batch, Output
from detrcli.system.precision import check_precision, computing_in


class Engine(Protocol):
    """Computes a network on a device."""

    device: torch.device

    def __call__(self, batch: Batch) -> Output:
        """What every query says of every picture; without gradients."""


class PlainEngine:
    """The modules of the model as they stand."""

    def __init__(self, model: DetectionTransformer, device: torch.device, precision: str = "fp32") -> None:
        check_precision(precision, device)
        self.model = model.to(device)
        self.device = device
        self.precision = precision

    def __call__(self, batch: Batch) -> Output:
        with torch.inference_mode(), computing_in(self.precision, self.device):
            return self.model(batch.to(self.device))
