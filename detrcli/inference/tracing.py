"""Networks as programs of torch.export, for a variable number of images and, where the model allows it, any size."""

import builtins
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.errors import UsageError
from detrcli.inference.postprocessing import WithPostprocessing
from detrcli.inference.verification import input_sizes, mask_logits
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.structures import Batch


class LastLayer(nn.Module):
    """A model as a function of tensors: images (B, 3, H, W) to logits (B, Q, R), boxes (B, Q, 4) and mask logits.

    The mask logits (B, Q, h, w), of all queries, exist if the model has masks: maps need them all.
    """

    def __init__(self, model: DetectionTransformer, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model.to(dtype)
        self.dtype = dtype

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        last = self.model(Batch(images.to(self.dtype), None)).last
        outputs = last.logits.float(), last.boxes.float()
        return outputs if last.masks is None else (*outputs, mask_logits(last))


def trace(
    checkpoint: Checkpoint, dtype: torch.dtype = torch.float32, *, single: bool = False, postprocessing: bool = False
) -> Any:
    """Return the network as a torch.export.ExportedProgram. Raises UsageError if it cannot be exported.

    With `single` it takes one image of the first of the input sizes. `postprocessing` is part of the program.
    """
    model = checkpoint.model()
    reason = model.not_exportable
    if model.has_masks and postprocessing:
        reason = "a model with masks cannot be exported with postprocessing"
    if reason is not None:
        raise UsageError(f"{checkpoint.source}: {reason}. The engines `fast` and `plain` compute this model.")
    model.prepare_tracing()
    sizes = input_sizes(checkpoint)
    height, width = sizes[0]
    network: nn.Module = LastLayer(model, dtype)
    # Torch and OpenVINO's converter compare strides of the traced tensors, and equality fixes the number of images:
    # with 2 images, a batch of C channels has the stride of a half of 2 C channels. 13 is no factor of usual widths.
    count, variable = (1, {}) if single else (13, {0: torch.export.Dim.AUTO})
    if len(sizes) > 1 and not single:
        # Large enough that no feature map has an axis of length 1, which torch.export takes as constant.
        height, width = max(height, 320), max(width, 448)
        variable |= {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    inputs, dynamic = [torch.zeros(count, 3, height, width)], [variable]
    if postprocessing:
        network = WithPostprocessing(network, checkpoint.scoring, clip=checkpoint.clips_boxes)
        inputs.append(torch.tensor([[float(height), float(width)]]).repeat(count, 1))
        dynamic.append({axis: size for axis, size in variable.items() if axis == 0})
    with torch.no_grad(), _symbolic_length(model), _Replacements():
        program = torch.export.export(network, tuple(inputs), dynamic_shapes=tuple(dynamic))
    graph = program.graph_module.graph
    for node in list(graph.nodes):  # assertions about the network's own values; runtimes cannot compute them
        if str(node.target).startswith(("aten._assert", "aten.sym_constrain")):
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


@contextmanager
def _symbolic_length(model: nn.Module) -> Iterator[None]:
    """Let `len(tensor)` in the modules of networks return a symbol, where the builtin would fix the batch size."""
    names = {type(module).__module__ for module in model.modules()}
    modules = [vars(sys.modules[name]) for name in names if name.startswith(("transformers.", "detrcli."))]
    for module in modules:
        module["len"] = lambda x: x.shape[0] if isinstance(x, Tensor) else builtins.len(x)
    try:
        yield
    finally:
        for module in modules:
            del module["len"]


def _linspace(start: float, end: Any, steps: Any, **options: Any) -> Tensor:
    """Compute `torch.linspace` for a variable number of steps, which runtimes do not convert, if their length is 1."""
    if isinstance(steps, torch.SymInt):
        traced: Any = [value.node.hint for value in (end, steps)]
        assert traced[0] - start == traced[1] - 1
        return torch.arange(steps, **options) + start
    return torch.linspace(start, end, steps, **options)


def _as_tensor(data: Any, **options: Any) -> Tensor:
    """Compute `torch.as_tensor`, which fixes the sizes in lists, and keep them variable."""
    if isinstance(data, torch.SymInt):
        return torch.scalar_tensor(data, **options)
    if isinstance(data, list | tuple) and any(isinstance(part, torch.SymInt | list | tuple) for part in data):
        return torch.stack([_as_tensor(part, **options) for part in data])
    return torch.as_tensor(data, **options)


def _prefixes(rows: Tensor) -> Tensor:
    """Return the first 1 to T elements of rows (B, T), filled up with the first, (B, T, T)."""
    later = torch.ones(rows.shape[1], rows.shape[1], dtype=torch.bool).triu(1)
    return torch.where(later, rows[:, :1, None], rows[:, None])


class _Replacements(TorchFunctionMode):
    """Replaces functions that fix sizes, or that runtimes cannot compute, during tracing."""

    functions: Mapping[Any, Any] = {
        torch.linspace: _linspace,
        torch.as_tensor: _as_tensor,
        torch.cummax: lambda rows, dim: (_prefixes(rows).amax(-1), None),
        torch.cummin: lambda rows, dim: (_prefixes(rows).amin(-1), None),
    }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.functions.get(func, func)(*args, **(kwargs or {}))
