"""Layers for inference that do the work of several modules in a single operator.

On CPUs, convolutions and linear layers call oneDNN directly, with weights in oneDNN's own layout. These operators are
private to torch: `can_pack` compares them with torch's public ones, and they are not used if anything differs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrcli.model.attention import additive_mask

Activation = Literal["none", "relu", "silu", "gelu"]
ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "silu": F.silu,
    "gelu": F.gelu,
}
# Arguments of oneDNN's operators: name, scalars, variant.
_ONEDNN: Mapping[Activation, tuple[Any, ...]] = {
    "none": ("none", [], ""),
    "relu": ("relu", [], ""),
    "silu": ("swish", [], ""),
    "gelu": ("gelu", [], "none"),
}


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether oneDNN's operators, which are private to torch, exist and compute the right values."""
    onednn: Any = torch.backends.mkldnn
    if device.type != "cpu" or not onednn.is_available() or not onednn.enabled:
        return False
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    try:
        x, weight, bias = (torch.linspace(-1, 1, 8 * 16).view(1, 8, 4, 4), torch.linspace(-1, 1, 64), torch.ones(8))
        kernel = Kernel(weight.view(8, 8, 1, 1), bias, (0, 0), (1, 1), (1, 1), 1)
        expected = F.conv2d(x, kernel.weight, bias)
        pairs = []
        for activation, function in ACTIVATIONS.items():
            fused = FusedConvolution(kernel, activation, dtype=dtype, packed=True)
            linear = FusedLinear(weight.view(8, 8), bias, activation, dtype=dtype, packed=True)
            pairs += [(fused(x), function(expected)), (linear(x.movedim(1, 3)), function(expected.movedim(1, 3)))]
        fused = FusedConvolution(kernel, "relu", dtype=dtype, packed=True)
        pairs.append((fused(x, x), (expected + x).relu()))
        tolerance = 1e-5 if dtype == torch.float32 else 0.1
        return all(torch.allclose(a.float(), b, atol=tolerance) for a, b in pairs)
    except (AttributeError, RuntimeError, TypeError):  # this version of torch has other operators
        return False


