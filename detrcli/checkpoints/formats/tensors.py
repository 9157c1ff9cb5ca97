"""What is taken for a tensor from files of others, before anything asks for its rows or builds a model of it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from detrcli.errors import WeightsError

KINDS = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool}
    | {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}
)


def tensors_in(found: Mapping[Any, Any], source: str) -> dict[str, Tensor]:
    """The tensors of a state dict by their names; a WeightsError for one that is no plain block of numbers."""
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise WeightsError(
                f"{source}: a tensor has the name {name!r:.40}, which is no word.\n"
                "Save the model's state_dict(), whose names are words."
            )
        if wrong := _wrong(tensor):
            raise WeightsError(
                f"{source}: the tensor {name:.80} {wrong}.\n"
                "Save the model's state_dict() in float32, float16 or bfloat16, on the CPU."
            )
    return tensors


def _wrong(tensor: Tensor) -> str | None:
    if tensor.layout != torch.strided or tensor.is_nested:
        return "is sparse or nested"
    if tensor.is_quantized or tensor.dtype not in KINDS:
        return f"is of {str(tensor.dtype).removeprefix('torch.')}"
    if tensor.device.type != "cpu":
        return f"is on the device {tensor.device.type}, without its numbers"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        # A stride of 0 makes billions of rows of one.
        return f"has {tensor.numel():,} numbers, and the file holds fewer"
    return None
