"""Inference models: the plain model with fused operators, which compute the same numbers faster.

Why: on a CPU they halve the time per image, and convolutions are most of it. Without this file the engine `fast`, the
default, and `compiled` compute the plain model; everything else works, slower.

- A convolution takes over the batch norm, the addition and the ReLU that follow it.
- On CPUs, convolutions and linear layers call oneDNN directly, with weights in oneDNN's own layout. These operators are
  private to torch: `can_pack` compares them with torch's public ones, and they are not used if anything differs.
- Attention computes no attention weights, and no mask where none is needed.

Modules are replaced by their type; no architecture is treated specially, and unknown modules stay as they are.
Tests: tests/inference/test_engines.py compares every architecture and the golden values with the plain model.
"""

import copy
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from detrcli.model.attention import MultiheadAttention, additive_mask
from detrcli.model.backbone import Backbone, FrozenBatchNorm2d
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.model.transformer import FeedForward


def fuse(model: DetectionTransformer, dtype: torch.dtype = torch.float32, *, pack: bool = True) -> DetectionTransformer:
    """Return a model for inference that computes what the given one does. They share the weights that stay the same.

    With bfloat16, convolutions, linear layers and attention compute in that type; additions, norms and boxes do not.
    Without `pack` no operator is private to oneDNN, which torch.compile requires.
    """
    packed = pack and can_pack(next(model.parameters()).device, dtype)
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    fused = copy.deepcopy(model, shared).eval()
    if isinstance(fused.backbone, Backbone):  # those of other libraries cannot be replaced
        backbone = fuse_convolutions(fused.backbone, dtype, packed=packed)
        if backbone is not None:
            fused.replace_backbone(backbone)
    _replace_modules(fused, dtype, packed=packed)
    return fused


def _replace_modules(module: nn.Module, dtype: torch.dtype, *, packed: bool) -> None:
    """Replace each submodule that has a faster version."""

    def linear(plain: nn.Linear, *, relu: bool = False) -> FusedLinear:
        return FusedLinear(plain.weight, plain.bias, relu=relu, dtype=dtype, packed=packed)

    for name, child in module.named_children():
        new: nn.Module | None = None
        if type(child) is nn.Conv2d and child.padding_mode == "zeros":
            new = FusedConvolution(child, dtype=dtype, packed=packed)
        elif type(child) is nn.Linear:
            new = linear(child)
        elif type(child) is FeedForward:
            new = nn.Sequential(linear(child.linear1, relu=True), linear(child.linear2))
        elif isinstance(child, nn.MultiheadAttention) and _can_fuse(child):
            new = FusedAttention(child, dtype=dtype, packed=packed)
        elif type(child) in (nn.LayerNorm, nn.GroupNorm) and dtype != torch.float32:
            child.register_forward_pre_hook(lambda _, inputs: inputs[0].float())
        if new is None:
            _replace_modules(child, dtype, packed=packed)
        else:
            setattr(module, name, new)


def _can_fuse(attention: nn.MultiheadAttention) -> bool:
    known = type(attention) in (nn.MultiheadAttention, MultiheadAttention)
    return known and attention.batch_first and attention.in_proj_bias is not None and attention.bias_k is None


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether oneDNN's operators, which are private to torch, exist and compute the right values."""
    onednn: Any = torch.backends.mkldnn
    if device.type != "cpu" or not onednn.is_available() or not onednn.enabled:
        return False
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    try:
        x, weight, bias = (torch.linspace(-1, 1, 8 * 16).view(1, 8, 4, 4), torch.linspace(-1, 1, 64), torch.ones(8))
        conv = nn.Conv2d(8, 8, 1)
        conv.weight, conv.bias = nn.Parameter(weight.view(8, 8, 1, 1)), nn.Parameter(bias)
        expected = F.conv2d(x, conv.weight, bias)
        fused = FusedConvolution(conv, relu=True, dtype=dtype, packed=True)
        linear = FusedLinear(weight.view(8, 8), bias, dtype=dtype, packed=True)
        pairs = (
            (fused(x), expected.relu()),
            (fused(x, x), (expected + x).relu()),
            (linear(x.permute(0, 2, 3, 1)), expected.permute(0, 2, 3, 1)),
        )
        tolerance = 1e-5 if dtype == torch.float32 else 0.1
        return all(torch.allclose(a.float(), b, atol=tolerance) for a, b in pairs)
    except (AttributeError, RuntimeError, TypeError):  # they differ in another version of torch
        return False


