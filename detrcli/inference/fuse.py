"""The plain model made ready for inference: the same numbers, computed by fewer and faster operators.

- A convolution takes the norm behind it into its weights, and computes the sum and the ReLU that follow at once.
- Where oneDNN computes (CPUs), convolutions and linear layers call it directly, their weights laid out for it once.
- Attention does not ask what it is not asked for: no weights, no mask.

All of it goes by the kind of a module: no member of the family is known here, and what is not known stays as it is.
"""

import copy
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from detrcli.model.attention import MultiheadAttention, additive
from detrcli.model.backbone import Backbone, FrozenBatchNorm2d
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.model.transformer import FeedForward


def fuse(model: DetectionTransformer, dtype: torch.dtype = torch.float32, *, pack: bool = True) -> DetectionTransformer:
    """A model for inference that says what the given one says; they share the weights that stay as they are.

    With `dtype` bfloat16 convolutions, linear layers and attention compute in that; sums, norms and boxes do not.
    Without `pack` nothing is private to oneDNN, as a compiler wants it.
    """
    packed = pack and can_pack(next(model.parameters()).device, dtype)
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    fused = copy.deepcopy(model, shared).eval()
    ours = isinstance(fused.backbone, Backbone)  # others' cannot be put another in place of
    backbone = fuse_convolutions(fused.backbone, dtype, packed=packed) if ours else None
    if backbone is not None:
        fused.replace_backbone(backbone)
    _replace(fused, dtype, packed=packed)
    return fused


def _replace(module: nn.Module, dtype: torch.dtype, *, packed: bool) -> None:
    """Put a faster module in place of each that has one, whatever holds it."""
    for name, child in module.named_children():
        new: nn.Module | None = None
        if type(child) is nn.Conv2d and child.padding_mode == "zeros":
            new = FusedConvolution(child, dtype=dtype, packed=packed)
        elif type(child) is nn.Linear:
            new = FusedLinear(child.weight, child.bias, dtype=dtype, packed=packed)
        elif type(child) is FeedForward:
            new = FusedFeedForward(child, dtype=dtype, packed=packed)
        elif isinstance(child, nn.MultiheadAttention) and FusedAttention.can(child):
            new = FusedAttention(child, dtype=dtype, packed=packed)
        elif type(child) is nn.LayerNorm and dtype != torch.float32:
            new = _Float32LayerNorm(child)
        elif type(child) is nn.GroupNorm and dtype != torch.float32:
            new = _Float32GroupNorm(child)
        if new is None:
            _replace(child, dtype, packed=packed)
        else:
            setattr(module, name, new)


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN's own operators are there and compute what they should: they are private to torch."""
    onednn: Any = torch.backends.mkldnn
    if device.type != "cpu" or not onednn.is_available() or not onednn.enabled:
        return False
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    try:
        x, weight, bias = (torch.linspace(-1, 1, 8 * 16).view(1, 8, 4, 4), torch.linspace(-1, 1, 64), torch.ones(8))
        conv = nn.Conv2d(8, 8, 1)
        conv.weight, conv.bias = nn.Parameter(weight.view(8, 8, 1, 1)), nn.Parameter(bias)
        wanted = F.conv2d(x, conv.weight, bias)
        found = (
            FusedConvolution(conv, relu=True, dtype=dtype, packed=True)(x),
            FusedConvolution(conv, relu=True, dtype=dtype, packed=True)(x, x),
            FusedLinear(weight.view(8, 8), bias, dtype=dtype, packed=True)(x.permute(0, 2, 3, 1)),
        )
        right = (wanted.relu(), (wanted + x).relu(), wanted.permute(0, 2, 3, 1))
        tolerance = 1e-5 if dtype == torch.float32 else 0.1
        return all(torch.allclose(a.float(), b, atol=tolerance) for a, b in zip(found, right, strict=True))
    except (AttributeError, RuntimeError, TypeError):  # another version of torch has them otherwise
        return False


