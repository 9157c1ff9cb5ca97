"""Engines: ways to run a network, from a batch to the predictions of the last decoder layer.

The plain engine runs the model itself. The others are faster; in float32 their results differ by less than 1e-4.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from detrcli.errors import UsageError
from detrcli.inference import EngineName
from detrcli.inference.fuse import fuse
from detrcli.messages import argument
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.structures import Batch, Output, Prediction
from detrcli.system.devices import PRECISIONS, computing_in

Engine = Callable[[Batch], Prediction]  # without gradients


@dataclass
class PlainEngine:
    """The model as it is."""

    model: DetectionTransformer
    device: torch.device
    precision: str = "fp32"

    def __call__(self, batch: Batch) -> Prediction:
        with torch.inference_mode(), computing_in(self.precision, self.device):
            return self.model(batch.to(self.device)).last


class FastEngine(PlainEngine):
    """The model with fused operators, made from its current weights."""

    packs = True  # whether weights are packed into oneDNN's layout on a CPU

    def __init__(self, model: DetectionTransformer, device: torch.device, precision: str = "fp32") -> None:
        if device.type == "cpu" and precision == "fp16":
            raise UsageError(
                f"{argument('engine', 'fast')} computes in fp32 or bf16 on a CPU. "
                f"Use {argument('engine', 'plain')} for fp16."
            )
        if precision == "fp32" or device.type not in {"cpu", "cuda"}:
            super().__init__(fuse(model, pack=self.packs), device, precision)
        elif model.casts_by_layer:  # runs in the precision without autocast, which would insert more casts
            super().__init__(fuse(model, PRECISIONS[precision], pack=self.packs), device)
        else:
            super().__init__(model, device, precision)


class CompiledEngine(FastEngine):
    """The fused model through torch.compile. On a GPU, each input size is captured as a CUDA graph."""

    packs = False
    max_graphs = 16  # each holds its inputs, outputs and intermediate tensors

    def __init__(self, model: DetectionTransformer, device: torch.device, precision: str = "fp32") -> None:
        if model.has_masks:
            raise UsageError(
                f"{argument('engine', 'compiled')} does not support mask heads. "
                f"Use {argument('engine', 'fast')} or {argument('engine', 'plain')}."
            )
        super().__init__(model, device, precision)
        # torch.compile specializes on input sizes, as graphs do, and compiles for any size once there are too many.
        self._compiled: Callable[[Batch], Output] = torch.compile(self.model)
        self._graphs: dict[tuple[object, ...], Engine] = {}

    def __call__(self, batch: Batch) -> Prediction:
        with torch.inference_mode(), computing_in(self.precision, self.device):
            batch = batch.to(self.device)
            if self.device.type != "cuda":
                return self._compiled(batch).last
            key = batch.images.shape, batch.padding is None
            if (graph := self._graphs.get(key)) is not None:
                return graph(batch)
            last = self._compiled(batch).last  # may compile, which a graph cannot capture
            if len(self._graphs) < self.max_graphs:
                self._graphs[key] = _capture(self._compiled, batch)
            return last


def _capture(compute: Callable[[Batch], Output], batch: Batch) -> Engine:
    """Capture the kernels of a network for one input size as a CUDA graph. Return an engine that replays it."""
    static = Batch(batch.images.clone(), None if batch.padding is None else batch.padding.clone())
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # untyped in torch
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        compute(static)  # torch requires a run on a side stream before the capture
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        last = compute(static).last

    def replay(batch: Batch) -> Prediction:
        static.images.copy_(batch.images)
        if static.padding is not None and batch.padding is not None:
            static.padding.copy_(batch.padding)
        graph.replay()
        return Prediction(last.logits.clone(), last.boxes.clone())

    return replay


ENGINES: Mapping[str, type[PlainEngine]] = {"plain": PlainEngine, "fast": FastEngine, "compiled": CompiledEngine}


def fastest(device: torch.device, precision: str) -> EngineName:
    """Return the default engine: the fast one where it was measured to help."""
    return "fast" if device.type in {"cpu", "cuda"} and precision in {"fp32", "bf16"} else "plain"