@dataclass(frozen=True)
class Kernel:
    """A convolution: its weight (out, in / groups, h, w), and how the weight is applied."""

    weight: Tensor
    bias: Tensor | None
    padding: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, conv: nn.Conv2d, norm: nn.Module | None = None) -> "Kernel":
        """Return the convolution with the batch norm after it folded in."""
        weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
        if norm is not None:
            # In float64, so that the result is rounded only once.
            statistics = {name: tensor.detach().double() for name, tensor in norm.state_dict().items()}
            variance = statistics["running_var"] + float(getattr(norm, "eps", 1e-5))  # 1e-5 in transformers
            gain = statistics["weight"] * variance.rsqrt()  # (channels,)
            shift = statistics["bias"] - statistics["running_mean"] * gain
            if bias is not None:
                shift = shift + bias.double() * gain
            weight = (weight.double() * gain[:, None, None, None]).to(weight.dtype)
            bias = shift.to(weight.dtype)
        padding = conv.padding
        if isinstance(padding, str):
            reach = zip(conv.dilation, conv.kernel_size, strict=True)
            padding = (0, 0) if padding == "valid" else tuple(d * (side - 1) // 2 for d, side in reach)
        return cls(weight, bias, tuple(padding), conv.stride, conv.dilation, conv.groups)

    def __add__(self, other: "Kernel") -> "Kernel | None":
        """Return the convolution that computes the sum of both on the same input; None if no convolution does."""
        large, small = sorted((self, other), key=lambda kernel: -kernel.weight[0, 0].numel())
        ring = [(a - b) // 2 for a, b in zip(large.weight.shape[2:], small.weight.shape[2:], strict=True)]
        same = (large.stride, large.dilation, large.groups) == (small.stride, small.dilation, small.groups)
        centered = all(
            a - b == 2 * c and p - q == c * d and c >= 0
            for a, b, p, q, c, d in zip(
                large.weight.shape[2:], small.weight.shape[2:], large.padding, small.padding, ring, large.dilation,
                strict=True,
            )
        )  # fmt: skip
        if not (same and centered and large.weight.shape[:2] == small.weight.shape[:2]):
            return None
        weight = large.weight + F.pad(small.weight, (ring[1], ring[1], ring[0], ring[0]))
        biases = [kernel.bias for kernel in (large, small) if kernel.bias is not None]
        bias = torch.stack(biases).sum(0) if biases else None
        return Kernel(weight, bias, large.padding, large.stride, large.dilation, large.groups)


def can_fuse(conv: nn.Conv2d) -> bool:
    """Return whether a convolution can be a Kernel, whose padding is zeros and equal on both sides."""
    symmetric = conv.padding != "same" or all(side % 2 for side in conv.kernel_size)
    return conv.padding_mode == "zeros" and symmetric


class FusedConvolution(nn.Module):
    """activation(conv(x) + addend). With an addend, the activation is ReLU or none."""

    def __init__(
        self,
        kernel: Kernel,
        activation: Activation = "none",
        *,
        dtype: torch.dtype = torch.float32,
        packed: bool = False,
    ) -> None:
        super().__init__()
        self.dtype, self.packed, self.activation = dtype, packed, activation
        self.in_place = False  # whether the sum may overwrite the addend, which is not used again
        self.geometry = (list(kernel.padding), list(kernel.stride), list(kernel.dilation), kernel.groups)
        self.weight = kernel.weight.to(dtype).contiguous(memory_format=torch.channels_last)
        self.bias = None if kernel.bias is None else kernel.bias.to(dtype)
        if packed and dtype == torch.bfloat16:
            # Not in float32, where the best layout for one image size is six times as slow for another.
            self.weight = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self.geometry)

    def forward(self, x: Tensor, addend: Tensor | None = None) -> Tensor:
        x = x.to(self.dtype, memory_format=torch.channels_last)
        if addend is not None:
            addend = addend.to(self.dtype, memory_format=torch.channels_last)
        padding, stride, dilation, groups = self.geometry
        if self.packed:
            onednn = torch.ops.mkldnn
            arguments = (self.weight, self.bias, padding, stride, dilation, groups)
            if addend is None:
                return onednn._convolution_pointwise.default(x, *arguments, *_ONEDNN[self.activation])
            relu = "relu" if self.activation == "relu" else None
            addition: tuple[Any, ...] = ("add", 1.0, relu, [], None)  # 1.0: weight of addend
            if self.in_place:  # twice as fast
                return onednn._convolution_pointwise_.binary(addend, x, *arguments, *addition)
            return onednn._convolution_pointwise.binary(x, addend, *arguments, *addition)
        y = F.conv2d(x, self.weight, self.bias, stride, padding, dilation, groups)
        return ACTIVATIONS[self.activation](y if addend is None else y + addend)


class FusedLinear(nn.Module):
    """A linear layer, optionally with an activation."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        activation: Activation = "none",
        *,
        dtype: torch.dtype,
        packed: bool,
    ) -> None:
        super().__init__()
        self.dtype, self.packed, self.activation = dtype, packed, activation
        self.weight = weight.detach().to(dtype)
        self.bias = None if bias is None else bias.detach().to(dtype)
        if packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.dtype)
        if self.packed:
            operation = torch.ops.mkldnn._linear_pointwise.default
            return operation(x, self.weight, self.bias, *_ONEDNN[self.activation])
        return ACTIVATIONS[self.activation](F.linear(x, self.weight, self.bias))


class FusedAttention(nn.Module):
    """Multi-head attention without attention weights."""

    def __init__(self, plain: nn.MultiheadAttention, *, dtype: torch.dtype, packed: bool) -> None:
        super().__init__()
        self.heads = plain.num_heads
        weights = (*plain.in_proj_weight.chunk(3), plain.out_proj.weight)
        biases = (*plain.in_proj_bias.chunk(3), plain.out_proj.bias)
        self.query, self.key, self.value, self.out = (
            FusedLinear(weight, bias, dtype=dtype, packed=packed) for weight, bias in zip(weights, biases, strict=True)
        )

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Attend from queries (B, Q, C) to keys and values (B, S, C), with masks as in torch."""
        assert not need_weights, "only the plain model returns attention weights"
        q, k, v = (
            layer(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2)  # (B, heads, Q or S, C / heads)
            for layer, x in ((self.query, query), (self.key, key), (self.value, value))
        )
        mask = additive_mask(key_padding_mask, attn_mask, q)
        y = F.scaled_dot_product_attention(q, k, v, mask)  # (B, heads, Q, C / heads)
        return self.out(y.transpose(1, 2).flatten(2)), None