class FusedConvolution(nn.Module):
    """A convolution with what follows it: a norm in its weights, another map to add, a ReLU."""

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
        self.in_place = False  # whether the other map, which nobody needs any more, takes the sum
        self.where = (_pair(conv.padding), _pair(conv.stride), _pair(conv.dilation), conv.groups)
        self.weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
        self.bias = None if bias is None else bias.to(dtype)
        if packed and dtype == torch.bfloat16:
            # In float32 the layout that is best for one size of picture takes six times as long for another.
            self.weight = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self.where)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        x = x.to(self.dtype, memory_format=torch.channels_last)
        padding, stride, dilation, groups = self.where
        if other is not None:
            other = other.to(self.dtype, memory_format=torch.channels_last)
        if self.packed:
            onednn = torch.ops.mkldnn
            given = (self.weight, self.bias, padding, stride, dilation, groups)
            if other is None:
                return onednn._convolution_pointwise.default(x, *given, "relu" if self.relu else "none", [], "")
            then: tuple[Any, ...] = ("add", 1.0, "relu" if self.relu else None, [], None)
            if self.in_place:  # twice as fast
                return onednn._convolution_pointwise_.binary(other, x, *given, *then)
            return onednn._convolution_pointwise.binary(x, other, *given, *then)
        y = F.conv2d(x, self.weight, self.bias, stride, padding, dilation, groups)
        y = y if other is None else y + other
        return y.relu() if self.relu else y


