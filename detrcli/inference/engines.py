"""How a network is computed: from a batch to what its queries say in the end.

The model as it stands is the plain way, which training and those who look inside take. The others are faster and give
the same numbers, in float32 to 1e-4.
"""

from collections.abc import Callable, Mapping
from typing import Literal, Protocol

import torch

from detrcli.errors import UsageError
from detrcli.inference.fuse import fuse
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.structures import Batch, Output, Prediction
from detrcli.system.devices import PRECISIONS, computing_in

EngineName = Literal["plain", "fast", "compiled", "openvino", "onnx"]


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
    packs = True

    def __init__(self, model: DetectionTransformer, device: torch.device, precision: str = "fp32") -> None:
        if device.type == "cpu" and precision == "fp16":
            raise UsageError("--engine fast computes in fp32 or bf16 on a CPU: for fp16 take --engine plain.")
        # What computes in fewer bits is said layer by layer, which spares the casts that autocast puts everywhere.
        by_layer = precision != "fp32" and device.type in {"cpu", "cuda"}
        if not by_layer:
            super().__init__(fuse(model, pack=self.packs), device, precision)
        elif model.casts_itself:
            super().__init__(fuse(model, PRECISIONS[precision], pack=self.packs), device)
        else:
            super().__init__(model, device, precision)


class CompiledEngine(FastEngine):
    """The fused model through torch.compile; on a GPU each size of batch, once seen, is a CUDA graph."""

    name: EngineName = "compiled"
    packs = False
    most_graphs = 16  # each holds its inputs, outputs and what lies between them

    def __init__(self, model: DetectionTransformer, device: torch.device, precision: str = "fp32") -> None:
        if model.has_masks:
            raise UsageError("--engine compiled: a model with a mask head is computed by --engine fast or plain.")
        super().__init__(model, device, precision)
        # The compiled code goes by the size, as the graphs do; with more sizes than these torch lets the size vary.
        self._compiled: Callable[[Batch], Output] = torch.compile(self.model)
        self._graphs: dict[tuple[object, ...], _Graph] = {}

    def __call__(self, batch: Batch) -> Prediction:
        with torch.inference_mode(), computing_in(self.precision, self.device):
            batch = batch.to(self.device)
            if self.device.type != "cuda":
                return self._compiled(batch).last
            key = batch.images.shape, batch.padding is None
            if (graph := self._graphs.get(key)) is not None:
                return graph(batch)
            last = self._compiled(batch).last  # what is done once per size cannot be a part of a graph
            if len(self._graphs) < self.most_graphs:
                self._graphs[key] = _Graph(self._compiled, batch)
            return last


class _Graph:
    """A network's kernels for one size of batch, which a GPU plays again without waiting for Python."""

    def __init__(self, compute: Callable[[Batch], Output], batch: Batch) -> None:
        padding = None if batch.padding is None else batch.padding.clone()
        self.given = Batch(batch.images.clone(), padding)
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch says nothing of it
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            compute(self.given)  # torch asks for a run on the stream that is recorded
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.last = compute(self.given).last

    def __call__(self, batch: Batch) -> Prediction:
        self.given.images.copy_(batch.images)
        if self.given.padding is not None and batch.padding is not None:
            self.given.padding.copy_(batch.padding)
        self.graph.replay()
        return Prediction(self.last.logits.clone(), self.last.boxes.clone())


ENGINES: Mapping[str, type[PlainEngine]] = {"plain": PlainEngine, "fast": FastEngine, "compiled": CompiledEngine}


def fastest(device: torch.device, precision: str) -> EngineName:
    """The engine where none is asked for: the prepared one where that was measured to help."""
    return "fast" if device.type in {"cpu", "cuda"} and precision in {"fp32", "bf16"} else "plain"
