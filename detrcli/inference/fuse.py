"""Faster inference: the plain model with fused operators, which compute the same.

On a CPU they halve the time per image, most of which is spent in convolutions. Without this file, the engines `fast`
(the default) and `compiled` would compute the plain model; everything else would work, only slower.

- A convolution includes the batch norm, the addition and the ReLU that follow it.
- On CPUs, convolutions and linear layers call oneDNN directly, with weights in oneDNN's own layout. These operators are
  private to torch: `can_pack` compares them with torch's public ones, and they are not used if anything differs.
- Attention computes no attention weights, and no mask where none is needed.

Modules are replaced according to their type. No architecture is a special case, and other modules stay as they are.
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
    """Return an inference model that computes the same as the given one. Weights that do not change are shared.

    With bfloat16, convolutions, linear layers and attention compute in that type; additions, norms and boxes do not.
    Without `pack`, only torch's public operators are used, as torch.compile requires.
    """
    packed = pack and can_pack(next(model.parameters()).device, dtype)
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    fused = copy.deepcopy(model, shared).eval()
    if isinstance(fused.backbone, Backbone):  # backbones of other libraries cannot be replaced
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
    except (AttributeError, RuntimeError, TypeError):  # this version of torch has other operators
        return False


class FusedConvolution(nn.Module):
    """relu(norm(conv(x)) + addend): the norm is folded into the weights; addition and ReLU are optional."""

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
        self.in_place = False  # whether the sum may overwrite the addend, which is not used again
        padding = conv.padding if isinstance(conv.padding, str) else list(conv.padding)
        self.geometry: tuple[Any, ...] = (padding, list(conv.stride), list(conv.dilation), conv.groups)
        self.weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
        self.bias = None if bias is None else bias.to(dtype)
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
                return onednn._convolution_pointwise.default(x, *arguments, "relu" if self.relu else "none", [], "")
            addition: tuple[Any, ...] = ("add", 1.0, "relu" if self.relu else None, [], None)  # 1.0: weight of addend
            if self.in_place:  # twice as fast
                return onednn._convolution_pointwise_.binary(addend, x, *arguments, *addition)
            return onednn._convolution_pointwise.binary(x, addend, *arguments, *addition)
        y = F.conv2d(x, self.weight, self.bias, stride, padding, dilation, groups)
        y = y if addend is None else y + addend
        return y.relu() if self.relu else y


def folded(conv: nn.Conv2d, norm: nn.Module | None) -> tuple[Tensor, Tensor | None]:
    """Return the weight and bias of a convolution with the batch norm after it folded in."""
    weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
    if norm is None:
        return weight, bias
    # In float64, so that the result is rounded only once.
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
    """Return a backbone of FusedConvolutions, rewritten from its traced graph; None if it cannot be traced."""
    try:
        graph = _Tracer().trace(backbone)
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError):
        return None
    modules: dict[Any, Any] = dict(backbone.named_modules())  # the target of a node is the name of its module
    traced = fx.GraphModule(backbone, graph)
    for node in graph.nodes:
        if _calls(node, modules, nn.Identity):
            node.replace_all_uses_with(node.args[0])
    graph.eliminate_dead_code()
    for number, node in enumerate([node for node in graph.nodes if _calls(node, modules, nn.Conv2d)]):
        # `last` is the last node of the chain to be replaced.
        conv, last, norm, addend = modules[node.target], node, None, None
        if conv.padding_mode != "zeros":
            continue
        following = _only_user(last)
        if following is not None and _is_frozen_norm(following, modules):
            norm, last = modules[following.target], following
            following = _only_user(last)
        plain = following is not None and len(following.args) == 2 and not following.kwargs  # no alpha, no out
        if following is not None and following.target in _ADDITIONS and plain:
            others = [summand for summand in following.args if summand is not last]
            if len(others) == 1 and isinstance(others[0], fx.Node):
                addend, last = others[0], following
                following = _only_user(last)
        relu = following is not None and _is_relu(following, modules)
        last = following if relu and following is not None else last
        name = f"fused{number}"
        modules[name] = FusedConvolution(conv, norm, relu=relu, dtype=dtype, packed=packed)
        traced.add_module(name, modules[name])
        with graph.inserting_before(last):
            fused = graph.call_module(name, (*node.args, *([addend] if addend is not None else ())))
        last.replace_all_uses_with(fused)
    graph.eliminate_dead_code()
    # An addend may be overwritten if a fused convolution has computed it and no later node uses it.
    order = {node: position for position, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if _calls(node, modules, FusedConvolution) and len(node.args) == 2:
            addend = node.args[1]
            computed = isinstance(addend, fx.Node) and _calls(addend, modules, FusedConvolution)
            modules[node.target].in_place = computed and all(order[user] <= order[node] for user in addend.users)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


_ADDITIONS: Sequence[Callable[..., Any]] = (operator.add, operator.iadd, torch.add)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, FrozenBatchNorm2d) or super().is_leaf_module(module, name)


def _calls(node: fx.Node, modules: dict[Any, Any], *types: type[nn.Module]) -> bool:
    """Return whether a node calls a module of one of these types."""
    return node.op == "call_module" and type(modules[node.target]) in types


def _is_frozen_norm(node: fx.Node, modules: dict[Any, Any]) -> bool:
    """Return whether a node is a batch norm with fixed statistics."""
    return _calls(node, modules, nn.BatchNorm2d, FrozenBatchNorm2d) and (
        modules[node.target].state_dict().keys() >= {"weight", "bias", "running_mean", "running_var"}
    )


def _is_relu(node: fx.Node, modules: dict[Any, Any]) -> bool:
    method = node.op == "call_method" and node.target == "relu"
    return method or _calls(node, modules, nn.ReLU) or node.target in (torch.relu, F.relu)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None