def folded(conv: nn.Conv2d, norm: nn.Module | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of one convolution that does what a convolution and the norm behind it do."""
    weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
    if norm is None:
        return weight, bias
    # In float64, so that folding rounds once.
    kept = {name: tensor.detach().double() for name, tensor in norm.state_dict().items()}
    gain = kept["weight"] * (kept["running_var"] + float(getattr(norm, "eps", 0))).rsqrt()  # (channels,)
    shift = kept["bias"] - kept["running_mean"] * gain
    if bias is not None:
        shift = shift + bias.double() * gain
    return (weight.double() * gain[:, None, None, None]).to(weight.dtype), shift.to(weight.dtype)


class FusedLinear(nn.Module):
    """A linear layer, with a ReLU if wanted."""

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
        """(..., in) to (..., out)."""
        x = x.to(self.dtype)
        if self.packed:
            operation = torch.ops.mkldnn._linear_pointwise.default
            return operation(x, self.weight, self.bias, "relu" if self.relu else "none", [], "")
        y = F.linear(x, self.weight, self.bias)
        return y.relu() if self.relu else y


class FusedFeedForward(nn.Module):
    def __init__(self, plain: FeedForward, *, dtype: torch.dtype, packed: bool) -> None:
        super().__init__()
        first, second = plain.linear1, plain.linear2
        self.linear1 = FusedLinear(first.weight, first.bias, relu=True, dtype=dtype, packed=packed)
        self.linear2 = FusedLinear(second.weight, second.bias, dtype=dtype, packed=packed)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.linear1(x))


class _Float32LayerNorm(nn.LayerNorm):
    """Still a norm for whoever asks for its weight."""

    def __init__(self, plain: nn.LayerNorm) -> None:
        super().__init__(plain.normalized_shape, plain.eps, device="meta")
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.float())


class _Float32GroupNorm(nn.GroupNorm):
    def __init__(self, plain: nn.GroupNorm) -> None:
        super().__init__(plain.num_groups, plain.num_channels, plain.eps, device="meta")
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.float())


class FusedAttention(nn.Module):
    """Multi-head attention that is asked for what it gathers alone."""

    def __init__(self, plain: nn.MultiheadAttention, *, dtype: torch.dtype, packed: bool) -> None:
        super().__init__()
        self.heads = plain.num_heads
        weights, biases = plain.in_proj_weight.chunk(3), plain.in_proj_bias.chunk(3)
        self.query, self.key, self.value, self.out = (
            FusedLinear(weight, bias, dtype=dtype, packed=packed)
            for weight, bias in (*zip(weights, biases, strict=True), (plain.out_proj.weight, plain.out_proj.bias))
        )

    @staticmethod
    def can(plain: nn.MultiheadAttention) -> bool:
        """Whether it is of the kind that is computed here."""
        known = type(plain) in (nn.MultiheadAttention, MultiheadAttention)
        return known and plain.batch_first and plain.in_proj_bias is not None and plain.bias_k is None

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Queries (B, Q, C) over keys and values (B, S, C), masks as torch has them, True where nobody looks."""
        assert not need_weights, "weights are for those who look inside, at the plain model"
        q, k, v = (
            layer(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2)  # (B, heads, Q or S, C / heads)
            for layer, x in ((self.query, query), (self.key, key), (self.value, value))
        )
        mask = additive(key_padding_mask, attn_mask, q)
        gathered = F.scaled_dot_product_attention(q, k, v, mask)  # (B, heads, Q, C / heads)
        return self.out(gathered.transpose(1, 2).flatten(2)), None


def fuse_convolutions(backbone: nn.Module, dtype: torch.dtype, *, packed: bool) -> nn.Module | None:
    """A backbone with each convolution fused with what follows it; None where its way depends on the picture."""
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
    for number, node in enumerate([one for one in graph.nodes if _is(one, modules, nn.Conv2d)]):
        conv, end, norm, other = modules[node.target], node, None, None
        if conv.padding_mode != "zeros":
            continue
        following = _only_user(end)
        if following is not None and _is_frozen_norm(following, modules):
            norm, end = modules[following.target], following
            following = _only_user(end)
        if following is not None and following.target in _ADDITIONS and len(following.args) == 2:
            others = [one for one in following.args if one is not end]
            if len(others) == 1 and isinstance(others[0], fx.Node):
                other, end = others[0], following
                following = _only_user(end)
        relu = following is not None and _is_relu(following, modules)
        end = following if relu and following is not None else end
        name = f"fused{number}"
        modules[name] = FusedConvolution(conv, norm, relu=relu, dtype=dtype, packed=packed)
        traced.add_module(name, modules[name])
        with graph.inserting_before(end):
            fused = graph.call_module(name, (*node.args, *([other] if other is not None else ())))
        end.replace_all_uses_with(fused)
    graph.eliminate_dead_code()
    order = {node: place for place, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if not _is(node, modules, FusedConvolution) or len(node.args) < 2:
            continue
        other = node.args[1]
        fresh = isinstance(other, fx.Node) and _is(other, modules, FusedConvolution)
        modules[node.target].in_place = fresh and all(order[user] <= order[node] for user in other.users)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


_ADDITIONS: Sequence[Callable[..., Any]] = (operator.add, operator.iadd, torch.add)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, FrozenBatchNorm2d) or super().is_leaf_module(module, name)


def _is(node: fx.Node, modules: dict[Any, Any], *kinds: type[nn.Module]) -> bool:
    return node.op == "call_module" and type(modules[node.target]) in kinds


def _is_frozen_norm(node: fx.Node, modules: dict[Any, Any]) -> bool:
    """Whether it scales and shifts by numbers that are known."""
    return _is(node, modules, nn.BatchNorm2d, FrozenBatchNorm2d) and (
        modules[node.target].state_dict().keys() >= {"weight", "bias", "running_mean", "running_var"}
    )


def _is_relu(node: fx.Node, modules: dict[Any, Any]) -> bool:
    return (
        _is(node, modules, nn.ReLU)
        or (node.op == "call_method" and node.target == "relu")
        or node.target in (torch.relu, F.relu)
    )


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _pair(value: int | str | tuple[int, ...]) -> Any:
    return list(value) if isinstance(value, tuple) else value