class FusedConvolution(nn.Module):
    """A convolution with the operators that follow it: a norm in its weights, the addition of a feature map, a ReLU."""

    def __init__(
        self,
        conv: nn.Conv2d,
        norm: nn.Module | None = None,
        *,
        relu: bool = False,
        dtype: torch.dtype = torch.float32,
        packed: bool = False,
    ) -> None:
        super().__init__()
        weight, bias = folded(conv, norm)
        self.dtype, self.packed, self.relu = dtype, packed, relu
        self.in_place = False  # whether the sum may overwrite the other map, which is not used again
        padding = conv.padding if isinstance(conv.padding, str) else list(conv.padding)
        self.geometry: tuple[Any, ...] = (padding, list(conv.stride), list(conv.dilation), conv.groups)
        self.weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
        self.bias = None if bias is None else bias.to(dtype)
        if packed and dtype == torch.bfloat16:
            # Not in float32, where the best layout for one image size is six times as slow for another.
            self.weight = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self.geometry)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        x = x.to(self.dtype, memory_format=torch.channels_last)
        if other is not None:
            other = other.to(self.dtype, memory_format=torch.channels_last)
        padding, stride, dilation, groups = self.geometry
        if self.packed:
            onednn = torch.ops.mkldnn
            arguments = (self.weight, self.bias, padding, stride, dilation, groups)
            if other is None:
                return onednn._convolution_pointwise.default(x, *arguments, "relu" if self.relu else "none", [], "")
            addition: tuple[Any, ...] = ("add", 1.0, "relu" if self.relu else None, [], None)
            if self.in_place:  # twice as fast
                return onednn._convolution_pointwise_.binary(other, x, *arguments, *addition)
            return onednn._convolution_pointwise.binary(x, other, *arguments, *addition)
        y = F.conv2d(x, self.weight, self.bias, stride, padding, dilation, groups)
        y = y if other is None else y + other
        return y.relu() if self.relu else y


def folded(conv: nn.Conv2d, norm: nn.Module | None) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of a convolution that includes the batch norm after it."""
    weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
    if norm is None:
        return weight, bias
    # In float64, so that folding rounds once.
    statistics = {name: tensor.detach().double() for name, tensor in norm.state_dict().items()}
    gain = statistics["weight"] * (statistics["running_var"] + float(getattr(norm, "eps", 0))).rsqrt()  # (channels,)
    shift = statistics["bias"] - statistics["running_mean"] * gain
    if bias is not None:
        shift = shift + bias.double() * gain
    return (weight.double() * gain[:, None, None, None]).to(weight.dtype), shift.to(weight.dtype)


class FusedLinear(nn.Module):
    """A linear layer, optionally with a ReLU."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, *, relu: bool = False, dtype: torch.dtype, packed: bool
    ) -> None:
        super().__init__()
        self.dtype, self.packed, self.relu = dtype, packed, relu
        self.weight = weight.detach().to(dtype)
        self.bias = None if bias is None else bias.detach().to(dtype)
        if packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.dtype)
        if self.packed:
            operation = torch.ops.mkldnn._linear_pointwise.default
            return operation(x, self.weight, self.bias, "relu" if self.relu else "none", [], "")
        y = F.linear(x, self.weight, self.bias)
        return y.relu() if self.relu else y


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


def fuse_convolutions(backbone: nn.Module, dtype: torch.dtype, *, packed: bool) -> nn.Module | None:
    """Return a backbone whose convolutions include the operators after them; None if it cannot be traced."""
    try:
        graph = _Tracer().trace(backbone)
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError):
        return None
    modules: dict[Any, Any] = dict(backbone.named_modules())  # by a node's target
    traced = fx.GraphModule(backbone, graph)
    for node in graph.nodes:
        if _is(node, modules, nn.Identity):
            node.replace_all_uses_with(node.args[0])
    graph.eliminate_dead_code()
    for number, node in enumerate([node for node in graph.nodes if _is(node, modules, nn.Conv2d)]):
        conv, last, norm, other = modules[node.target], node, None, None
        if conv.padding_mode != "zeros":
            continue
        following = _only_user(last)
        if following is not None and _is_frozen_norm(following, modules):
            norm, last = modules[following.target], following
            following = _only_user(last)
        if following is not None and following.target in _ADDITIONS and len(following.args) == 2:
            others = [summand for summand in following.args if summand is not last]
            if len(others) == 1 and isinstance(others[0], fx.Node):
                other, last = others[0], following
                following = _only_user(last)
        relu = following is not None and _is_relu(following, modules)
        last = following if relu and following is not None else last
        name = f"fused{number}"
        modules[name] = FusedConvolution(conv, norm, relu=relu, dtype=dtype, packed=packed)
        traced.add_module(name, modules[name])
        with graph.inserting_before(last):
            fused = graph.call_module(name, (*node.args, *([other] if other is not None else ())))
        last.replace_all_uses_with(fused)
    graph.eliminate_dead_code()
    order = {node: place for place, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if _is(node, modules, FusedConvolution) and len(node.args) == 2:
            other = node.args[1]
            new = isinstance(other, fx.Node) and _is(other, modules, FusedConvolution)
            modules[node.target].in_place = new and all(order[user] <= order[node] for user in other.users)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


_ADDITIONS: Sequence[Callable[..., Any]] = (operator.add, operator.iadd, torch.add)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, FrozenBatchNorm2d) or super().is_leaf_module(module, name)


def _is(node: fx.Node, modules: dict[Any, Any], *types: type[nn.Module]) -> bool:
    return node.op == "call_module" and type(modules[node.target]) in types


def _is_frozen_norm(node: fx.Node, modules: dict[Any, Any]) -> bool:
    """Return whether a node is a batch norm with fixed statistics."""
    return _is(node, modules, nn.BatchNorm2d, FrozenBatchNorm2d) and (
        modules[node.target].state_dict().keys() >= {"weight", "bias", "running_mean", "running_var"}
    )


def _is_relu(node: fx.Node, modules: dict[Any, Any]) -> bool:
    method = node.op == "call_method" and node.target == "relu"
    return method or _is(node, modules, nn.ReLU) or node.target in (torch.relu, F.relu)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None
